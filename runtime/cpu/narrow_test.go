package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// eachNarrow runs f for every weight type under every variant that this machine has.
func eachNarrow(t *testing.T, f func(t *testing.T, w WeightType)) {
	defer func() { forcedNarrow = nil }()
	for _, v := range narrowVariants() {
		for w := range WeightType(weightTypes) {
			t.Run(v.name+"/"+w.String(), func(t *testing.T) {
				forcedNarrow = v
				f(t, w)
			})
		}
	}
}

// newNarrow stores w in memory of its own.
func newNarrow(p *Pool, kind WeightType, w Mat) Narrow {
	return NewNarrow(p, NewMemory(2*(w.Rows+16)*(w.Cols+32)), kind, w)
}

// stored returns w as package quant says that it is stored, and x as it meets it.
func stored(t WeightType, m Mat, weights bool) Mat {
	out := NewMat(make([]float32, m.Rows*m.Cols), m.Rows, m.Cols)
	codes := make([]int8, quant.Group)
	for r := range m.Rows {
		row, to := m.Row(r), out.Row(r)
		for i := 0; i < len(row); i += quant.Group {
			group := row[i:min(i+quant.Group, len(row))]
			scale := float32(0)
			switch {
			case t == BF16:
				for c, v := range group {
					to[i+c] = quant.FromBF16(quant.BF16(v))
				}
				continue
			case !weights:
				scale = quant.Activations(codes[:len(group)], group)
			case t == Int8:
				scale = quant.FromBF16(quant.Int8(codes[:len(group)], group))
			case t == Int4:
				scale = quant.FromBF16(quant.Int4(codes[:len(group)], group))
			}
			for c := range group {
				to[i+c] = float32(codes[c]) * scale
			}
		}
	}
	return out
}

// narrowShapes are rows × out × in: every tile, edges of blocks and groups, several parts of columns and of rows.
var narrowShapes = [][3]int{{1, 1, 1}, {1, 16, 32}, {1, 130, 70}, {2, 33, 64}, {3, 33, 17}, {5, 100, 96}, {7, 48, 31}, {8, 300, 64}, {9, 2, 400},
	{31, 33, 129}, {150, 129, 31}, {75, 129, 500}, {20, 2100, 40}, {150, 70, 800}, {1, 1030, 1056}}

func TestLinearNarrow(t *testing.T) {
	eachNarrow(t, func(t *testing.T, kind WeightType) {
		p := NewPool(2)
		defer p.Close()
		for n, d := range narrowShapes {
			r := rand.New(rand.NewPCG(uint64(n), 13))
			rows, out, in := d[0], d[1], d[2]
			x, m := normal(r, rows, in), normal(r, out, in)
			w := newNarrow(p, kind, m)
			bias, residual := randoms(r, out), normal(r, rows, out)
			xs, ws := stored(kind, x, false), stored(kind, m, true)
			xw := product64(xs, ws, false, true)
			size := product64(absolute(xs), absolute(ws), false, true)
			for _, act := range []Activation{None, GELU, GELUTanh, ReLU, ReLU2, SiLU} {
				for option := range 16 {
					if rows*out*in > 1<<18 && r.IntN(8) > 0 {
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
					LinearNarrow(p, y, x, &w, e)
					for i := range rows {
						for j, got := range y.Row(i) {
							v := xw[i][j]
							if e.Bias != nil {
								v += float64(bias[j])
							}
							// A float32 sum of k terms is off by k/2 ulps of the sum of magnitudes at most, by far fewer as a rule.
							tol := 0x1p-24 * (4 + 2*math.Sqrt(float64(in))) * (size[i][j] + 2)
							if e.Pre.Data != nil && !(math.Abs(float64(e.Pre.Row(i)[j])-v) <= tol) {
								t.Fatalf("%v before: (%d,%d) is %v, want %v", d, i, j, e.Pre.Row(i)[j], v)
							}
							steep := 1.2 // of the activations but ReLU2
							if act == ReLU2 {
								steep = 2*math.Abs(v) + 1
							}
							v = act64(act, v)
							if e.Residual.Data != nil {
								v += float64(residual.Row(i)[j])
							}
							if !(math.Abs(float64(got)-v) <= tol*steep+1e-6*(1+math.Abs(v))) {
								t.Fatalf("%v activation %v option %d: (%d,%d) is %v, want %v", d, act, option, i, j, got, v)
							}
						}
					}
				}
			}
			ids := make([]int32, 5)
			for i := range ids {
				ids[i] = int32(r.IntN(out))
			}
			y := poisoned(len(ids), in)
			EmbedNarrow(p, y, &w, ids, 3)
			nearRows(t, fmt.Sprint(d, " embedding"), y, func(i, j int) float64 { return 3 * float64(ws.Row(int(ids[i]))[j]) }, 1e-6)
		}
	})
}

func absolute(m Mat) Mat {
	a := NewMat(make([]float32, m.Rows*m.Cols), m.Rows, m.Cols)
	for r := range m.Rows {
		for c, v := range m.Row(r) {
			a.Row(r)[c] = float32(math.Abs(float64(v)))
		}
	}
	return a
}

// TestNarrowBits holds all variants of the integer types to the same bits.
func TestNarrowBits(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	defer func() { forcedNarrow = nil }()
	for _, kind := range []WeightType{Int8, Int4} {
		for n, d := range narrowShapes {
			r := rand.New(rand.NewPCG(uint64(n), 14))
			x, m := normal(r, d[0], d[2]), normal(r, d[1], d[2])
			w := newNarrow(p, kind, m)
			var want Mat
			for _, v := range slices.Backward(narrowVariants()) { // plain Go first
				forcedNarrow = v
				y := NewMat(make([]float32, d[0]*d[1]), d[0], d[1])
				LinearNarrow(p, y, x, &w, Epilogue{})
				if v == plainNarrow {
					want = y
				}
				for j := range y.Data {
					if y.Data[j] != want.Data[j] {
						t.Fatalf("%s %v: element %d is %v with %s, %v in plain Go", kind, d, j, y.Data[j], v.name, want.Data[j])
					}
				}
			}
		}
	}
}

// TestNarrowStored: every variant stores the same bits, of numbers of all sizes and ties too.
func TestNarrowStored(t *testing.T) {
	p := NewPool(1)
	defer p.Close()
	defer func() { forcedNarrow = nil }()
	r := rand.New(rand.NewPCG(1, 18))
	m := normal(r, 70, 75)
	for i := range m.Rows {
		row, size := m.Row(i), float32(math.Exp2(float64(r.IntN(250)-140)))
		for c := range row {
			row[c] *= size
			if i%5 == 0 {
				row[c] = float32(r.IntN(17)-8) * size // ties of all kinds
			}
		}
	}
	clear(m.Row(3))
	m.Row(4)[40], m.Row(9)[70], m.Row(11)[2] = nan, inf, -inf
	for kind := range WeightType(weightTypes) {
		var want Narrow
		for _, v := range slices.Backward(narrowVariants()) { // plain Go first
			forcedNarrow = v
			w := newNarrow(p, kind, m)
			if v == plainNarrow {
				want = w
			}
			for j := range w.codes {
				if w.codes[j] != want.codes[j] {
					t.Fatalf("%v: byte %d is %#x by %s, %#x by plain Go", kind, j, w.codes[j], v.name, want.codes[j])
				}
			}
			for j, s := range w.scales {
				if a, b := quant.FromBF16(s), quant.FromBF16(want.scales[j]); a != b && (a == a || b == b) {
					t.Fatalf("%v: scale %d is %v by %s, %v by plain Go", kind, j, a, v.name, b)
				}
			}
		}
	}
}

// BenchmarkNarrowStore prints the bytes of f32 weights that are stored a second.
func BenchmarkNarrowStore(b *testing.B) {
	m := benchMat(2048, 2048)
	for kind := range WeightType(weightTypes) {
		b.Run(kind.String(), func(b *testing.B) {
			p := NewPool(0)
			defer p.Close()
			memory := NewMemory(2 * 2064 * 2080)
			b.SetBytes(4 * 2048 * 2048)
			for b.Loop() {
				again := *memory
				NewNarrow(p, &again, kind, m)
			}
		})
	}
}

// TestNarrowNotFinite: a number that is not finite does not get lost, in activations or weights.
func TestNarrowNotFinite(t *testing.T) {
	eachNarrow(t, func(t *testing.T, kind WeightType) {
		p := NewPool(1)
		defer p.Close()
		for _, bad := range []float32{nan, inf, -inf} {
			for _, at := range []int{0, 31, 40, 64} {
				for _, inWeights := range []bool{false, true} {
					r := rand.New(rand.NewPCG(1, 15))
					x, m := normal(r, 3, 65), normal(r, 20, 65)
					if inWeights {
						m.Row(17)[at] = bad
					} else {
						x.Row(1)[at] = bad
					}
					w := newNarrow(p, kind, m)
					y := poisoned(3, 20)
					LinearNarrow(p, y, x, &w, Epilogue{})
					if v := y.Row(1)[17]; v-v == 0 {
						t.Fatalf("%v at %d, in weights %v: the product is %v", bad, at, inWeights, v)
					}
					if v := y.Row(0)[16]; v-v != 0 {
						t.Fatalf("%v at %d, in weights %v: the product beside it is %v", bad, at, inWeights, v)
					}
				}
			}
		}
	})
}

func TestNarrowPools(t *testing.T) {
	eachNarrow(t, func(t *testing.T, kind WeightType) {
		first := NewPool(1)
		defer first.Close()
		for n, d := range narrowShapes {
			r := rand.New(rand.NewPCG(uint64(n), 16))
			rows, out, in := d[0], d[1], d[2]
			x, m, residual, bias := normal(r, rows, in), normal(r, out, in), normal(r, rows, out), randoms(r, out)
			w := newNarrow(first, kind, m)
			y, e := NewMat(make([]float32, rows*out), rows, out), NewMat(make([]float32, 2*in), 2, in)
			ids := []int32{0, int32(out - 1)}
			sameOnPools(t, func(p *Pool) {
				LinearNarrow(p, y, x, &w, Epilogue{Bias: bias, Act: GELU, Residual: residual})
				EmbedNarrow(p, e, &w, ids, 1)
			}, y.Data, e.Data)
		}
	})
}

func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 17))
	for range 100000 {
		a, b := float32(r.IntN(1<<21)-1<<20), float32(r.NormFloat64())
		c := float32(r.NormFloat64() * math.Exp2(float64(r.IntN(60)-30)))
		if r.IntN(2) == 0 {
			c = -a*b + c*1e-7
		}
		exact := math.FMA(float64(a), float64(b), float64(c))
		got := fma32(a, b, c)
		below, above := math.Nextafter32(got, float32(math.Inf(-1))), math.Nextafter32(got, float32(math.Inf(1)))
		d := math.Abs(exact - float64(got))
		if d > math.Abs(exact-float64(below)) || d > math.Abs(exact-float64(above)) {
			t.Fatalf("%v*%v + %v is %v, nearer than %v", a, b, c, exact, got)
		}
	}
}

// BenchmarkNarrow prints GFLOPS; at one row, the weights' bytes count: those of the layers of a larger model follow one
// another, so that none is in a cache but the last.
func BenchmarkNarrow(b *testing.B) {
	for kind := range WeightType(weightTypes) {
		for _, d := range [][3]int{{1, 2048, 512}, {1, 3072, 768}, {8, 2048, 512}, {256, 2048, 512}, {256, 768, 3072}} {
			rows, out, in := d[0], d[1], d[2]
			p := NewPool(0)
			x, y := benchMat(rows, in), benchMat(rows, out)
			memory := NewMemory(128 << 20)
			ws := []Narrow{NewNarrow(p, memory, kind, benchMat(out, in))}
			for n := ws[0].Bytes(); n*(len(ws)+2) < 128<<20; {
				w := ws[0]
				w.codes = memory.take(len(w.codes))
				copy(w.codes, ws[0].codes)
				ws = append(ws, w)
			}
			b.Run(fmt.Sprintf("%s/%dx%dx%d", kind, rows, out, in), func(b *testing.B) {
				i := 0
				b.SetBytes(int64(ws[0].Bytes()))
				benchmarkGFLOPS(b, 2*rows*out*in, func() {
					LinearNarrow(p, y, x, &ws[i%len(ws)], Epilogue{})
					i++
				})
			})
			p.Close()
		}
	}
}

// BenchmarkStream is BenchmarkNarrow for f32.
func BenchmarkStream(b *testing.B) {
	for _, d := range [][3]int{{1, 2048, 512}, {1, 512, 2048}, {1, 3072, 768}, {4, 2048, 512}} {
		rows, out, in := d[0], d[1], d[2]
		p := NewPool(0)
		x, y := benchMat(rows, in), benchMat(rows, out)
		memory := NewMemory(128 << 20)
		var ws []Mat
		for n := out * in * 4; n*(len(ws)+1) < 128<<20; {
			data := memory.take(n)
			ws = append(ws, NewMat(unsafe.Slice((*float32)(unsafe.Pointer(&data[0])), n/4), out, in))
			copy(ws[len(ws)-1].Data, benchMat(out, in).Data)
		}
		b.Run(fmt.Sprintf("%dx%dx%d", rows, out, in), func(b *testing.B) {
			i := 0
			b.SetBytes(int64(4 * out * in))
			benchmarkGFLOPS(b, 2*rows*out*in, func() {
				Linear(p, y, x, ws[i%len(ws)], Epilogue{})
				i++
			})
		})
		p.Close()
	}
}

func BenchmarkRead(b *testing.B) {
	p := NewPool(0)
	defer p.Close()
	for b.Loop() {
		b.ReportMetric(p.ReadBandwidth(128<<20)/1e9, "GB/s")
	}
}
