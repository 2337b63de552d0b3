package compile

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// Cost is what one call of a function costs: one optimizer step of train, one token of every sequence of decode.
type Cost struct {
	Bytes    float64 `json:"bytes"`    // moved, every operand read once and every result written once
	FLOPs    float64 `json:"flops"`    // floating-point operations, a multiply-add as two
	Launches float64 `json:"launches"` // kernels run
	Seconds  float64 `json:"seconds"`  // predicted: each kernel takes its FLOPs or its bytes, whichever is longer, and its launch
}

// Minus returns the difference of two costs.
func (c Cost) Minus(d Cost) Cost {
	return Cost{c.Bytes - d.Bytes, c.FLOPs - d.FLOPs, c.Launches - d.Launches, c.Seconds - d.Seconds}
}

// CostOf adds up the ops of f on a target (the roofline model of Williams, Waterman and Patterson, CACM 52(4), 2009).
func CostOf(f *ir.Func, target *ir.Target) Cost {
	c := costing{target: target, weights: weightElements(f)}
	turns(f.Body, 1, nil, c.add)
	return c.Cost
}

// turns calls do for each op below b that is no loop, with the times that it runs where b itself runs so many times, for
// these indices of the loop it is the body of.
func turns(b *ir.Block, times float64, indices []int, do func(op *ir.Op, times float64)) {
	for _, op := range b.Ops {
		l := op.Loop
		if l == nil {
			do(op, times)
			continue
		}
		inner := l.Indices(0)
		n := float64(len(inner))
		if l.Within != "" { // as many as the outer index leaves it, on average
			n = 0
			for _, i := range indices {
				n += float64(len(l.Indices(i))) / float64(len(indices))
			}
		}
		turns(l.Body, times*n, inner, do)
	}
}

type costing struct {
	Cost
	target  *ir.Target
	weights float64 // elements of all weights
}

// add adds an op that runs so many times.
func (c *costing) add(op *ir.Op, times float64) {
	if !isKernel(op) {
		return
	}
	flops, bytes := ir.Table[op.Kind].FLOPs(op), ir.Bytes(op)
	switch op.Kind { // these go over all weights, which are no operands
	case "zero_grads":
		bytes = 4 * c.weights
	case "grad_norm":
		bytes, flops = 4*c.weights, 2*c.weights
	case "adamw": // reads weight, gradient and both moments, writes all but the gradient
		bytes, flops = 28*c.weights, 14*c.weights
	}
	c.Bytes += times * bytes
	c.FLOPs += times * flops
	c.Launches += times
	c.Seconds += times * (max(flops/c.target.Rate(op), bytes/c.target.Bandwidth) + c.target.Launch)
}

// isKernel says whether an op is work: not a view of memory, nor arithmetic on scalars.
func isKernel(op *ir.Op) bool {
	switch op.Kind {
	case "split", "cast", "zero":
		return false
	case "zero_grads", "grad_norm", "adamw":
		return true
	}
	hasRows := func(v *ir.Value) bool { return v != nil && len(v.Type.Dims) > 0 }
	return slices.ContainsFunc(op.Args, hasRows) || slices.ContainsFunc(op.Results, hasRows)
}

// weightElements counts the elements of all weights of f.
func weightElements(f *ir.Func) float64 {
	n := 0.0
	for _, p := range f.Params {
		if !p.Cache && len(p.Parts) == 0 {
			n += float64(p.Type.Elems() * p.Members())
		}
	}
	return n
}
