package cpu

import "math"

// optimChunk is the number of elements in a part of the kernels over whole parameter buffers.
const optimChunk = 1 << 15

// zeroing holds the operands of Zero.
type zeroing struct{ x []float32 }

// Zero sets x to 0.
func Zero(p *Pool, x []float32) {
	p.note("Zero", cost{bytes: floats(x)})
	p.zeroing = zeroing{x}
	p.run(&p.zeroing, ceil(len(x), optimChunk))
}

func (t *zeroing) part(i int, _ *scratch) { clear(t.x[i*optimChunk : min((i+1)*optimChunk, len(t.x))]) }

// gradNorm holds the operands of GradNorm.
type gradNorm struct {
	g        []float32
	partials []float64 // a sum of squares a chunk
}

// GradNorm returns the L2 norm of g. Squares are summed in float64, in chunks of a fixed size.
func GradNorm(p *Pool, g []float32) float32 {
	p.note("GradNorm", cost{bytes: floats(g)})
	n := ceil(len(g), optimChunk)
	t := &p.gradNorm
	t.g = g
	if len(t.partials) < n {
		t.partials = make([]float64, n)
	}
	p.run(t, n)
	var sum float64
	for _, s := range t.partials[:n] {
		sum += s
	}
	return float32(math.Sqrt(sum))
}

func (t *gradNorm) part(i int, _ *scratch) {
	x := t.g[i*optimChunk : min((i+1)*optimChunk, len(t.g))]
	t.partials[i] = sumSquares64(x, 0)
}

// AdamWStep is what one step of AdamW needs besides its buffers.
type AdamWStep struct {
	LR, Beta1, Beta2, Eps float32
	WeightDecay           float32 // of the weights, per step times LR; 0 for a segment without decay
	GradScale             float32 // factor on the gradients: 1, or what clips their norm
	Step                  int     // counted from 1
}

// factors returns the numbers the update of one parameter multiplies by, worked out in float64.
func (o AdamWStep) factors() [9]float32 {
	lr, beta1, beta2 := float64(o.LR), float64(o.Beta1), float64(o.Beta2)
	correct1 := 1 - math.Pow(beta1, float64(o.Step))
	correct2 := 1 - math.Pow(beta2, float64(o.Step))
	return [9]float32{
		float32(1 - lr*float64(o.WeightDecay)), o.GradScale,
		o.Beta1, float32(1 - beta1), o.Beta2, float32(1 - beta2),
		float32(1 / math.Sqrt(correct2)), o.Eps, float32(lr / correct1),
	}
}

// adamw holds the operands of AdamW.
type adamw struct {
	w, g, m, v []float32
	factors    [9]float32
}

// AdamW takes one step of AdamW with decoupled weight decay (Loshchilov and Hutter 2019), in the order of operations of
// torch.optim.AdamW: the weights decay first, and eps is added to the corrected root. w are the weights, g their
// gradients, m and v the first and second moments, all of one length; g is not changed.
func AdamW(p *Pool, w, g, m, v []float32, o AdamWStep) {
	p.note("AdamW", cost{bytes: floats(w, w, g, m, m, v, v)}) // g is only read
	p.adamw = adamw{w, g[:len(w)], m[:len(w)], v[:len(w)], o.factors()}
	p.run(&p.adamw, ceil(len(w), optimChunk))
}

func (t *adamw) part(i int, _ *scratch) {
	from, to := i*optimChunk, min((i+1)*optimChunk, len(t.w))
	w, g, m, v := t.w[from:to], t.g[from:to], t.m[from:to], t.v[from:to]
	f := &t.factors
	for j := adamwVector(w, g, m, v, f); j < len(w); j++ {
		grad := g[j] * f[1]
		m[j] = f[2]*m[j] + f[3]*grad
		v[j] = f[4]*v[j] + f[5]*(grad*grad)
		root := float32(math.Sqrt(float64(v[j])))*f[6] + f[7]
		w[j] = w[j]*f[0] - f[8]*(m[j]/root)
	}
}
