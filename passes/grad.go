package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// grad appends the backward pass, reverse mode, after the loss in its own block, and the update at the function's end.
// A loop over layers is answered by a loop the other way, which reads the first one's values by layer.
func grad(f *ir.Func, o Options) (int, error) {
	losses := opsOf(f, "cross_entropy", "head_loss")
	if f.Name != "train" || len(opsOf(f, "adamw")) > 0 {
		return 0, nil
	}
	if len(losses) != 1 {
		return 0, fmt.Errorf("%s has %d losses, want one", f.Name, len(losses))
	}
	loss := losses[0]
	b := ir.NewBuilder(f, f.Body)
	b.By = "grad"
	d := &differentiator{g: &ir.Gradient{Builder: b}, d: map[*ir.Value]*ir.Value{}}

	// The loss op's own gradient stands right after it; the rest follows at the block's end, so that the sum of losses
	// keeps its place.
	block := loss.Block
	upTo := indexOf(loss)
	before := append([]*ir.Op(nil), block.Ops[:upTo]...)
	b.AtEnd(block)
	if loss.Kind == "head_loss" {
		b.Before(loss)
	}
	b.Pos = loss.Pos
	seeds := ir.Table[loss.Kind].Grad(d.g, loss, nil)
	b.AtEnd(block)
	d.d[loss.Args[0]] = seeds[0]
	d.ops(before)

	entry := f.Body.Ops[0]
	b.Before(entry)
	b.Pos = spec.Pos{}
	b.Op("zero_grads", nil, nil, nil)
	b.AtEnd(f.Body)
	norm := b.Op("grad_norm", []string{"grad_norm"}, nil, nil).Result()
	opt := o.Optimizer
	if len(opt.Betas) != 2 {
		return 0, fmt.Errorf("adamw needs two betas, has %d", len(opt.Betas))
	}
	b.Op("adamw", nil, []*ir.Value{norm, f.Input("lr"), f.Input("step")}, ir.Attrs{
		"beta1": opt.Betas[0], "beta2": opt.Betas[1], "eps": opt.Eps, "weight_decay": opt.WeightDecay, "clip": o.Clip})
	f.Results = append(f.Results, norm)
	return d.n, nil
}

// differentiator holds the gradients known so far.
type differentiator struct {
	g *ir.Gradient
	d map[*ir.Value]*ir.Value
	n int // ops differentiated
}

// ops differentiates a list of ops of one block, last to first, appending to the builder's block.
func (d *differentiator) ops(ops []*ir.Op) {
	for i := len(ops) - 1; i >= 0; i-- {
		op := ops[i]
		grads := make([]*ir.Value, len(op.Results))
		some := false
		for j, r := range op.Results {
			grads[j] = d.d[r]
			some = some || grads[j] != nil
		}
		if !some {
			continue
		}
		d.n++
		if op.Loop != nil {
			d.loop(op, grads)
			continue
		}
		d.g.Pos = op.Pos
		for j, da := range ir.Table[op.Kind].Grad(d.g, op, grads) {
			if da != nil && differentiable(op.Args[j]) {
				d.add(op.Args[j], da)
			}
		}
	}
}

func differentiable(v *ir.Value) bool {
	return v != nil && v.Param == nil && v.Block != nil
}

// add joins one more gradient of v to those known.
func (d *differentiator) add(v, dv *ir.Value) {
	if old := d.d[v]; old != nil {
		dv = d.g.Op("add", []string{"d_" + v.Name}, []*ir.Value{old, dv}, nil).Result()
	}
	d.d[v] = dv
}

func (d *differentiator) loop(op *ir.Op, grads []*ir.Value) {
	l := op.Loop
	var carried []int
	var names, ends []string
	var inits []*ir.Value
	for i, g := range grads {
		if g != nil {
			carried = append(carried, i)
			names = append(names, "d_"+l.Yield[i].Name)
			ends = append(ends, "d_"+op.Args[i].Name)
			inits = append(inits, g)
		}
	}
	d.g.Pos = op.Pos
	back := *l
	back.Reverse = !l.Reverse
	back.Carries, back.Yield, back.Body = nil, nil, nil
	outer := d.g.Block
	loop := d.g.For(back, names, inits)
	d.g.AtEnd(loop.Loop.Body)
	inner := &differentiator{g: d.g, d: map[*ir.Value]*ir.Value{}}
	for j, i := range carried {
		inner.add(l.Yield[i], loop.Loop.Carries[j])
	}
	inner.ops(l.Body.Ops)
	d.n += inner.n
	yields := make([]*ir.Value, len(carried))
	for j, i := range carried {
		yields[j] = inner.d[l.Carries[i]]
	}
	d.g.AtEnd(outer)
	for j, r := range d.g.EndFor(loop, yields, ends) {
		d.add(op.Args[carried[j]], r)
	}
}
