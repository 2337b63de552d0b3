package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// act64 is the definition of each activation.
func act64(act Activation, x float64) float64 {
	switch act {
	case GELU:
		return x * 0.5 * math.Erfc(-x/math.Sqrt2)
	case GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case ReLU:
		return max(x, 0)
	case ReLU2:
		return max(x, 0) * max(x, 0)
	case SiLU:
		return x / (1 + math.Exp(-x))
	}
	return x
}

// product64 computes op(a)*op(b) in float64.
func product64(a, b Mat, transA, transB bool) [][]float64 {
	ao, bo := operand{a, !transA}, operand{b, transB}
	m, k, n := a.Rows, a.Cols, b.Cols
	if transA {
		m, k = k, m
	}
	if transB {
		n = b.Rows
	}
	y := make([][]float64, m)
	for i := range y {
		y[i] = make([]float64, n)
		for j := range y[i] {
			for l := range k {
				y[i][j] += float64(a.Data[ao.at(i, l)]) * float64(b.Data[bo.at(j, l)])
			}
		}
	}
	return y
}

func nearRows(t *testing.T, what string, got Mat, want func(i, j int) float64, tol float64) {
	t.Helper()
	for i := range got.Rows {
		for j, v := range got.Row(i) {
			w := want(i, j)
			if d := math.Abs(float64(v) - w); !(d <= tol*(1+math.Abs(w))) {
				t.Fatalf("%s: (%d,%d) is %.9g, want %.9g", what, i, j, v, w)
			}
		}
	}
}

// linearShapes are rows × out × in: the few-row path, one part, many parts, blocks of every kind with edges, and B in several
// pieces of several blocks.
var linearShapes = [][3]int{{1, 1, 1}, {1, 130, 70}, {3, 33, 17}, {8, 300, 64}, {9, 2, 400}, {31, 33, 129}, {150, 129, 31}, {75, 129, 500}, {20, 2100, 40}, {150, 70, 800}, {9, 2080, 800}, {300, 600, 290}}

// poolIn returns a pool whose products are in f32 or bf16, and what makes a factor of theirs one that they do not round.
func poolIn(workers int, bf16 bool) (p *Pool, factor func(Mat) Mat) {
	p = NewPool(workers)
	if !bf16 {
		return p, func(m Mat) Mat { return m }
	}
	return p.InBF16(), rounded
}

func TestLinear(t *testing.T) {
	eachTiling(t, func(t *testing.T, _ *tiling, bf16 bool) {
		p, factor := poolIn(2, bf16)
		defer p.Close()
		for n, d := range linearShapes {
			r := rand.New(rand.NewPCG(uint64(n), 3))
			rows, out, in := d[0], d[1], d[2]
			x, w := factor(normal(r, rows, in)), factor(normal(r, out, in))
			bias, residual := randoms(r, out), normal(r, rows, out)
			xw := product64(x, w, false, true)
			tol := 1e-6 * math.Sqrt(float64(in)) * 4
			for _, act := range []Activation{None, GELU, GELUTanh, ReLU, ReLU2, SiLU} {
				for option := range 16 {
					if rows*out*in > 1<<20 && r.IntN(8) > 0 {
						continue // a sample will do
					}
					e := Epilogue{Act: act}
					if option&1 != 0 {
						e.Bias = bias
					}
					if option&2 != 0 {
						e.Residual = residual
					}
					if option&4 != 0 && act != None {
						e.Pre = poisoned(rows, out)
					}
					y := poisoned(rows, out)
					if option&8 != 0 && e.Residual.Data != nil {
						y = copyOf(residual)
						e.Residual = y
					}
					for _, s := range p.scratch {
						poisonScratch(s)
					}
					pre := func(i, j int) float64 {
						v := xw[i][j]
						if e.Bias != nil {
							v += float64(bias[j])
						}
						return v
					}
					Linear(p, y, x, w, e)
					what := fmt.Sprint(d, " activation ", act, " option ", option)
					nearRows(t, what, y, func(i, j int) float64 {
						v := act64(act, pre(i, j))
						if e.Residual.Data != nil {
							v += float64(residual.Row(i)[j])
						}
						return v
					}, tol*(1+math.Sqrt(float64(in))*map[bool]float64{act == ReLU2: 1}[true]))
					if e.Pre.Data != nil {
						nearRows(t, what+" before", e.Pre, pre, tol)
					}
				}
			}
		}
	})
}

func TestLinearGradients(t *testing.T) {
	eachTiling(t, func(t *testing.T, _ *tiling, bf16 bool) {
		p, factor := poolIn(2, bf16)
		defer p.Close()
		for n, d := range linearShapes {
			r := rand.New(rand.NewPCG(uint64(n), 4))
			rows, out, in := d[0], d[1], d[2]
			x, w, dy := factor(normal(r, rows, in)), factor(normal(r, out, in)), factor(normal(r, rows, out))
			residual, dw := normal(r, rows, in), normal(r, out, in)
			db := randoms(r, out)
			wantX, wantW := product64(dy, w, false, false), product64(dy, x, true, false)
			for option := range 3 { // no residual, another, the same memory
				dx, res := poisoned(rows, in), Mat{}
				if option > 0 {
					res = residual
				}
				if option > 1 {
					dx = copyOf(residual)
					res = dx
				}
				LinearInputGrad(p, dx, dy, w, res)
				nearRows(t, fmt.Sprint(d, "dx"), dx, func(i, j int) float64 {
					v := wantX[i][j]
					if option > 0 {
						v += float64(residual.Row(i)[j])
					}
					return v
				}, 4e-6*math.Sqrt(float64(out)))
			}
			gotW, gotB := copyOf(dw), append([]float32(nil), db...)
			LinearWeightGrad(p, gotW, dy, x, true)
			nearRows(t, fmt.Sprint(d, "dw"), gotW, func(i, j int) float64 { return wantW[i][j] + float64(dw.Row(i)[j]) }, 4e-6*math.Sqrt(float64(rows)))
			written := poisoned(out, in)
			LinearWeightGrad(p, written, dy, x, false)
			nearRows(t, fmt.Sprint(d, "dw, written"), written, func(i, j int) float64 { return wantW[i][j] }, 4e-6*math.Sqrt(float64(rows)))
			BiasGrad(p, gotB, dy)
			nearRows(t, fmt.Sprint(d, "db"), NewMat(gotB, 1, out), func(_, j int) float64 {
				v := float64(db[j])
				for i := range rows {
					v += float64(dy.Row(i)[j])
				}
				return v
			}, 4e-6*math.Sqrt(float64(rows)))
		}
	})
}

// TestLinearPools holds results to the same bits for any number of workers, and calls to no allocation.
func TestLinearPools(t *testing.T) {
	eachTiling(t, func(t *testing.T, _ *tiling, bf16 bool) {
		for n, d := range linearShapes {
			r := rand.New(rand.NewPCG(uint64(n), 5))
			rows, out, in := d[0], d[1], d[2]
			x, w, dy, residual := normal(r, rows, in), normal(r, out, in), normal(r, rows, out), normal(r, rows, out)
			bias := randoms(r, out)
			y, pre, y2 := NewMat(make([]float32, rows*out), rows, out), NewMat(make([]float32, rows*out), rows, out), NewMat(make([]float32, rows*out), rows, out)
			dx, dw := NewMat(make([]float32, rows*in), rows, in), NewMat(make([]float32, out*in), out, in)
			db := make([]float32, out)
			sameOnPools(t, func(p *Pool) {
				p.bf16 = bf16
				Linear(p, y, x, w, Epilogue{Bias: bias, Act: GELU, Pre: pre, Residual: residual})
				Linear(p, y2, x, w, Epilogue{Bias: bias, Act: SiLU, Residual: residual})
				LinearInputGrad(p, dx, dy, w, Mat{})
				clear(dw.Data)
				LinearWeightGrad(p, dw, dy, x, true)
				clear(db)
				BiasGrad(p, db, dy)
			}, y.Data, pre.Data, y2.Data, dx.Data, dw.Data, db)
		}
	})
}

// sameOnPools runs kernel on pools of 1, 2, 3 and 7 workers whose working memory is NaN. It fails if outputs differ by a
// bit, or if a second run allocates.
func sameOnPools(t *testing.T, kernel func(p *Pool), outputs ...[]float32) {
	t.Helper()
	var want [][]float32
	for _, workers := range []int{1, 2, 3, 7} {
		p := NewPool(workers)
		for _, s := range p.scratch {
			s.floats(1 << 14)
			poisonScratch(s)
		}
		for _, out := range outputs {
			fill(out, nan)
		}
		kernel(p)
		for o, out := range outputs {
			if workers == 1 {
				want = append(want, append([]float32(nil), out...))
			}
			for i := range out {
				if math.Float32bits(out[i]) != math.Float32bits(want[o][i]) {
					t.Fatalf("%d workers: output %d, element %d is %v, with one worker %v", workers, o, i, out[i], want[o][i])
				}
			}
		}
		// Now and then the Go runtime allocates for a goroutine that blocks; a kernel would do so in each run.
		n := testing.AllocsPerRun(3, func() { kernel(p) })
		for try := 0; n != 0 && try < 3; try++ {
			n = min(n, testing.AllocsPerRun(3, func() { kernel(p) }))
		}
		if n != 0 {
			t.Fatalf("%d workers: %v allocations", workers, n)
		}
		p.Close()
	}
}

// BenchmarkLinear measures products at the shapes of the bench specs, 4 sequences of 256 tokens, and at smaller ones.
func BenchmarkLinear(b *testing.B) {
	for _, in := range []string{"f32", "bf16"} {
		for _, d := range [][3]int{{64, 512, 512}, {1024, 1536, 512}, {1024, 512, 512}, {1024, 2048, 512}, {1024, 512, 2048}, {410, 10000, 512}, {1024, 2304, 768}, {1024, 3072, 768}, {81, 50304, 768}} {
			rows, out, k := d[0], d[1], d[2]
			x, w, y, dw := benchMat(rows, k), benchMat(out, k), benchMat(rows, out), benchMat(out, k)
			dx := benchMat(rows, k)
			p := NewPool(0)
			if in == "bf16" {
				p.InBF16()
			}
			name := fmt.Sprintf("/%dx%dx%d/", rows, out, k) + in
			b.Run("forward"+name, func(b *testing.B) {
				benchmarkGFLOPS(b, 2*rows*out*k, func() { Linear(p, y, x, w, Epilogue{}) })
			})
			b.Run("inputGrad"+name, func(b *testing.B) {
				benchmarkGFLOPS(b, 2*rows*out*k, func() { LinearInputGrad(p, dx, y, w, Mat{}) })
			})
			b.Run("weightGrad"+name, func(b *testing.B) {
				clear(dw.Data)
				benchmarkGFLOPS(b, 2*rows*out*k, func() { LinearWeightGrad(p, dw, y, x, true) })
			})
			p.Close()
		}
	}
}
