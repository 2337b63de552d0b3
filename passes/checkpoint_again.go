package passes

import "github.com/tfc-dev/tfc/ir"

// way says how the backward loop comes by the results of an op of the forward loop.
type way byte

const (
	keep   way = iota // reads them: the forward loop keeps them for every layer
	again             // runs the op again
	derive            // reads one result, and computes the others from it
)

// derivation is how the other results of an op follow from one of them by a cheaper op, to the same bits.
type derivation struct {
	from int    // the result that is kept
	op   *ir.Op // that gives the others; it is in no block
}

// derivationOf returns op's derivation, if there is one: an activation from the value before it, where that is as exact
// as the sum the product had in hand; a norm from the sum it is fused with.
func derivationOf(op *ir.Op) (derivation, bool) {
	switch op.Kind {
	case "linear":
		if op.Str("act") == "" || op.Args[3] != nil || op.Results[1].Type.DType != ir.F32 {
			break
		}
		return derivation{1, &ir.Op{Kind: "act", Args: op.Results[1:2], Attrs: ir.Attrs{"fn": op.Str("act")},
			Results: op.Results[:1], Pos: op.Pos}}, true
	case "add_layernorm", "add_rmsnorm":
		if op.Results[0].Type.DType != ir.F32 {
			break
		}
		args := append([]*ir.Value{op.Results[0]}, op.Args[2:]...)
		return derivation{0, &ir.Op{Kind: op.Kind[len("add_"):], Args: args, Attrs: op.Attrs, Results: op.Results[1:], Pos: op.Pos}}, true
	}
	return derivation{}, false
}

// recompute makes p's backward loop compute values again as ways say, one for each op of the forward loop's body. An op
// runs just before the first that reads its results, so that these live briefly; what it reads in turn is computed
// before it, or kept. name names the new values, nil leaves them the names of the old.
func recompute(p pair, ways []way, name func(string) string) {
	r := &recomputer{Cloner: ir.NewCloner(name), forward: p.forward.Loop.Body, backward: p.backward.Loop.Body, ways: map[*ir.Op]way{}}
	for i, op := range r.forward.Ops {
		r.ways[op] = ways[i]
	}
	for _, op := range r.backward.Ops {
		for i, a := range op.Args {
			op.Args[i] = r.value(a)
		}
		r.ops = append(r.ops, op)
	}
	r.backward.Ops = r.ops
}

// recomputer rewrites one backward loop; its cloner knows the values it has computed again.
type recomputer struct {
	*ir.Cloner
	forward, backward *ir.Block
	ways              map[*ir.Op]way
	ops               []*ir.Op // the backward loop's new body
}

// value returns what the backward loop reads for v, and adds the ops that compute it.
func (r *recomputer) value(v *ir.Value) *ir.Value {
	if v == nil || v.Op == nil || v.Block != r.forward {
		return v
	}
	if w := r.Values[v]; w != nil {
		return w
	}
	op := v.Op
	switch r.ways[op] {
	case keep:
		return v
	case derive:
		d, _ := derivationOf(op)
		if v == op.Results[d.from] {
			return v
		}
		op = d.op
	}
	for _, a := range op.Args {
		r.value(a)
	}
	made := r.Op(op, r.backward)
	made.By = "checkpoint"
	r.ops = append(r.ops, made)
	return r.Values[v]
}
