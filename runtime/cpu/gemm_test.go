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
	choose() // or the first pool would
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
	s := newScratch(0)
	poisonScratch(s)
	return s
}

func poisonScratch(s *scratch) {
	for _, x := range [][]float32{s.packA, s.packB, s.tile, s.kept, s.floats(cap(s.own))} {
		fill(x, nan)
	}
}

// eachTiling runs f with both ways to multiply of every variant, and with tileTiling, which goes through panels as tile registers do on
// any machine.
func eachTiling(t *testing.T, f func(t *testing.T, tiling *tiling, bf16 bool)) {
	t.Helper()
	eachVariant(t, func(t *testing.T) {
		t.Run("f32", func(t *testing.T) { f(t, active.f32, false) })
		t.Run("bf16", func(t *testing.T) { f(t, active.bf16, true) })
	})
	before := active
	defer func() { active = before }()
	v := *plain
	v.bf16 = tileTiling
	active = &v
	t.Run("tiles", func(t *testing.T) { f(t, tileTiling, true) })
}

// tileTiling has panels as tilingAMX has them, in plain Go.
var tileTiling = &tiling{
	mr: 32, nr: 32, grouping: inTiles,
	tileRows: []int{32, 16},
	tiles: []tileKernel{
		func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
			rowsOfTile(32, k, a, b, ldb, c, ldc, add)
		},
		func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
			rowsOfTile(16, k, a, b, ldb, c, ldc, add)
		},
	},
	column: func(n, k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
		for i := range n {
			rowsOfTile(32, k, offset(a, i*32*k*4), b, ldb, offset(c, i*32*ldc), ldc, add)
		}
	},
	blockK: 256, partRows: 64,
	packA: packer{width: 32, grouping: inTiles, rows: &rowPacker{
		along: func(groups int, src *float32, ld, rows int, dst *float32, dstStride int) {
			for r := range rows {
				packRow(groups, offset(src, r*ld), 4, offset(dst, r*64), dstStride)
			}
		},
		across: func(groups int, src *float32, ld int, dst *float32, dstStride int) {
			for r := range rowLanes {
				packRow(groups, offset(src, r*4), ld, offset(dst, r*64), dstStride)
			}
		},
	}},
	packB: packer{width: 32, grouping: inTiles},
}

// packRow rounds groups*32 floats, step bytes apart, to bf16 and packs each 32 as 16 pairs.
func packRow(groups int, src *float32, step int, dst *float32, dstStride int) {
	for l := range 16 * groups {
		low, high := bf16Bits(*offset(src, 2*l*step)), bf16Bits(*offset(src, (2*l+1)*step))
		*offset(dst, l/16*dstStride+l%16*4) = math.Float32frombits(low>>16 | high)
	}
}

// rowsOfTile computes so many rows of a tile of tileTiling.
func rowsOfTile(rows, k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
	for i := range rows {
		for j := range 32 {
			var sum float32
			for l := range k {
				x, y := math.Float32bits(*offset(a, l/16*32*64+i*64+l%16*4)), math.Float32bits(*offset(b, l*ldb+j*4))
				sum += math.Float32frombits(x<<16)*math.Float32frombits(y<<16) + math.Float32frombits(x&^0xffff)*math.Float32frombits(y&^0xffff)
			}
			at := offset(c, i*ldc+j*4)
			if add {
				sum += *at
			}
			*at = sum
		}
	}
}

// rounded is a copy of m whose elements are rounded to bf16, by the plain rule: of the two neighbours with 8 bits the nearer one, of
// equally near ones the even one.
func rounded(m Mat) Mat {
	r := copyOf(m)
	for i, x := range r.Data {
		low := math.Float32frombits(math.Float32bits(x) & 0xffff0000)
		high := math.Float32frombits(math.Float32bits(x)&0xffff0000 + 0x10000)
		up, down := math.Abs(float64(high)-float64(x)), math.Abs(float64(x)-float64(low))
		switch {
		case x != x:
		case up < down || up == down && math.Float32bits(low)>>16&1 == 1:
			r.Data[i] = high
		default:
			r.Data[i] = low
		}
	}
	return r
}

// checkProduct fails unless got = op(a)*op(b) + beta*c within the rounding of a float32 sum, and unless what
// lies beside got is still NaN.
func checkProduct(t *testing.T, got, a, b, c Mat, transA, transB bool, beta float64) {
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
	eachTiling(t, func(t *testing.T, tiling *tiling, bf16 bool) {
		r := rand.New(rand.NewPCG(1, 2))
		s := poisonedScratch()
		for n := range 300 {
			pick := func() int { return sizes[r.IntN(len(sizes))] }
			m, n, k := pick(), pick(), []int{0, 1, 2, 15, 16, 17, 64, 100, 383, 385, 800}[n%11]
			transA, transB := r.IntN(2) == 1, r.IntN(2) == 1
			beta := []float32{0, 1, 0.5}[r.IntN(3)]
			a, b := transposedShape(r, m, k, transA), transposedShape(r, k, n, transB)
			c := poisoned(m, n)
			if beta != 0 {
				c = normal(r, m, n)
			}
			got := copyOf(c)
			poisonScratch(s)
			tiling.gemm(got, a, b, transA, transB, beta, s)
			if unrounded := m <= fewM && !transA && transB && active.dotLanes > 0; bf16 && !unrounded {
				a, b = rounded(a), rounded(b)
			}
			t.Run(fmt.Sprintf("%dx%dx%d,%v,%v,%g", m, n, k, transA, transB, beta), func(t *testing.T) {
				checkProduct(t, got, a, b, c, transA, transB, float64(beta))
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
		for in, t := range map[string]*tiling{"f32": v.f32, "bf16": v.bf16} {
			b.Run(v.name+"/"+in, func(b *testing.B) {
				const k = 128
				x, w, c := make([]float32, t.mr*k+512), make([]float32, t.nr*k), make([]float32, t.mr*t.nr)
				benchmarkGFLOPS(b, 2*t.mr*t.nr*t.pair*k*1000, func() {
					for range 1000 {
						t.tiles[0](k, &x[0], &w[0], t.nr*4, &c[0], t.nr*4, true)
					}
				})
			})
		}
	}
}

func BenchmarkGemm(b *testing.B) {
	for _, v := range variants() {
		for _, size := range []int{64, 256, 512, 1024} {
			if v == plain && size > 256 {
				continue
			}
			for in, t := range map[string]*tiling{"f32": v.f32, "bf16": v.bf16} {
				b.Run(fmt.Sprintf("%s/%s/%d", v.name, in, size), func(b *testing.B) {
					before := active
					defer func() { active = before }()
					active = v
					s := newScratch(0)
					x, y, z := benchMat(size, size), benchMat(size, size), benchMat(size, size)
					benchmarkGFLOPS(b, 2*size*size*size, func() { t.gemm(z, x, y, false, true, 0, s) })
				})
			}
		}
	}
}

// TestFastest: the first variant is taken unless another is clearly faster, and plain Go only where there is nothing else.
func TestFastest(t *testing.T) {
	a, b, c := &variant{name: "a"}, &variant{name: "b"}, &variant{name: "c"}
	for _, x := range []struct {
		list  []*variant
		times []float64
		want  *variant
	}{
		{[]*variant{a}, []float64{9}, a},
		{[]*variant{a, b}, []float64{10, 8.1}, a},
		{[]*variant{a, b}, []float64{10, 7.9}, b},
		{[]*variant{a, b, c}, []float64{10, 7, 6}, b},
		{[]*variant{a, b, c}, []float64{10, 9, 5}, c},
		{[]*variant{a, plain}, []float64{10, 1}, a},
		{[]*variant{plain}, []float64{10}, plain},
	} {
		got := fastest(x.list, plain, func(v *variant) float64 {
			for i, w := range x.list {
				if w == v {
					return x.times[i]
				}
			}
			return 0
		})
		if got != x.want {
			t.Errorf("%v: %s, want %s", x.times, got.name, x.want.name)
		}
	}
	choose()
	for _, v := range variants() {
		if took := v.time(); !(took > 0) {
			t.Errorf("%s takes %v ns", v.name, took)
		}
	}
}

// TestRoundBF16 holds the rounding of every variant, and of the instructions that pack, to the plain rule at numbers where it matters.
func TestRoundBF16(t *testing.T) {
	at := []float32{0, 1, 1 + 0x1p-8, 1 + 0x1p-7, 1 + 3*0x1p-8, 1 + 0x1p-8 + 0x1p-20, 0x1p-126, 0x1p-130, -0x1p-149, math.MaxFloat32, 0x1.fep127, inf, -inf, -3.14159, 1e-30, 65535}
	want := []float32{0, 1, 1, 1 + 0x1p-7, 1 + 2*0x1p-7, 1 + 0x1p-7, 0x1p-126, 0, 0, inf, 0x1.fep127, inf, -inf, -3.140625, 0x1.44p-100, 65536}
	eachVariant(t, func(t *testing.T) {
		got := append(append([]float32{}, at...), at[:5]...)
		roundBF16(got)
		for i, x := range got {
			if w := want[i%len(want)]; x != w {
				t.Errorf("%v becomes %v, want %v", at[i%len(at)], x, w)
			}
		}
		for _, bits := range []uint32{0x7fffffff, 0xffffffff, 0x7f800001} {
			nans := make([]float32, 17)
			fill(nans, math.Float32frombits(bits))
			roundBF16(nans)
			for i, x := range nans {
				if x == x {
					t.Errorf("element %d, a NaN of %#x, becomes %v", i, bits, x)
				}
			}
		}
		one := NewMat([]float32{1, 1, 1, 1}, 1, 4)
		for i, x := range at { // 9 rows, for which factors are rounded
			a := NewMat(make([]float32, 9*4), 9, 4)
			fill(a.Data, 0)
			a.Data[0] = x
			c := NewMat(make([]float32, 9), 9, 1)
			active.bf16.gemm(c, a, one, false, true, 0, newScratch(0))
			if c.Data[0] != want[i] {
				t.Errorf("%v counts as %v in a product, want %v", x, c.Data[0], want[i])
			}
		}
	})
}
