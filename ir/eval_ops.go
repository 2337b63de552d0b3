package ir

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/rng"
)

func one(t *Tensor) []*Tensor { return []*Tensor{t} }

// each applies fn to every element.
func each(x *Tensor, fn func(v float64, i int) float64) *Tensor {
	y := x.like()
	for i, v := range x.Data {
		y.Data[i] = fn(v, i)
	}
	return y
}

func evalEmbed(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	tokens, table := in[0], in[1]
	weights := op.Str("weights")
	y := NewTensor(append(append([]int(nil), tokens.Shape...), table.cols())...)
	for n, tok := range tokens.Data {
		for c, w := range narrowed(weights, table.row(int(tok)), true) {
			y.row(n)[c] = op.Float("scale") * w
		}
	}
	return one(y)
}

func evalEmbedGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	d := NewTensor(op.Into[0].Type.Shape()...)
	for n, tok := range in[1].Data {
		for c, g := range in[0].row(n) {
			d.row(int(tok))[c] += op.Float("scale") * g
		}
	}
	e.addGrad(op.Into[0], d.Data)
	return nil
}

func evalAddPositions(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(v float64, i int) float64 {
		n, c := i/in[0].cols(), i%in[0].cols()
		return v + in[1].row(int(in[2].Data[n]))[c]
	}))
}

func evalPositionsGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	d := NewTensor(op.Into[0].Type.Shape()...)
	for n, pos := range in[1].Data {
		for c, g := range in[0].row(n) {
			d.row(int(pos))[c] += g
		}
	}
	e.addGrad(op.Into[0], d.Data)
	return nil
}

// groups cuts the rows of x into the vectors a norm works on.
func groups(op *Op, x *Tensor) (width, n int) {
	width = x.cols()
	if g := op.Int("group"); g > 0 {
		width = g
	}
	return width, len(x.Data) / width
}

func evalLayerNorm(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x, w := in[0], in[1]
	width, n := groups(op, x)
	y, stats := x.like(), x.withCols(2*x.cols()/width)
	for g := range n {
		v := x.Data[g*width : (g+1)*width]
		mean, sq := 0.0, 0.0
		for _, a := range v {
			mean += a
		}
		mean /= float64(width)
		for _, a := range v {
			sq += (a - mean) * (a - mean)
		}
		rstd := 1 / math.Sqrt(sq/float64(width)+op.Float("eps"))
		stats.Data[2*g], stats.Data[2*g+1] = mean, rstd
		for i, a := range v {
			y.Data[g*width+i] = (a - mean) * rstd * w.Data[i]
			if in[2] != nil {
				y.Data[g*width+i] += in[2].Data[i]
			}
		}
	}
	return []*Tensor{y, stats}
}

func evalLayerNormGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	dy, x, w, stats, residual := in[0], in[1], in[2], in[3], in[4]
	width, n := groups(op, x)
	dx, dw, db := x.like(), make([]float64, width), make([]float64, width)
	for g := range n {
		mean, rstd := stats.Data[2*g], stats.Data[2*g+1]
		sum, dot := 0.0, 0.0
		for i := range width {
			k := g*width + i
			hat := (x.Data[k] - mean) * rstd
			sum += dy.Data[k] * w.Data[i]
			dot += dy.Data[k] * w.Data[i] * hat
			dw[i] += dy.Data[k] * hat
			db[i] += dy.Data[k]
		}
		for i := range width {
			k := g*width + i
			hat := (x.Data[k] - mean) * rstd
			dx.Data[k] = rstd * (dy.Data[k]*w.Data[i] - sum/float64(width) - hat*dot/float64(width))
			if residual != nil {
				dx.Data[k] += residual.Data[k]
			}
		}
	}
	e.addGrad(op.Into[0], dw)
	e.addGrad(op.Into[1], db)
	return one(dx)
}

func evalRMSNorm(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x, w := in[0], in[1]
	width, n := groups(op, x)
	y, stats := x.like(), x.withCols(x.cols()/width)
	for g := range n {
		v := x.Data[g*width : (g+1)*width]
		sq := 0.0
		for _, a := range v {
			sq += a * a
		}
		rstd := 1 / math.Sqrt(sq/float64(width)+op.Float("eps"))
		stats.Data[g] = rstd
		for i, a := range v {
			y.Data[g*width+i] = a * rstd * (op.Float("offset") + w.Data[i])
		}
	}
	return []*Tensor{y, stats}
}

func evalRMSNormGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	dy, x, w, stats, residual := in[0], in[1], in[2], in[3], in[4]
	width, n := groups(op, x)
	dx, dw := x.like(), make([]float64, width)
	for g := range n {
		rstd, dot := stats.Data[g], 0.0
		for i := range width {
			k := g*width + i
			dot += dy.Data[k] * (op.Float("offset") + w.Data[i]) * x.Data[k] * rstd
			dw[i] += dy.Data[k] * x.Data[k] * rstd
		}
		for i := range width {
			k := g*width + i
			dx.Data[k] = rstd * (dy.Data[k]*(op.Float("offset")+w.Data[i]) - x.Data[k]*rstd*dot/float64(width))
			if residual != nil {
				dx.Data[k] += residual.Data[k]
			}
		}
	}
	e.addGrad(op.Into[0], dw)
	return one(dx)
}

func evalAddNorm(norm func(*evaluator, *Op, []*Tensor) []*Tensor) func(*evaluator, *Op, []*Tensor) []*Tensor {
	return func(e *evaluator, op *Op, in []*Tensor) []*Tensor {
		sum := evalAdd(e, op, in[:2])[0]
		return append([]*Tensor{sum}, norm(e, op, append([]*Tensor{sum}, in[2:]...))...)
	}
}

// product returns x·wᵀ over the rows of x.
func product(x, w *Tensor) *Tensor {
	y := x.withCols(w.rows())
	eachRow(x.rows(), len(w.Data), func(n int) {
		for o := range w.rows() {
			sum := 0.0
			for i, a := range x.row(n) {
				sum += a * w.Data[o*w.cols()+i]
			}
			y.Data[n*w.rows()+o] = sum
		}
	})
	return y
}

// eachRow computes rows, of so many operations each, that do not depend on each other: several at once where that is worth it.
func eachRow(rows, operations int, row func(n int)) {
	workers := min(runtime.GOMAXPROCS(0), rows*operations>>16)
	if workers < 2 {
		for n := range rows {
			row(n)
		}
		return
	}
	var next atomic.Int64
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for n := int(next.Add(1)) - 1; n < rows; n = int(next.Add(1)) - 1 {
				row(n)
			}
		})
	}
	running.Wait()
}

func evalLinear(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	pre := product(narrowedRows(op, in[0], false), narrowedRows(op, in[1], true))
	if in[2] != nil {
		pre = each(pre, func(v float64, i int) float64 { return v + in[2].Data[i%pre.cols()] })
	}
	y := pre
	if fn := op.Str("act"); fn != "" {
		y = each(pre, func(v float64, _ int) float64 { return activate(fn, v) })
	}
	if in[3] != nil {
		y = each(y, func(v float64, i int) float64 { return v + in[3].Data[i] })
	}
	if len(op.Results) == 1 {
		return one(y)
	}
	return []*Tensor{y, pre}
}

func evalLinearDX(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	dx := linearDX(in[0], in[1], in[2])
	if fn := op.Str("act"); fn != "" {
		for i, x := range in[3].Data {
			dx.Data[i] *= slope(fn, x)
		}
	}
	if len(op.Into) > 0 {
		e.addGrad(op.Into[0], columnSums(dx))
	}
	return one(dx)
}

func evalLinearGLU(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	pre := product(in[0], in[1])
	if in[2] != nil {
		pre = each(pre, func(v float64, i int) float64 { return v + in[2].Data[i%pre.cols()] })
	}
	y := pre.withCols(pre.cols() / 2)
	for n := range y.rows() {
		gate, up := pre.row(n)[:y.cols()], pre.row(n)[y.cols():]
		for i := range y.row(n) {
			y.row(n)[i] = activate(op.Str("fn"), gate[i]) * up[i]
		}
	}
	return []*Tensor{y, pre}
}

func evalLinearGLUDX(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	d, pre, fn := linearDX(in[0], in[1], nil), in[2], op.Str("fn")
	dPre := pre.withCols(pre.cols())
	for n := range d.rows() {
		gate, up := pre.row(n)[:d.cols()], pre.row(n)[d.cols():]
		for i, g := range d.row(n) {
			dPre.row(n)[i] = g * up[i] * slope(fn, gate[i])
			dPre.row(n)[d.cols()+i] = g * activate(fn, gate[i])
		}
	}
	if len(op.Into) > 0 {
		e.addGrad(op.Into[0], columnSums(dPre))
	}
	return one(dPre)
}

// linearDX is dy·w, plus residual where there is one.
func linearDX(dy, w, residual *Tensor) *Tensor {
	dx := dy.withCols(w.cols())
	if residual != nil {
		copy(dx.Data, residual.Data)
	}
	eachRow(dy.rows(), len(w.Data), func(n int) {
		for o, g := range dy.row(n) {
			for i, a := range w.row(o) {
				dx.Data[n*w.cols()+i] += g * a
			}
		}
	})
	return dx
}

func evalLinearDW(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	dy, x := in[0], in[1]
	d := NewTensor(dy.cols(), x.cols())
	eachRow(dy.cols(), len(x.Data), func(o int) {
		for n := range dy.rows() {
			g := dy.row(n)[o]
			for i, a := range x.row(n) {
				d.Data[o*x.cols()+i] += g * a
			}
		}
	}) // in the order of n
	e.addGrad(op.Into[0], d.Data)
	return nil
}

func evalBias(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(v float64, i int) float64 { return v + in[1].Data[i%in[0].cols()] }))
}

func evalBiasGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	e.addGrad(op.Into[0], columnSums(in[0]))
	return nil
}

func columnSums(x *Tensor) []float64 {
	sums := make([]float64, x.cols())
	for i, v := range x.Data {
		sums[i%len(sums)] += v
	}
	return sums
}

// activate applies an activation; its derivative is slope.
func activate(fn string, x float64) float64 {
	switch fn {
	case "gelu":
		return 0.5 * x * math.Erfc(-x/math.Sqrt2)
	case "gelu_tanh":
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case "relu":
		return max(x, 0)
	case "relu2":
		return max(x, 0) * max(x, 0)
	case "silu":
		return x / (1 + math.Exp(-x))
	}
	panic("ir: unknown activation " + fn)
}

func slope(fn string, x float64) float64 {
	switch fn {
	case "gelu":
		return 0.5*math.Erfc(-x/math.Sqrt2) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
	case "gelu_tanh":
		k := math.Sqrt(2 / math.Pi)
		t := math.Tanh(k * (x + 0.044715*x*x*x))
		return 0.5*(1+t) + 0.5*x*(1-t*t)*k*(1+3*0.044715*x*x)
	case "relu":
		if x > 0 {
			return 1
		}
		return 0
	case "relu2":
		return 2 * max(x, 0)
	case "silu":
		s := 1 / (1 + math.Exp(-x))
		return s * (1 + x*(1-s))
	}
	panic("ir: unknown activation " + fn)
}

func evalAct(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(v float64, _ int) float64 { return activate(op.Str("fn"), v) }))
}

func evalActGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(d float64, i int) float64 { return d * slope(op.Str("fn"), in[1].Data[i]) }))
}

func evalGLU(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(g float64, i int) float64 { return activate(op.Str("fn"), g) * in[1].Data[i] }))
}

func evalGLUGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	dy, gate, up := in[0], in[1], in[2]
	return []*Tensor{
		each(dy, func(d float64, i int) float64 { return d * up.Data[i] * slope(op.Str("fn"), gate.Data[i]) }),
		each(dy, func(d float64, i int) float64 { return d * activate(op.Str("fn"), gate.Data[i]) }),
	}
}

func evalAdd(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	by := op.Float("by")
	if by == 0 {
		by = 1
	}
	return one(each(in[0], func(a float64, i int) float64 { return a + by*in[1].Data[i] }))
}

func evalScale(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(each(in[0], func(v float64, _ int) float64 { return op.Float("by") * v }))
}

func evalSoftcap(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	cap := op.Float("cap")
	return one(each(in[0], func(v float64, _ int) float64 { return cap * math.Tanh(v/cap) }))
}

func evalSoftcapGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	cap := op.Float("cap")
	return one(each(in[0], func(d float64, i int) float64 {
		t := math.Tanh(in[1].Data[i] / cap)
		return d * (1 - t*t)
	}))
}

// key is the random stream that op draws from now.
func (e *evaluator) key(op *Op, seed, step *Tensor) rng.Key {
	return rng.Key{Seed: uint64(seed.Data[0]), Step: uint32(step.Data[0]), Stream: uint32(op.Int("stream")),
		Micro: uint16(e.axes["micro"]), Layer: uint16(e.axes["layers"])}
}

func evalDropout(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	key, p := e.key(op, in[1], in[2]), float32(op.Float("p"))
	return one(each(in[0], func(v float64, i int) float64 {
		if !key.Keep(uint64(i), p) {
			return 0
		}
		return v / (1 - op.Float("p"))
	}))
}

func evalRoPE(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x, positions := in[0], in[1]
	e1, half := op.Int("head_dim"), 0
	freqs, mscale := Rotary(op)
	half = len(freqs)
	y := x.clone()
	for n := range x.rows() {
		for h := range op.Int("heads") {
			head := y.row(n)[h*e1 : (h+1)*e1]
			for i, freq := range freqs {
				// The angle is rounded as Transformers rounds it: frequency, position and product in float32.
				sin, cos := math.Sincos(float64(float32(freq) * float32(positions.Data[n])))
				if op.Bool("inverse") {
					sin = -sin
				}
				a, b := i, i+half
				if op.Bool("interleaved") {
					a, b = 2*i, 2*i+1
				}
				u, v := head[a], head[b]
				head[a], head[b] = mscale*(u*cos-v*sin), mscale*(v*cos+u*sin)
			}
		}
	}
	return one(y)
}

func evalSplit(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x := in[0]
	var parts []*Tensor
	at := 0
	for _, r := range op.Results {
		p := x.withCols(r.Type.Cols())
		for n := range x.rows() {
			copy(p.row(n), x.row(n)[at:])
		}
		at += r.Type.Cols()
		parts = append(parts, p)
	}
	return parts
}

func evalConcat(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	width := 0
	for _, p := range in {
		width += p.cols()
	}
	y := in[0].withCols(width)
	at := 0
	for _, p := range in {
		for n := range p.rows() {
			copy(y.row(n)[at:], p.row(n))
		}
		at += p.cols()
	}
	return one(y)
}
