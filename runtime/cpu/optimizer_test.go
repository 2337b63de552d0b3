package cpu

import (
	"math"
	"math/rand/v2"
	"testing"
)

// adamw64 is one step of torch.optim.AdamW in float64.
func adamw64(w, g, m, v []float64, o AdamWStep) {
	b1, b2 := float64(o.Beta1), float64(o.Beta2)
	for i := range w {
		grad := g[i] * float64(o.GradScale)
		w[i] *= 1 - float64(o.LR)*float64(o.WeightDecay)
		m[i] = b1*m[i] + (1-b1)*grad
		v[i] = b2*v[i] + (1-b2)*grad*grad
		root := math.Sqrt(v[i])/math.Sqrt(1-math.Pow(b2, float64(o.Step))) + float64(o.Eps)
		w[i] -= float64(o.LR) / (1 - math.Pow(b1, float64(o.Step))) * m[i] / root
	}
}

func TestAdamW(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 15, 16, 33, 2*optimChunk + 19} {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			w, m, v := randoms(r, n), make([]float32, n), make([]float32, n)
			w64, m64, v64 := wide(w), wide(m), wide(v)
			p := NewPool(2)
			for step := 1; step <= 5; step++ {
				g := randoms(r, n)
				for i := range g {
					g[i] *= 0.01
				}
				o := AdamWStep{LR: 1e-2, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1 * float32(step%2), GradScale: 0.5, Step: step}
				kept := append([]float32(nil), g...)
				AdamW(p, w, g, m, v, o)
				adamw64(w64, wide(g), m64, v64, o)
				near(t, "g", wide(g), wide(kept), 0)
			}
			near(t, "w", wide(w), w64, 2e-6)
			near(t, "m", wide(m), m64, 1e-8)
			near(t, "v", wide(v), v64, 1e-10)
			p.Close()
		}
	})
}

func TestGradNorm(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		p := NewPool(2)
		defer p.Close()
		for _, n := range []int{0, 1, 15, 16, 33, optimChunk, 3*optimChunk + 19} {
			g := randoms(rand.New(rand.NewPCG(uint64(n), 2)), n)
			want := 0.0
			for _, x := range g {
				want += float64(x) * float64(x)
			}
			if got := GradNorm(p, g); got != float32(math.Sqrt(want)) && ulps(got, math.Sqrt(want)) > 1 {
				t.Fatalf("%d elements: %g, want %g", n, got, math.Sqrt(want))
			}
		}
		big := []float32{3e30, 4e30}
		if got := GradNorm(p, big); got != 5e30 {
			t.Fatalf("norm of large elements is %g", got)
		}
	})
}

func TestOptimizerPools(t *testing.T) {
	const n = 3*optimChunk + 7
	r := rand.New(rand.NewPCG(1, 3))
	w0, g := randoms(r, n), randoms(r, n)
	w, m, v, norm, zeros := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, 1), make([]float32, n)
	sameOnPools(t, func(p *Pool) {
		copy(w, w0)
		Zero(p, m)
		Zero(p, v)
		Zero(p, zeros)
		norm[0] = GradNorm(p, g)
		AdamW(p, w, g, m, v, AdamWStep{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, GradScale: 1 / norm[0], Step: 3})
	}, w, m, v, norm, zeros)
	for i, x := range zeros {
		if x != 0 {
			t.Fatalf("element %d is %g after Zero", i, x)
		}
	}
}

func BenchmarkAdamW(b *testing.B) {
	const n = 1 << 20
	r := rand.New(rand.NewPCG(1, 3))
	w, g, m, v := randoms(r, n), randoms(r, n), make([]float32, n), make([]float32, n)
	p := NewPool(2)
	defer p.Close()
	b.SetBytes(n * 28)
	for b.Loop() {
		AdamW(p, w, g, m, v, AdamWStep{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, GradScale: 1, Step: 3})
	}
}

func BenchmarkGradNorm(b *testing.B) {
	const n = 1 << 20
	g := randoms(rand.New(rand.NewPCG(1, 3)), n)
	p := NewPool(2)
	defer p.Close()
	b.SetBytes(n * 4)
	for b.Loop() {
		GradNorm(p, g)
	}
}
