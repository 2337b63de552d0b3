package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// eachInBF16 is eachTiling for the tilings that weights in bf16 meet.
func eachInBF16(t *testing.T, f func(t *testing.T, v *tiling, p *Pool)) {
	t.Helper()
	eachTiling(t, func(t *testing.T, v *tiling, bf16 bool) {
		if bf16 {
			p := NewPool(2).InBF16()
			defer p.Close()
			f(t, v, p)
		}
	})
}

// TestPackWeights holds panels made of weights in bf16 to those made of the same numbers as floats, bit for bit.
func TestPackWeights(t *testing.T) {
	eachInBF16(t, func(t *testing.T, v *tiling, p *Pool) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, d := range [][5]int{{64, 64, 0, 0, 64}, {50, 70, 0, 0, 70}, {50, 71, 32, 64, 7}, {33, 97, 0, 32, 65}, {17, 33, 0, 0, 33}, {96, 33, 64, 32, 1}} {
			rows, cols, j, l, k := d[0], d[1], d[2], d[3], d[4]
			m := stored(BF16, normal(r, rows, cols), true)
			w := newNarrow(p, BF16, m)
			n := rows - j
			got, want := make([]float32, v.packed(n, k)), make([]float32, v.packed(n, k))
			fill(got, nan)
			v.packWeights(got, &w, j, n, l, k)
			v.packB.panels(want, operand{m, true}, j, n, l, k)
			steps := v.steps(k)
			for i := range n {
				for s := range steps {
					at := i/v.nr*v.nr*steps + s*v.nr + i%v.nr
					if g, w := math.Float32bits(got[at]), math.Float32bits(want[at]); g != w {
						t.Fatalf("%v: step %d of row %d is %#x, want %#x", d, s, i, g, w)
					}
				}
			}
		}
	})
}

// TestNarrowProduct holds products with weights in bf16 to those of training in bf16 with the same numbers, bit for bit.
func TestNarrowProduct(t *testing.T) {
	eachInBF16(t, func(t *testing.T, _ *tiling, p *Pool) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, d := range [][3]int{{24, 512, 64}, {31, 333, 129}, {150, 129, 31}, {75, 129, 1100}, {25, 2100, 40}, {300, 70, 90}} {
			rows, out, in := d[0], d[1], d[2]
			x, m := normal(r, rows, in), stored(BF16, normal(r, out, in), true)
			w := newNarrow(p, BF16, m)
			bias, residual := randoms(r, out), normal(r, rows, out)
			for _, e := range []Epilogue{
				{}, {Bias: bias}, {Bias: bias, Act: GELUTanh}, {Act: SiLU, Pre: poisoned(rows, out)}, {Bias: bias, Residual: residual}, {Act: ReLU, Residual: residual},
			} {
				got, want := poisoned(rows, out), poisoned(rows, out)
				Linear(p, want, x, m, e)
				pre := dense(e.Pre)
				for _, s := range p.scratch {
					poisonScratch(s)
				}
				fill(p.product.packed, nan)
				LinearNarrow(p, got, x, &w, e)
				if !slices.Equal(dense(got), dense(want)) || !slices.Equal(dense(e.Pre), pre) {
					t.Fatalf("%v %+v: not what training in bf16 computes", d, e.Act)
				}
			}
		}
	})
}
