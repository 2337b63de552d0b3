package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// plainNorm is LayerNorm (centred) or RMSNorm in float64 over groups of len(w); b may be nil.
func plainNorm(x, w, b []float64, centred bool, eps, offset float64) []float64 {
	y := make([]float64, len(x))
	n := len(w)
	for at := 0; at < len(x); at += n {
		mean, square := 0.0, 0.0
		if centred {
			for _, v := range x[at : at+n] {
				mean += v / float64(n)
			}
		}
		for _, v := range x[at : at+n] {
			square += (v - mean) * (v - mean) / float64(n)
		}
		for i, v := range x[at : at+n] {
			y[at+i] = (v - mean) / math.Sqrt(square+eps) * (offset + w[i])
			if b != nil {
				y[at+i] += b[i]
			}
		}
	}
	return y
}

func TestLayerNorm(t *testing.T) {
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		for _, group := range []int{0, cols, max(1, cols/4)} {
			if group > 0 && cols%group != 0 {
				continue
			}
			for _, biased := range []bool{false, true} {
				n := LN{Eps: 1e-5, Group: group}
				width := groupOr(group, cols)
				x, dy, residual := normal(r, rows, cols), normal(r, rows, cols), normal(r, rows, cols)
				if width > 8 { // far from 0: the variance must not cancel
					for i := range rows {
						for c := range cols {
							x.Row(i)[c] += 30
						}
					}
				}
				w := randoms(r, width)
				var b []float32
				var b64 []float64
				if biased {
					b = randoms(r, width)
					b64 = wide(b)
				}
				y, dx := poisoned(rows, cols), poisoned(rows, cols)
				stats := make([]float32, 2*rows*cols/width)
				sameOnAnyPool(t, func(p *Pool) { LayerNorm(p, y, stats, x, w, b, n) }, y.Data, stats)
				x64, w64 := dense(x), wide(w)
				forward := func() []float64 { return plainNorm(x64, w64, b64, true, 1e-5, 0) }
				near(t, "y", dense(y), forward(), 3e-5)

				first := randoms(r, width)
				dw, db := make([]float32, width), make([]float32, width)
				add := Mat{}
				if biased {
					add = residual
				}
				sameOnAnyPool(t, func(p *Pool) {
					copy(dw, first)
					if !biased {
						LayerNormGrad(p, dx, dw, nil, dy, x, w, stats, add, n)
						copy(db, dw)
						return
					}
					copy(db, first)
					LayerNormGrad(p, dx, dw, db, dy, x, w, stats, add, n)
				}, dx.Data, dw, db)
				dx64, dw64, db64, dy64 := dense(dx), wide(dw), wide(db), dense(dy)
				for i := range dw64 {
					dw64[i] -= float64(first[i])
					db64[i] -= float64(first[i])
				}
				if biased {
					for i, v := range dense(residual) {
						dx64[i] -= v
					}
				}
				loss := func() float64 { return weighted(dy64, forward()) }
				if width > 2 { // the gradient of so small a group is all cancellation
					slopes(t, "dx", r, x64, dx64, loss)
				}
				slopes(t, "dw", r, w64, dw64, loss)
				if biased {
					slopes(t, "db", r, b64, db64, loss)
				}
			}
		}
	})
}

func TestRMSNorm(t *testing.T) {
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		for g, group := range []int{0, cols, max(1, cols/4)} {
			if group > 0 && cols%group != 0 {
				continue
			}
			n := RMS{Eps: 1e-6, Offset: float32(g % 2), Group: group}
			width := groupOr(group, cols)
			x, dy, residual, w := normal(r, rows, cols), normal(r, rows, cols), normal(r, rows, cols), randoms(r, width)
			y, dx := poisoned(rows, cols), poisoned(rows, cols)
			stats := make([]float32, rows*cols/width)
			sameOnAnyPool(t, func(p *Pool) { RMSNorm(p, y, stats, x, w, n) }, y.Data, stats)
			x64, w64, dy64 := dense(x), wide(w), dense(dy)
			forward := func() []float64 { return plainNorm(x64, w64, nil, false, float64(n.Eps), float64(n.Offset)) }
			near(t, "y", dense(y), forward(), 2e-6)

			dw := make([]float32, width)
			sameOnAnyPool(t, func(p *Pool) {
				clear(dw)
				RMSNormGrad(p, dx, dw, dy, x, w, stats, residual, n)
			}, dx.Data, dw)
			dx64 := dense(dx)
			for i, v := range dense(residual) {
				dx64[i] -= v
			}
			loss := func() float64 { return weighted(dy64, forward()) }
			if width > 1 {
				slopes(t, "dx", r, x64, dx64, loss)
			}
			slopes(t, "dw", r, w64, wide(dw), loss)
		}
	})
}

// The fused forms and the permitted aliases give the bits of the plain form.
func TestNormFusedAndAliased(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	eachShape(t, func(t *testing.T, r *rand.Rand, rows, cols int) {
		a, b, dy := normal(r, rows, cols), normal(r, rows, cols), normal(r, rows, cols)
		w, bias := randoms(r, cols), randoms(r, cols)
		sum, want := poisoned(rows, cols), poisoned(rows, cols)
		Add(p, sum, a, b)
		stats, stats2 := make([]float32, 2*rows), make([]float32, 2*rows)

		LayerNorm(p, want, stats, sum, w, bias, LN{Eps: 1e-5})
		s, y := copyOf(a), poisoned(rows, cols)
		AddLayerNorm(p, s, y, stats2, s, b, w, bias, LN{Eps: 1e-5})
		near(t, "sum", dense(s), dense(sum), 0)
		near(t, "y", dense(y), dense(want), 0)
		near(t, "stats", wide(stats2), wide(stats), 0)
		y = copyOf(sum)
		LayerNorm(p, y, nil, y, w, bias, LN{Eps: 1e-5})
		near(t, "y in place", dense(y), dense(want), 0)

		dx, dw := poisoned(rows, cols), make([]float32, cols)
		LayerNormGrad(p, dx, dw, nil, dy, sum, w, stats, b, LN{})
		res := copyOf(b)
		LayerNormGrad(p, res, dw, nil, dy, sum, w, stats, res, LN{})
		near(t, "dx in residual", dense(res), dense(dx), 0)
		g := copyOf(dy)
		LayerNormGrad(p, g, dw, nil, g, sum, w, stats, b, LN{})
		near(t, "dx in dy", dense(g), dense(dx), 0)
		xs := copyOf(sum)
		LayerNormGrad(p, xs, dw, nil, dy, xs, w, stats, b, LN{})
		near(t, "dx in x", dense(xs), dense(dx), 0)

		n := RMS{Eps: 1e-5, Offset: 1}
		RMSNorm(p, want, stats[:rows], sum, w, n)
		s = copyOf(b)
		AddRMSNorm(p, s, y, stats2[:rows], a, s, w, n)
		near(t, "sum", dense(s), dense(sum), 0)
		near(t, "y", dense(y), dense(want), 0)
		near(t, "stats", wide(stats2), wide(stats), 0)
	})
}

func BenchmarkNorm(b *testing.B) {
	const rows, cols = 1024, 768
	r := rand.New(rand.NewPCG(1, 1))
	x, dy, y, dx := normal(r, rows, cols), normal(r, rows, cols), poisoned(rows, cols), poisoned(rows, cols)
	w, dw, stats := randoms(r, cols), make([]float32, cols), make([]float32, 2*rows)
	p := NewPool(0)
	defer p.Close()
	for name, f := range map[string]func(){
		"layernorm":     func() { LayerNorm(p, y, stats, x, w, w, LN{Eps: 1e-5}) },
		"layernormgrad": func() { LayerNormGrad(p, dx, dw, dw, dy, x, w, stats, dy, LN{}) },
		"rmsnorm":       func() { RMSNorm(p, y, stats, x, w, RMS{Eps: 1e-5}) },
	} {
		b.Run(fmt.Sprintf("%s/%dx%d", name, rows, cols), func(b *testing.B) {
			b.SetBytes(rows * cols * 8)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}
