package passes

import (
	"fmt"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// projection is a linear op, and the bias op that alone reads it, if there is one.
type projection struct{ linear, bias *ir.Op }

// out is what the projection gives.
func (p projection) out() *ir.Value {
	if p.bias != nil {
		return p.bias.Result()
	}
	return p.linear.Result()
}

// projectionOf traces v back to the projection it comes from, through ops that work on each column range by itself.
func projectionOf(v *ir.Value, uses map[*ir.Value][]*ir.Op, through ...string) (projection, bool) {
	op := v.Op
	for op != nil && contains(through, op.Kind) {
		op = op.Args[0].Op
	}
	var p projection
	if op != nil && op.Kind == "bias" {
		if p.bias, op = op, op.Args[0].Op; op == nil || len(uses[op.Result()]) != 1 {
			return p, false
		}
	}
	p.linear = op
	plain := op != nil && op.Kind == "linear" && op.Args[2] == nil && op.Args[3] == nil && op.Str("act") == ""
	return p, plain
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// canPack says whether projections may become one product: of one value, with weights (and biases, all or none) that
// nothing else reads and that live side by side.
func canPack(ps []projection, uses map[*ir.Value][]*ir.Op) bool {
	first := ps[0]
	for i, p := range ps {
		if p.linear.Args[0] != first.linear.Args[0] || p.linear.Block != first.linear.Block || (p.bias == nil) != (first.bias == nil) {
			return false
		}
		if !alike(p.linear.Args[1], first.linear.Args[1], uses) || p.linear.Result().Type.DType != first.linear.Result().Type.DType {
			return false
		}
		if p.bias != nil && !alike(p.bias.Args[1], first.bias.Args[1], uses) {
			return false
		}
		for _, q := range ps[:i] {
			if q.linear == p.linear {
				return false
			}
		}
	}
	return true
}

// alike says whether two parameters may be parts of one: single leaves of the same family range, each read once.
func alike(a, b *ir.Value, uses map[*ir.Value][]*ir.Op) bool {
	p, q := a.Param, b.Param
	return len(p.Parts) == 0 && p.Axis == q.Axis && p.From == q.From && p.To == q.To && p.Decay == q.Decay &&
		p.Type.DType == q.Type.DType && len(uses[a]) == 1
}

// pack merges projections into one product called name, whose columns are split again.
func pack(f *ir.Func, ps []projection, name, by string) {
	b := ir.NewBuilder(f, f.Body)
	first := ps[0].linear
	for _, p := range ps[1:] { // the earliest in the block: the value they read is there
		if indexOf(p.linear) < indexOf(first) {
			first = p.linear
		}
	}
	b.Before(first)
	b.Pos, b.By = ps[0].linear.Pos, by
	packed := func(arg int, of func(projection) *ir.Op) *ir.Value {
		var parts []*ir.Param
		var dims []ir.Dim
		for _, p := range ps {
			q := of(p).Args[arg].Param
			parts, dims = append(parts, q), append(dims, q.Type.Dims[0])
		}
		q := *parts[0]
		q.Parts, q.Value = parts, nil
		q.Type = ir.Type{DType: q.Type.DType, Dims: append([]ir.Dim{ir.SumDims(dims)}, q.Type.Dims[1:]...)}
		// layers.q.weight, layers.k.weight, layers.v.weight pack as layers.qkv.weight
		segments := strings.Split(parts[0].Name, ".")
		segments[max(0, len(segments)-2)] = name
		q.Name = strings.Join(segments, ".")
		return b.AddParam(q)
	}
	y := b.Op("linear", []string{name}, []*ir.Value{first.Args[0], packed(1, func(p projection) *ir.Op { return p.linear }), nil, nil}, nil).Result()
	if ps[0].bias != nil {
		y = b.Op("bias", []string{name}, []*ir.Value{y, packed(1, func(p projection) *ir.Op { return p.bias })}, nil).Result()
	}
	var names, sizes []string
	for _, p := range ps {
		names = append(names, p.out().Name)
		sizes = append(sizes, p.linear.Result().Type.Last().Attr())
		b.Free(p.out().Name)
	}
	parts := b.Op("split", names, []*ir.Value{y}, ir.Attrs{"parts": sizes}).Results
	for i, p := range ps {
		parts[i].Type.DType = y.Type.DType
		f.Replace(p.out(), parts[i])
		p.linear.Remove()
		if p.bias != nil {
			p.bias.Remove()
		}
	}
}

func indexOf(op *ir.Op) int {
	for i, o := range op.Block.Ops {
		if o == op {
			return i
		}
	}
	panic(fmt.Sprintf("passes: %s is not in its block", op.Kind))
}

func opsOf(f *ir.Func, kinds ...string) []*ir.Op {
	var ops []*ir.Op
	f.Walk(func(op *ir.Op) {
		if contains(kinds, op.Kind) {
			ops = append(ops, op)
		}
	})
	return ops
}

// packOperands packs the projections behind the first n operands of each op of the given kinds.
func packOperands(f *ir.Func, n int, name, by string, through []string, kinds ...string) (int, error) {
	fired := 0
	for _, op := range opsOf(f, kinds...) {
		uses := f.Uses()
		var ps []projection
		for _, v := range op.Args[:n] {
			p, ok := projectionOf(v, uses, through...)
			if !ok {
				break
			}
			ps = append(ps, p)
		}
		if len(ps) == n && canPack(ps, uses) {
			pack(f, ps, name, by)
			fired++
		}
	}
	return fired, nil
}
