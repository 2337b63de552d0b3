package passes

import (
	"maps"

	"github.com/tfc-dev/tfc/ir"
)

// fuseQuantize lets the op that quantises a value sum it up for a bias's gradient, and compute it, where it is an activation or the
// gradient of one: what nobody else reads is then stored in 8 bits alone, and the rest in 8 and 16 bits at once.
func fuseQuantize(f *ir.Func, _ Options) (int, error) {
	n := 0
	for _, op := range opsOf(f, "bias_grad") {
		n += fuseBiasGrad(f, op)
	}
	for _, q := range opsOf(f, "quantize") {
		if q.Str("of") == "" && q.Args[0].Op != nil && q.Int("history") > 0 {
			n += fuseSource(f, q)
		}
	}
	return n, nil
}

// fuseBiasGrad has the op that quantises what a bias's gradient sums up give the sums.
func fuseBiasGrad(f *ir.Func, sum *ir.Op) int {
	for _, q := range f.Uses()[sum.Args[0]] {
		if q != nil && q.Kind == "quantize" && q.Args[0] == sum.Args[0] && q.Str("of") == "" && q.Block == sum.Block && len(q.Into) == 0 {
			q.Into = []*ir.Value{sum.Into[0]}
			sum.Remove()
			return 1
		}
	}
	return 0
}

// sourceOf returns the op that computes v, and what else is to go with it.
func sourceOf(f *ir.Func, v *ir.Value) (source *ir.Op, more []*ir.Op) {
	op := v.Op
	if op.Kind == "concat" && len(op.Args) == 2 {
		source := op.Args[0].Op
		if source == nil || source.Kind != "glu_grad" || op.Args[1] != source.Results[1] || op.Args[0] != source.Results[0] || source.Block != op.Block {
			return nil, nil
		}
		for _, r := range source.Results {
			if len(f.Uses()[r]) != 1 {
				return nil, nil
			}
		}
		return source, []*ir.Op{op}
	}
	if s, ok := ir.Sources[op.Kind]; !ok || s.Doubles {
		return nil, nil
	}
	return op, nil
}

func fuseSource(f *ir.Func, q *ir.Op) int {
	v, amax := q.Args[0], q.Args[1].Op
	source, more := sourceOf(f, v)
	if source == nil || source.Args[0].Type.Cols()%fp8Side != 0 || v.Block != q.Block || amax == nil || amax.Kind != "amax" || amax.Args[0] != v || !onlyReader(f, amax.Result(), q) {
		return 0
	}
	operands := make([]*ir.Value, 3)
	copy(operands, source.Args)
	attrs := ir.Attrs{"of": source.Kind, "fn": source.Str("fn")}
	maps.Copy(attrs, q.Attrs)
	b := ir.NewBuilder(f, f.Body)
	b.Before(q)
	b.By = "fuse-quantize"
	for _, r := range append([]*ir.Value{amax.Result()}, q.Results...) {
		b.Free(r.Name)
	}
	b.Pos = amax.Pos
	found := b.Op("amax", []string{amax.Result().Name}, operands, ir.Attrs{"of": attrs["of"], "fn": attrs["fn"], "history": attrs["history"]}).Result()
	names := []string{q.Results[0].Name, q.Results[1].Name, q.Results[2].Name}
	keep := len(f.Uses()[v]) > 2
	if keep {
		b.Free(v.Name)
		attrs["keep"] = true
		names = append(names, v.Name)
	}
	b.Pos = q.Pos
	made := b.Op("quantize", names, []*ir.Value{operands[0], found, operands[1], operands[2]}, attrs, q.Into...)
	for i, r := range q.Results {
		f.Replace(r, made.Results[i])
	}
	q.Remove()
	amax.Remove()
	if keep {
		made.Results[3].Type = v.Type
		f.Replace(v, made.Results[3])
	}
	for _, op := range append(more, source) {
		op.Remove()
	}
	return 1
}
