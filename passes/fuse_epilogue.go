package passes

import (
	"maps"
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// fuseEpilogue merges into a product what is done to its result: a bias, an activation, a residual add; and into the
// backward products and norms the add of the other gradient of the same value. On a GPU, a backward product that ends with the
// derivative of an activation also sums the gradient of the bias before that, and attention's gradient that of the bias of queries, keys and values.
func fuseEpilogue(f *ir.Func, o Options) (int, error) {
	n := 0
	for _, op := range opsOf(f, "bias") {
		n += fuseBias(f, op)
	}
	for _, op := range opsOf(f, "act") {
		n += fuseActivation(f, op)
	}
	for _, op := range opsOf(f, "act_grad") {
		if o.Target != nil && o.Target.CUDA {
			n += fuseActivationGrad(f, op)
		}
	}
	for _, op := range opsOf(f, "add") {
		n += fuseResidual(f, op, o.Target != nil && o.Target.CUDA)
	}
	for _, op := range opsOf(f, "bias_grad") {
		if o.Target != nil && o.Target.CUDA {
			n += fuseColumnSums(op)
		}
	}
	return n, nil
}

// onlyReader says whether reader alone reads v, in v's own block.
func onlyReader(f *ir.Func, v *ir.Value, reader *ir.Op) bool {
	uses := f.Uses()[v]
	return len(uses) == 1 && uses[0] == reader && v.Block == reader.Block
}

// readBefore says whether v, of at's block, is read before at, where the op that gives it is about to move.
func readBefore(f *ir.Func, v *ir.Value, at *ir.Op) bool {
	for _, u := range f.Uses()[v] {
		for u != nil && u.Block != at.Block { // a read inside of a loop is a read by the loop
			u = u.Block.Loop
		}
		if u != nil && u != at && indexOf(u) < indexOf(at) {
			return true
		}
	}
	return false
}

// remake replaces op by one with other operands, before at; its results take the names and readers of olds.
func remake(f *ir.Func, op, at *ir.Op, args []*ir.Value, attrs ir.Attrs, olds ...*ir.Value) *ir.Op {
	b := ir.NewBuilder(f, f.Body)
	b.Before(at)
	b.Pos, b.By = op.Pos, "fuse-epilogue"
	names := make([]string, len(olds))
	for i, v := range olds {
		b.Free(v.Name)
		names[i] = v.Name
	}
	made := b.Op(op.Kind, names, args, attrs, op.Into...)
	for i, v := range olds {
		made.Results[i].Type = v.Type
		f.Replace(v, made.Results[i])
	}
	return made
}

// biasOf is where each op takes the bias that is added to its result. Products in 8 bits have no activations: cuBLASLt does not
// offer them beside results in 16 bits.
var biasOf = map[string]int{"linear": 2, "linear_fp8": 4}

func fuseBias(f *ir.Func, bias *ir.Op) int {
	lin := bias.Args[0].Op
	if lin == nil {
		return 0
	}
	at, ok := biasOf[lin.Kind]
	if !ok || lin.Args[at] != nil || lin.Args[residualOf[lin.Kind]] != nil || lin.Str("act") != "" || !onlyReader(f, lin.Result(), bias) {
		return 0
	}
	lin.Remove()
	args := append([]*ir.Value(nil), lin.Args...)
	args[at] = bias.Args[1]
	remake(f, lin, bias, args, lin.Attrs, bias.Result())
	bias.Remove()
	return 1
}

// fuseActivation also serves where the backward pass reads the value before the activation: the fused product gives both.
func fuseActivation(f *ir.Func, act *ir.Op) int {
	lin := act.Args[0].Op
	if lin == nil || lin.Kind != "linear" || lin.Args[3] != nil || lin.Str("act") != "" || lin.Block != act.Block {
		return 0
	}
	if readBefore(f, lin.Result(), act) {
		return 0
	}
	attrs := maps.Clone(lin.Attrs)
	attrs["act"] = act.Str("fn")
	remake(f, lin, act, lin.Args, attrs, act.Result(), lin.Result())
	lin.Remove()
	act.Remove()
	return 1
}

// fuseActivationGrad lets the product that gives the gradient of an activation's result give that of what it was computed
// from.
func fuseActivationGrad(f *ir.Func, grad *ir.Op) int {
	dx := grad.Args[0].Op
	if dx == nil || dx.Kind != "linear_dx" || dx.Args[2] != nil || dx.Args[3] != nil || !onlyReader(f, dx.Result(), grad) {
		return 0
	}
	attrs := maps.Clone(dx.Attrs)
	if attrs == nil {
		attrs = ir.Attrs{}
	}
	attrs["act"] = grad.Str("fn")
	remake(f, dx, grad, []*ir.Value{dx.Args[0], dx.Args[1], nil, grad.Args[1]}, attrs, grad.Result())
	dx.Remove()
	grad.Remove()
	return 1
}

// fuseColumnSums has the product, or the attention, that gives a gradient sum its columns.
func fuseColumnSums(sum *ir.Op) int {
	giver := sum.Args[0].Op
	switch {
	case giver == nil:
		return 0
	case giver.Kind == "concat":
		if giver = attentionOf(giver); giver == nil {
			return 0
		}
	case giver.Kind != "linear_dx" || giver.Str("act") == "":
		return 0
	}
	if len(giver.Into) > 0 || giver.Block != sum.Block {
		return 0
	}
	giver.Into = sum.Into
	sum.Remove()
	return 1
}

// attentionOf returns the op whose gradients of queries, keys and values join has side by side, or nil.
func attentionOf(join *ir.Op) *ir.Op {
	op := join.Args[0].Op
	if op == nil || op.Kind != "attention_grad" || !slices.Equal(join.Args, op.Results) {
		return nil
	}
	return op
}

// residualOf is where each op takes the value that is added to its result.
var residualOf = map[string]int{"linear": 3, "linear_dx": 2, "linear_fp8": 5, "layernorm_grad": 4, "rmsnorm_grad": 4}

// fuseResidual leaves an add behind an activation to itself where the activation is a kernel of its own.
func fuseResidual(f *ir.Func, add *ir.Op, cuda bool) int {
	if add.Float("by") != 0 || len(add.Result().Type.Dims) == 0 {
		return 0
	}
	for i := 1; i >= 0; i-- {
		v, other := add.Args[i], add.Args[1-i]
		op := v.Op
		if op == nil || v == other || v != op.Result() || !onlyReader(f, v, add) {
			continue
		}
		at, ok := residualOf[op.Kind]
		if !ok || op.Args[at] != nil || op.Str("act") != "" && (cuda || op.Kind == "linear_dx") { // whose activation comes last
			continue
		}
		if len(op.Results) > 1 && readBefore(f, op.Results[1], add) {
			continue
		}
		args := append([]*ir.Value(nil), op.Args...)
		args[at] = other
		made := remake(f, op, add, args, op.Attrs, append([]*ir.Value{add.Result()}, op.Results[1:]...)...)
		made.Pos = op.Pos
		op.Remove()
		add.Remove()
		return 1
	}
	return 0
}
