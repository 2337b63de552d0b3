package passes

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// fuseFP8 merges, where all GPUs of the program have Hopper's matrix units, what quantises an activation into the product in 8 bits that
// gives what it is computed of, and what quantises its gradient into the product before that: between them they keep what the derivative
// multiplies by, as those of fuseGLU do, so that all readers of that are merged or none is.
func fuseFP8(f *ir.Func, o Options) (int, error) {
	n := 0
	if !hopperAlone(o) {
		return n, nil
	}
	for _, q := range opsOf(f, "quantize") {
		if of := q.Str("of"); of == "act" || of == "glu" {
			n += fuseQuantizedActivation(f, q)
		}
	}
	return n, nil
}

// hopperAlone says whether the program runs on Hopper's matrix units and on no others.
func hopperAlone(o Options) bool {
	targets := []*ir.Target{o.Target}
	for _, arch := range o.Archs {
		targets = append(targets, ir.TargetNamed(arch))
	}
	return !slices.ContainsFunc(targets, func(t *ir.Target) bool { return t == nil || !t.Has("wgmma") || !t.Has("tma") })
}

// quantizedProduct is a product, what finds the largest magnitude of what is computed of it, and what quantises that.
type quantizedProduct struct{ product, amax, quantize *ir.Op }

// quantizedProductOf returns them as one where they are of one block and an end of a product does the same: that has no residual, and
// writes both layouts.
func quantizedProductOf(f *ir.Func, q *ir.Op, product, amax *ir.Op) (quantizedProduct, bool) {
	p, uses := quantizedProduct{product, amax, q}, f.Uses()
	return p, len(uses[q.Results[0]]) > 0 && len(uses[q.Results[1]]) > 0 && product != nil && product.Kind == "linear_fp8" && product.Args[5] == nil && product.Block == q.Block &&
		product.Args[0].Type.DType == ir.E4M3 && product.Args[1].Type.DType == ir.E4M3 &&
		amax != nil && amax.Kind == "amax" && amax.Block == q.Block && onlyReader(f, amax.Result(), q) &&
		q.Str("to") == string(ir.E4M3) && q.Int("history") > 0 && !q.Bool("keep")
}

func fuseQuantizedActivation(f *ir.Func, q *ir.Op) int {
	source, gradient := q.Args[0].Op, "act_grad"
	sources, removed := []*ir.Value{q.Args[0]}, []*ir.Op(nil)
	if q.Str("of") == "glu" {
		if source == nil || source.Kind != "split" || len(source.Results) != 2 || source.Block != q.Block || q.Args[0] != source.Results[0] || q.Args[2] != source.Results[1] ||
			!onlyReader(f, source.Args[0], source) {
			return 0
		}
		sources, gradient, removed = source.Results, "glu_grad", append(removed, source)
		source = source.Args[0].Op
	}
	forward, ok := quantizedProductOf(f, q, source, q.Args[1].Op)
	if !ok {
		return 0
	}
	var backward []quantizedProduct
	for _, use := range f.Uses()[sources[0]] {
		if use == q || use == forward.amax {
			continue
		}
		if use == nil || use.Str("of") != gradient || use.Str("fn") != q.Str("fn") || !slices.Equal(gradientSources(use), sources) {
			return 0
		}
		if use.Kind == "amax" { // which goes with what quantises
			continue
		}
		d := use.Args[0]
		b, ok := quantizedProductOf(f, use, d.Op, use.Args[1].Op)
		if !ok || b.product.Args[4] != nil || len(f.Uses()[d]) != 2 || b.amax.Args[0] != d {
			return 0
		}
		backward = append(backward, b)
	}
	for _, v := range sources { // by the two of each product
		if len(f.Uses()[v]) != 2*(1+len(backward)) {
			return 0
		}
	}
	kept := mergeQuantized(f, forward, nil)
	for _, b := range backward {
		mergeQuantized(f, b, kept)
	}
	for _, op := range append(removed, forward.product) {
		op.Remove()
	}
	for _, b := range backward {
		b.product.Remove()
	}
	return 1 + len(backward)
}

// gradientSources are the operands of amax or quantize, of the gradient of an activation, that the activation is computed of.
func gradientSources(op *ir.Op) []*ir.Value {
	args := op.Args[1:]
	if op.Kind == "quantize" {
		args = op.Args[2:]
	}
	return slices.DeleteFunc(slices.Clone(args), func(v *ir.Value) bool { return v == nil })
}

// mergeQuantized puts one op in the place of what quantises and finds the scale, and returns what that keeps.
func mergeQuantized(f *ir.Func, p quantizedProduct, kept *ir.Value) *ir.Value {
	q, lin := p.quantize, p.product
	b := ir.NewBuilder(f, f.Body)
	b.By = "fuse-fp8"
	b.Before(q)
	b.Pos = lin.Pos
	names := make([]string, 0, 4)
	for _, r := range q.Results {
		b.Free(r.Name)
		names = append(names, r.Name)
	}
	if kept == nil {
		b.Free(lin.Result().Name)
		names = append(names, lin.Result().Name)
	}
	attrs := ir.Attrs{"of": q.Str("of"), "fn": q.Str("fn"), "history": q.Int("history"), "to": q.Str("to")}
	made := b.Op("linear_quantize", names, append(slices.Clone(lin.Args[:5]), kept), attrs, q.Into...)
	for i, r := range q.Results {
		made.Results[i].Type = r.Type
		f.Replace(r, made.Results[i])
	}
	q.Remove()
	p.amax.Remove()
	if kept != nil {
		return kept
	}
	made.Results[3].Type = lin.Result().Type
	return made.Results[3]
}
