package cudagen_test

import (
	"fmt"
	"math"
	"slices"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// plain is what an op gives when it is computed step by step with every step rounded to type d, as an eager framework
// does: the measure of what a kernel in that type may be off. Results come as ir.Eval's; gradients are added to state's.
func plain(f *ir.Func, in map[string]*ir.Tensor, state *ir.State, d ir.DType) ([]*ir.Tensor, error) {
	op := f.Body.Ops[len(f.Body.Ops)-1]
	switch op.Kind {
	case "attention":
		return plainAttention(op, in, d), nil
	case "attention_grad":
		out := plainAttentionGrad(op, in, d)
		for _, b := range op.Into {
			state.Grads[b.Name] = ir.NewTensor(b.Type.Cols())
			at := 0
			for _, x := range out {
				cols := x.Shape[len(x.Shape)-1]
				for i, v := range x.Data {
					state.Grads[b.Name].Data[at+i%cols] += v
				}
				at += cols
			}
		}
		return out, nil
	case "add_layernorm", "add_rmsnorm": // the norm reads a rounded sum
		sum, zero := ir.NewTensor(in["a"].Shape...), ir.NewTensor(in["a"].Shape...)
		for i := range sum.Data {
			sum.Data[i] = ir.Round(in["a"].Data[i]+in["b"].Data[i], d)
		}
		in = map[string]*ir.Tensor{"a": sum, "b": zero}
	case "head_loss", "head_loss_grad":
		return plainHead(f, op, in, state, d), nil
	case "linear_glu", "linear_glu_dx":
		return plainGLU(f, op, in, state, d)
	}
	fn := op.Str("act")
	if pre := op.Args; op.Kind == "linear_dx" && fn != "" { // the product is rounded before the activation's derivative
		op.Args, op.Attrs["act"] = append(slices.Clone(pre[:3]), nil), ""
		defer func() { op.Args, op.Attrs["act"] = pre, fn }()
	}
	out, err := ir.Eval(f, in, state)
	if err != nil {
		return nil, err
	}
	for i, r := range f.Results {
		if r.Block != nil {
			roundTo(out[i], r.Type.DType)
		}
	}
	switch {
	case fn != "" && op.Kind == "linear_dx":
		out[0] = elementwise("act_grad", fn, out[0], in["p"])[0]
		roundTo(out[0], d)
	case fn != "": // the activation reads a rounded value
		out[0] = elementwise("act", fn, out[1])[0]
		roundTo(out[0], d)
	}
	return out, nil
}

// plainGLU is a product that is rounded, and then a gated activation or its derivative.
func plainGLU(f *ir.Func, op *ir.Op, in map[string]*ir.Tensor, state *ir.State, d ir.DType) ([]*ir.Tensor, error) {
	kind, args, into, results, fn := op.Kind, op.Args, op.Into, f.Results, op.Str("fn")
	f.Results = op.Results
	if kind == "linear_glu_dx" { // the product alone
		op.Kind, op.Args, op.Into = "linear_dx", append(slices.Clone(args[:2]), nil, nil), nil
	}
	out, err := ir.Eval(f, in, state)
	op.Kind, op.Args, op.Into, f.Results = kind, args, into, results
	if err != nil {
		return nil, err
	}
	wide := out[0]
	if kind == "linear_glu" {
		wide = out[1]
	}
	roundTo(wide, d)
	if kind == "linear_glu" {
		gate, up := columns(wide, 0, 2), columns(wide, 1, 2)
		y := elementwise("glu", fn, gate, up)[0]
		roundTo(y, d)
		return []*ir.Tensor{y, wide}, nil
	}
	pre := in["p"]
	halves := elementwise("glu_grad", fn, wide, columns(pre, 0, 2), columns(pre, 1, 2))
	both, cols := ir.NewTensor(pre.Shape...), wide.Shape[len(wide.Shape)-1]
	for i := range wide.Data {
		for h, half := range halves {
			both.Data[i/cols*2*cols+h*cols+i%cols] = ir.Round(half.Data[i], d)
		}
	}
	if len(into) > 0 {
		sums := ir.NewTensor(2 * cols)
		for i, v := range both.Data {
			sums.Data[i%(2*cols)] += v
		}
		state.Grads[into[0].Param.Name] = sums
	}
	return []*ir.Tensor{both}, nil
}

// columns is part i of n of x's columns.
func columns(x *ir.Tensor, i, n int) *ir.Tensor {
	cols := x.Shape[len(x.Shape)-1]
	part := ir.NewTensor(len(x.Data)/cols, cols/n)
	for k := range part.Data {
		part.Data[k] = x.Data[k/(cols/n)*cols+i*(cols/n)+k%(cols/n)]
	}
	return part
}

// elementwise is an op of ir's with an activation.
func elementwise(kind, fn string, xs ...*ir.Tensor) []*ir.Tensor {
	shape := ir.Type{DType: ir.F32, Dims: []ir.Dim{{Expr: "N", Size: len(xs[0].Data)}}}
	f := &ir.Func{Name: "f", Symbols: []ir.Symbol{{Name: "N", Size: len(xs[0].Data)}}, Body: &ir.Block{}}
	in := map[string]*ir.Tensor{}
	for i, x := range xs {
		v := &ir.Value{Name: fmt.Sprint("x", i), Type: shape}
		f.Inputs = append(f.Inputs, v)
		in[v.Name] = x
	}
	f.Results = ir.NewBuilder(f, f.Body).Op(kind, []string{"y", "z"}[:len(ir.Table[kind].Results)], f.Inputs, ir.Attrs{"fn": fn}).Results
	out, err := ir.Eval(f, in, ir.NewState())
	if err != nil {
		panic(err)
	}
	return out
}

// plainHead is the output head and its loss on rounded logits.
func plainHead(f *ir.Func, op *ir.Op, in map[string]*ir.Tensor, state *ir.State, d ir.DType) []*ir.Tensor {
	x, targets := in["x"], in["targets"]
	rows, cols := len(targets.Data), x.Shape[len(x.Shape)-1]
	w := state.Weights["w"].Data
	vocab := len(w) / cols
	n, scale, cap := 1.0, op.Float("scale"), op.Float("softcap")
	if in["n"] != nil {
		n = in["n"].Data[0]
	}
	if scale == 0 {
		scale = 1
	}
	bias := make([]float64, vocab)
	if b := state.Weights["b"]; b != nil {
		bias = b.Data
	}
	loss, losses, dx := ir.NewTensor(), ir.NewTensor(rows), ir.NewTensor(rows, cols)
	dw, db := ir.NewTensor(vocab, cols), ir.NewTensor(vocab)
	for r := range rows {
		z, slope := make([]float64, vocab), make([]float64, vocab)
		top := math.Inf(-1)
		for v := range z {
			for c := range cols {
				z[v] += x.Data[r*cols+c] * w[v*cols+c]
			}
			z[v] = ir.Round(ir.Round(z[v]+bias[v], d)*scale, d)
			slope[v] = scale
			if cap > 0 {
				th := math.Tanh(z[v] / cap)
				z[v], slope[v] = ir.Round(cap*th, d), scale*(1-th*th)
			}
			top = max(top, z[v])
		}
		sum := 0.0
		for _, v := range z {
			sum += math.Exp(v - top)
		}
		target := int(targets.Data[r])
		if target < 0 {
			continue
		}
		losses.Data[r] = top + math.Log(sum) - z[target]
		loss.Data[0] += losses.Data[r] / n
		for v := range z {
			g := math.Exp(z[v]-top) / sum
			if v == target {
				g--
			}
			g = ir.Round(ir.Round(g/n, d)*slope[v], d)
			db.Data[v] += g
			for c := range cols {
				dx.Data[r*cols+c] += g * w[v*cols+c]
				dw.Data[v*cols+c] += g * x.Data[r*cols+c]
			}
		}
	}
	if op.Kind == "head_loss" {
		return []*ir.Tensor{loss, losses, nil}
	}
	roundTo(dx, d)
	state.Grads["w"] = dw
	if state.Weights["b"] != nil {
		state.Grads["b"] = db
	}
	return []*ir.Tensor{loss, dx, losses, nil}
}

func roundTo(x *ir.Tensor, d ir.DType) {
	for i, v := range x.Data {
		x.Data[i] = ir.Round(v, d)
	}
}

// attn reads an attention op's operands.
type attn struct {
	op            *ir.Op
	q, k, v       *ir.Tensor
	batch, t      int
	heads, shared int // query heads, and those of one key-value head
	width         int
	round         func(float64) float64
	key           rng.Key
}

func newAttn(op *ir.Op, q, k, v *ir.Tensor, in map[string]*ir.Tensor, d ir.DType) attn {
	a := attn{op: op, q: q, k: k, v: v, heads: op.Int("heads"), shared: op.Int("heads") / op.Int("kv_heads"), width: op.Int("head_dim")}
	a.t = q.Shape[len(q.Shape)-2]
	a.batch = len(q.Data) / (a.t * a.heads * a.width)
	a.round = func(x float64) float64 { return ir.Round(x, d) }
	if s := in["seed"]; s != nil {
		a.key = rng.Key{Seed: uint64(s.Data[0]), Step: uint32(in["step"].Data[0]), Stream: uint32(op.Int("stream"))}
	}
	return a
}

func (a attn) row(x *ir.Tensor, b, i, h int) []float64 {
	cols := x.Shape[len(x.Shape)-1]
	return x.Data[(b*a.t+i)*cols+h*a.width:][:a.width]
}

// probabilities are row i of the rounded softmax, the slopes of the cap, and the log of the sum.
func (a attn) probabilities(b, h, i int) (p, slope, drop []float64, lse float64) {
	p, slope, drop = make([]float64, a.t), make([]float64, a.t), make([]float64, a.t)
	top := math.Inf(-1)
	allowed := a.op.Patterns("mask")[0].Allowed
	for j := range p {
		p[j], slope[j], drop[j] = math.Inf(-1), 1, 1
		if prob := a.op.Float("dropout"); prob > 0 {
			drop[j] = 0
			if n := ((uint64(b)*uint64(a.heads)+uint64(h))*uint64(a.t)+uint64(i))*uint64(a.t) + uint64(j); a.key.Keep(n, float32(prob)) {
				drop[j] = 1 / (1 - prob)
			}
		}
		if !allowed(i, j) {
			continue
		}
		s := 0.0
		for c, x := range a.row(a.q, b, i, h) {
			s += x * a.row(a.k, b, j, h/a.shared)[c]
		}
		s = a.round(s) * a.op.Float("scale")
		if cap := a.op.Float("softcap"); cap > 0 {
			th := math.Tanh(a.round(s) / cap)
			s, slope[j] = cap*th, 1-th*th
		}
		if a.op.Bool("alibi") {
			s -= ir.AlibiSlopes(a.heads)[h] * math.Abs(float64(i-j))
		}
		p[j] = a.round(s)
		top = max(top, p[j])
	}
	lse = math.Inf(-1)
	if math.IsInf(top, -1) {
		clear(p)
		return p, slope, drop, lse
	}
	sum := 0.0
	for j := range p {
		p[j] = math.Exp(p[j] - top)
		sum += p[j]
	}
	for j := range p {
		p[j] = a.round(p[j] / sum)
	}
	return p, slope, drop, top + math.Log(sum)
}

func plainAttention(op *ir.Op, in map[string]*ir.Tensor, d ir.DType) []*ir.Tensor {
	a := newAttn(op, in["q"], in["k"], in["v"], in, d)
	o := ir.NewTensor(a.q.Shape...)
	lse := ir.NewTensor(a.batch*a.t, a.heads)
	for b := range a.batch {
		for h := range a.heads {
			for i := range a.t {
				p, _, drop, l := a.probabilities(b, h, i)
				lse.Data[(b*a.t+i)*a.heads+h] = l
				to := a.row(o, b, i, h)
				for j := range p {
					for c, x := range a.row(a.v, b, j, h/a.shared) {
						to[c] += a.round(p[j]*drop[j]) * x
					}
				}
			}
		}
	}
	roundTo(o, d)
	return []*ir.Tensor{o, lse}
}

func plainAttentionGrad(op *ir.Op, in map[string]*ir.Tensor, d ir.DType) []*ir.Tensor {
	a := newAttn(op, in["q"], in["k"], in["v"], in, d)
	do := in["do"]
	dq, dk, dv := ir.NewTensor(a.q.Shape...), ir.NewTensor(a.k.Shape...), ir.NewTensor(a.v.Shape...)
	for b := range a.batch {
		for h := range a.heads {
			for i := range a.t {
				p, slope, drop, _ := a.probabilities(b, h, i)
				g := a.row(do, b, i, h)
				dp, sum := make([]float64, a.t), 0.0
				for j := range p {
					for c, x := range a.row(a.v, b, j, h/a.shared) {
						dp[j] += g[c] * x
						a.row(dv, b, j, h/a.shared)[c] += a.round(p[j]*drop[j]) * g[c]
					}
					dp[j] = a.round(a.round(dp[j]) * drop[j])
					sum += p[j] * dp[j]
				}
				for j := range p {
					ds := a.round(p[j] * (dp[j] - sum) * slope[j] * op.Float("scale"))
					for c := range g {
						a.row(dq, b, i, h)[c] += ds * a.row(a.k, b, j, h/a.shared)[c]
						a.row(dk, b, j, h/a.shared)[c] += ds * a.row(a.q, b, i, h)[c]
					}
				}
			}
		}
	}
	for _, x := range []*ir.Tensor{dq, dk, dv} {
		roundTo(x, d)
	}
	return []*ir.Tensor{dq, dk, dv}
}
