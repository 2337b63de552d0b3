package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tfc-dev/tfc/runtime/rng"
)

// plainActivation is act in float64.
func plainActivation(act Activation, x float64) float64 {
	switch act {
	case GELU:
		return x * math.Erfc(-x/math.Sqrt2) / 2
	case GELUTanh:
		return x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) / 2
	case ReLU:
		return max(x, 0)
	case ReLU2:
		return max(x, 0) * max(x, 0)
	case SiLU:
		return x / (1 + math.Exp(-x))
	}
	return x
}

var activations = []Activation{None, GELU, GELUTanh, ReLU, ReLU2, SiLU}

// elementwise checks kernel against f on every shape: on matrices of their own, then with y in place of each operand.
func elementwise(t *testing.T, operands int, kernel func(p *Pool, y Mat, x []Mat), f func(x []float64) float64) {
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		var x []Mat
		var x64 [][]float64
		for range operands {
			m := normal(r, rows, cols)
			x, x64 = append(x, m), append(x64, dense(m))
		}
		want := make([]float64, rows*cols)
		args := make([]float64, operands)
		for i := range want {
			for o := range x64 {
				args[o] = x64[o][i]
			}
			want[i] = f(args)
		}
		y := poisoned(rows, cols)
		sameOnAnyPool(t, func(p *Pool) { kernel(p, y, x) }, y.Data)
		near(t, "y", dense(y), want, 2e-6)
		p := NewPool(1)
		defer p.Close()
		for o := range x {
			in := append([]Mat(nil), x...)
			in[o] = copyOf(x[o])
			kernel(p, in[o], in)
			near(t, "y in place", dense(in[o]), dense(y), 0)
		}
	})
}

func TestElementwise(t *testing.T) {
	t.Run("add", func(t *testing.T) {
		elementwise(t, 2, func(p *Pool, y Mat, x []Mat) { Add(p, y, x[0], x[1]) }, func(x []float64) float64 { return x[0] + x[1] })
	})
	t.Run("addscaled", func(t *testing.T) {
		elementwise(t, 2, func(p *Pool, y Mat, x []Mat) { AddScaled(p, y, x[0], x[1], 0.7) }, func(x []float64) float64 { return x[0] + 0.7*x[1] })
	})
	t.Run("scale", func(t *testing.T) {
		elementwise(t, 1, func(p *Pool, y Mat, x []Mat) { Scale(p, y, x[0], -3) }, func(x []float64) float64 { return -3 * x[0] })
	})
	t.Run("copy", func(t *testing.T) {
		elementwise(t, 1, func(p *Pool, y Mat, x []Mat) { Copy(p, y, x[0]) }, func(x []float64) float64 { return x[0] })
	})
	t.Run("softcap", func(t *testing.T) {
		elementwise(t, 1, func(p *Pool, y Mat, x []Mat) { Softcap(p, y, x[0], 1.5) }, func(x []float64) float64 { return 1.5 * math.Tanh(x[0]/1.5) })
	})
	t.Run("softcapgrad", func(t *testing.T) {
		elementwise(t, 2, func(p *Pool, y Mat, x []Mat) { SoftcapGrad(p, y, x[0], x[1], 1.5) },
			func(x []float64) float64 {
				return x[0] * slope(func(v float64) float64 { return 1.5 * math.Tanh(v/1.5) }, x[1])
			})
	})
	for _, act := range activations {
		f := func(x float64) float64 { return plainActivation(act, x) }
		t.Run("activate", func(t *testing.T) {
			elementwise(t, 1, func(p *Pool, y Mat, x []Mat) { Activate(p, y, x[0], act) }, func(x []float64) float64 { return f(x[0]) })
		})
		t.Run("activategrad", func(t *testing.T) {
			elementwise(t, 2, func(p *Pool, y Mat, x []Mat) { ActivateGrad(p, y, x[0], x[1], act) },
				func(x []float64) float64 { return x[0] * slope(f, x[1]) })
		})
		t.Run("glu", func(t *testing.T) {
			elementwise(t, 2, func(p *Pool, y Mat, x []Mat) { GLU(p, y, x[0], x[1], act) }, func(x []float64) float64 { return f(x[0]) * x[1] })
		})
	}
}

// slope is the derivative of f at x by central differences.
func slope(f func(float64) float64, x float64) float64 { return (f(x+1e-5) - f(x-1e-5)) / 2e-5 }

func TestGLUGrad(t *testing.T) {
	for _, act := range activations {
		eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
			dy, gate, up := normal(r, rows, cols), normal(r, rows, cols), normal(r, rows, cols)
			dgate, dup := poisoned(rows, cols), poisoned(rows, cols)
			sameOnAnyPool(t, func(p *Pool) { GLUGrad(p, dgate, dup, dy, gate, up, act) }, dgate.Data, dup.Data)
			g64, u64, dy64 := dense(gate), dense(up), dense(dy)
			wantGate, wantUp := make([]float64, len(g64)), make([]float64, len(g64))
			for i := range g64 {
				wantGate[i] = dy64[i] * u64[i] * slope(func(v float64) float64 { return plainActivation(act, v) }, g64[i])
				wantUp[i] = dy64[i] * plainActivation(act, g64[i])
			}
			near(t, "dgate", dense(dgate), wantGate, 3e-6)
			near(t, "dup", dense(dup), wantUp, 3e-6)

			// The results may take the place of any two operands.
			p := NewPool(1)
			defer p.Close()
			for a := range 3 {
				for b := range 3 {
					if a == b {
						continue
					}
					in := []Mat{copyOf(dy), copyOf(gate), copyOf(up)}
					GLUGrad(p, in[a], in[b], in[0], in[1], in[2], act)
					near(t, "dgate in place", dense(in[a]), dense(dgate), 0)
					near(t, "dup in place", dense(in[b]), dense(dup), 0)
				}
			}
		})
	}
}

func TestAddBias(t *testing.T) {
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		x, bias, y := normal(r, rows, cols), randoms(r, cols), poisoned(rows, cols)
		sameOnAnyPool(t, func(p *Pool) { AddBias(p, y, x, bias) }, y.Data)
		want := dense(x)
		for i := range want {
			want[i] += float64(bias[i%cols])
		}
		near(t, "y", dense(y), want, 1e-6)
	})
}

func TestDropout(t *testing.T) {
	key := rng.Key{Seed: 7, Step: 3, Stream: 2, Layer: 1}
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		x, y := normal(r, rows, cols), poisoned(rows, cols)
		sameOnAnyPool(t, func(p *Pool) { Dropout(p, y, x, 0.25, key) }, y.Data)
		want := dense(x)
		kept := 0
		for i := range want {
			if key.Keep(uint64(i), 0.25) {
				want[i] /= 0.75
				kept++
			} else {
				want[i] = 0
			}
		}
		near(t, "y", dense(y), want, 1e-6)
		if n := float64(rows * cols); math.Abs(float64(kept)-0.75*n) > 4*math.Sqrt(n) {
			t.Errorf("kept %d of %v", kept, n)
		}
		p := NewPool(1)
		defer p.Close()
		Dropout(p, x, x, 0.25, key)
		near(t, "y in place", dense(x), dense(y), 0)
	})
}

// Every variant draws what key draws, wherever a row starts.
func TestKeepTo(t *testing.T) {
	defer func(v *variant) { active = v }(active)
	key := rng.Key{Seed: 0x123456789abcdef0, Step: 77, Stream: 1 << 31, Micro: 9, Layer: 300}
	for _, active = range variants() {
		for _, first := range []uint64{0, 1, 2, 3, 4, 127, 1<<34 - 40, 1<<34 - 1, 1 << 34, 1<<40 + 5} {
			for _, n := range []int{0, 1, 3, 31, 32, 33, 64, 100, 257} {
				for _, prob := range []float32{0, 1e-9, 0.1, 0.5, 0.999} {
					got := make([]float32, n+1)
					got[n] = 5
					keepTo(got[:n], prob, key, first)
					for i := range n {
						want := float32(0)
						if key.Keep(first+uint64(i), prob) {
							want = 1 / (1 - prob)
						}
						if got[i] != want {
							t.Fatalf("%s, prob %v: factor %d of %d from %d is %v, want %v", active.name, prob, i, n, first, got[i], want)
						}
					}
					if got[n] != 5 {
						t.Fatalf("%s: wrote past the end", active.name)
					}
				}
			}
		}
	}
}

func TestRoPE(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, heads := range []int{1, 3} {
		for _, dim := range []int{4, 12, 64, 80} {
			for _, half := range []int{0, 1, dim / 4, dim / 2} {
				for _, interleaved := range []bool{false, true} {
					freqs := make([]float32, half)
					for i := range freqs {
						freqs[i] = float32(math.Pow(10000, -float64(i)/float64(half)))
					}
					const rows, mscale = 65, 1.25
					table := NewRopeTable(freqs, mscale, 2048, interleaved)
					positions := make([]int32, rows)
					for i := range positions {
						positions[i] = int32(r.IntN(2048))
					}
					rotate := func(x []float64) []float64 {
						y := append([]float64(nil), x...)
						for row := range rows {
							for h := range heads {
								at := (row*heads + h) * dim
								for i, f := range freqs {
									a, b := at+i, at+i+half
									if interleaved {
										a, b = at+2*i, at+2*i+1
									}
									s, c := math.Sincos(float64(float32(positions[row]) * f))
									y[a], y[b] = mscale*(x[a]*c-x[b]*s), mscale*(x[b]*c+x[a]*s)
								}
							}
						}
						return y
					}
					x, dy, y := normal(r, rows, heads*dim), normal(r, rows, heads*dim), poisoned(rows, heads*dim)
					sameOnAnyPool(t, func(p *Pool) { RoPE(p, y, x, table, positions, heads, dim, false) }, y.Data)
					x64, dy64 := dense(x), dense(dy)
					near(t, "y", dense(y), rotate(x64), 2e-6)
					p := NewPool(1)
					RoPE(p, x, x, table, positions, heads, dim, false)
					near(t, "y in place", dense(x), dense(y), 0)
					RoPE(p, dy, dy, table, positions, heads, dim, true)
					p.Close()
					slopes(t, "dx", r, x64, dense(dy), func() float64 { return weighted(dy64, rotate(x64)) })
				}
			}
		}
	}
}

func TestEmbed(t *testing.T) {
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		const vocab, scale = 17, 1.5
		table, x, dy := normal(r, vocab, cols), normal(r, rows, cols), normal(r, rows, cols)
		ids := make([]int32, rows)
		for i := range ids {
			ids[i] = int32(r.IntN(vocab))
		}
		y, z := poisoned(rows, cols), poisoned(rows, cols)
		sameOnAnyPool(t, func(p *Pool) { Embed(p, y, table, ids, scale) }, y.Data)
		sameOnAnyPool(t, func(p *Pool) { AddPositions(p, z, x, table, ids) }, z.Data)
		rowsOf, x64 := dense(table), dense(x)
		first := normal(r, vocab, cols)
		dtable, dpositions := copyOf(first), copyOf(first)
		sameOnAnyPool(t, func(p *Pool) { copy(dtable.Data, first.Data); EmbedGrad(p, dtable, dy, ids, scale) }, dtable.Data)
		sameOnAnyPool(t, func(p *Pool) { copy(dpositions.Data, first.Data); PositionsGrad(p, dpositions, dy, ids) }, dpositions.Data)
		wantY, wantZ := make([]float64, rows*cols), make([]float64, rows*cols)
		wantGrad, wantPositions := dense(first), dense(first)
		for i, d := range dense(dy) {
			at := int(ids[i/cols])*cols + i%cols
			wantY[i] = scale * rowsOf[at]
			wantZ[i] = x64[i] + rowsOf[at]
			wantGrad[at] += scale * d
			wantPositions[at] += d
		}
		near(t, "y", dense(y), wantY, 1e-6)
		near(t, "with positions", dense(z), wantZ, 1e-6)
		near(t, "dtable", dense(dtable), wantGrad, 1e-5)
		near(t, "dpositions", dense(dpositions), wantPositions, 1e-5)
		p := NewPool(1)
		defer p.Close()
		AddPositions(p, x, x, table, ids)
		near(t, "in place", dense(x), dense(z), 0)
	})
}

func BenchmarkRowwise(b *testing.B) {
	const rows, cols = 1024, 2048
	r := rand.New(rand.NewPCG(1, 1))
	x, z, y, y2 := normal(r, rows, cols), normal(r, rows, cols), poisoned(rows, cols), poisoned(rows, cols)
	freqs := randoms(r, 32)
	table, positions := NewRopeTable(freqs, 1, rows, false), make([]int32, rows)
	for i := range positions {
		positions[i] = int32(i)
	}
	p := NewPool(0)
	defer p.Close()
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"add", func() { Add(p, y, x, z) }},
		{"glu", func() { GLU(p, y, x, z, SiLU) }},
		{"glugrad", func() { GLUGrad(p, y, y2, x, x, z, SiLU) }},
		{"softcap", func() { Softcap(p, y, x, 30) }},
		{"dropout", func() { Dropout(p, y, x, 0.1, rng.Key{}) }},
		{"rope", func() { RoPE(p, y, x, table, positions, cols/64, 64, false) }},
		{"embedgrad", func() { EmbedGrad(p, y, x, positions, 1) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(rows * cols * 8)
			b.ReportAllocs()
			for b.Loop() {
				c.run()
			}
		})
	}
}
