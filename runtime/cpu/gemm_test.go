package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// eachVariant runs f under every variant this machine has.
func eachVariant(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	before := active
	defer func() { active = before }()
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			active = v
			f(t)
		})
	}
}

// poisonedScratch returns working memory that holds NaN.
func poisonedScratch() *scratch {
	s := newScratch()
	poisonScratch(s)
	return s
}

func poisonScratch(s *scratch) {
	for _, x := range [][]float32{s.packA, s.packB, s.tile, s.floats(cap(s.own))} {
		fill(x, nan)
	}
}

// checkProduct fails unless got = alpha*op(a)*op(b) + beta*c within the rounding of a float32 sum, and unless what
// lies beside got is still NaN.
func checkProduct(t *testing.T, got, a, b, c Mat, transA, transB bool, alpha, beta float64) {
	t.Helper()
	k := a.Cols
	if transA {
		k = a.Rows
	}
	ao, bo := operand{a, !transA}, operand{b, transB}
	for i := range got.Rows {
		for j := range got.Cols {
			var sum, size float64
			for l := range k {
				p := float64(a.Data[ao.at(i, l)]) * float64(b.Data[bo.at(j, l)])
				sum += p
				size += math.Abs(p)
			}
			sum *= alpha
			size *= math.Abs(alpha)
			if beta != 0 {
				old := beta * float64(c.Row(i)[j])
				sum += old
				size += math.Abs(old)
			}
			v := float64(got.Row(i)[j])
			if !(math.Abs(v-sum) <= float64(k+4)*0x1p-24*size) {
				t.Fatalf("(%d,%d) is %g, want %g", i, j, v, sum)
			}
		}
		if i+1 < got.Rows {
			for _, x := range got.Data[i*got.Stride+got.Cols : (i+1)*got.Stride] {
				if x == x {
					t.Fatalf("row %d: written beside the matrix", i)
				}
			}
		}
	}
}

// transposedShape returns a matrix of random numbers that op makes rows × cols.
func transposedShape(r *rand.Rand, rows, cols int, trans bool) Mat {
	if trans {
		rows, cols = cols, rows
	}
	return normal(r, rows, cols)
}

func TestGemm(t *testing.T) {
	sizes := []int{1, 2, 4, 7, 8, 9, 31, 33, 70, 71, 127, 129}
	eachVariant(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		s := poisonedScratch()
		for n := range 300 {
			pick := func() int { return sizes[r.IntN(len(sizes))] }
			m, n, k := pick(), pick(), []int{0, 1, 2, 15, 16, 17, 64, 100, 383, 385, 800}[n%11]
			transA, transB := r.IntN(2) == 1, r.IntN(2) == 1
			alpha := []float32{1, 1, -0.37}[r.IntN(3)]
			beta := []float32{0, 1, 0.5}[r.IntN(3)]
			a, b := transposedShape(r, m, k, transA), transposedShape(r, k, n, transB)
			c := poisoned(m, n)
			if beta != 0 {
				c = normal(r, m, n)
			}
			got := copyOf(c)
			poisonScratch(s)
			gemm(got, a, b, transA, transB, alpha, beta, s)
			t.Run(fmt.Sprintf("%dx%dx%d,%v,%v,%g,%g", m, n, k, transA, transB, alpha, beta), func(t *testing.T) {
				checkProduct(t, got, a, b, c, transA, transB, float64(alpha), float64(beta))
			})
		}
	})
}

func benchmarkGFLOPS(b *testing.B, flops int, f func()) {
	b.Helper()
	f()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(flops)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

func benchMat(rows, cols int) Mat {
	m := NewMat(make([]float32, rows*cols), rows, cols)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range m.Data {
		m.Data[i] = r.Float32() - 0.5
	}
	return m
}

// BenchmarkPeak measures the rate of multiply-adds of the largest tile on panels in the first-level cache: what the
// products are held against.
func BenchmarkPeak(b *testing.B) {
	for _, v := range variants() {
		b.Run(v.name, func(b *testing.B) {
			const k = 128
			x, w, c := make([]float32, v.mr*k+512), make([]float32, v.nr*k), make([]float32, v.mr*v.nr)
			benchmarkGFLOPS(b, 2*v.mr*v.nr*k*1000, func() {
				for range 1000 {
					v.tiles[0](k, &x[0], &w[0], v.nr*4, &c[0], v.nr*4, true)
				}
			})
		})
	}
}

func BenchmarkGemm(b *testing.B) {
	for _, v := range variants() {
		for _, size := range []int{64, 256, 512, 1024} {
			if v == plain && size > 256 {
				continue
			}
			b.Run(fmt.Sprintf("%s/%d", v.name, size), func(b *testing.B) {
				before := active
				defer func() { active = before }()
				active = v
				s := newScratch()
				x, y, z := benchMat(size, size), benchMat(size, size), benchMat(size, size)
				benchmarkGFLOPS(b, 2*size*size*size, func() { gemm(z, x, y, false, true, 1, 0, s) })
			})
		}
	}
}
