package passes

import (
	"fmt"
	"strings"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// fp8Side is what matrix units of 8 bits want rows, columns and the summed index of a product to be multiples of.
const fp8Side = 16

// The types of operands in 8 bits. Micikevicius et al. (arXiv 2209.05433) give gradients E5M2, for its range. With a scale of its own for
// each tensor the 17 binary orders of E4M3 are range enough, and its third digit shows in the loss: bench/results/2026-11-26-fp8-gradients.md.
const (
	fp8Forward  = ir.E4M3
	fp8Gradient = ir.E4M3
)

// fp8 gives the products of layers operands in 8 bits: forward, of the input's gradient and of the weight's. Each operand is
// divided by a scale of its own, and is there in two layouts, for both operands of a product must have the summed index as their columns.
// The scale is for twice the largest magnitude of the step before (delayed scaling, Micikevicius et al.), or where there was none for
// what it is now, so that what computes a value can write it in 8 bits at once. Weights are quantised before the first micro-batch, once a
// step. The output head, attention, and products whose sides are no multiples of 16 stay as they are, and so does everything where the
// target has no such products.
func fp8(f *ir.Func, o Options) (int, error) {
	if f.Name != "train" || o.Precision != "fp8" || !takesFP8(o.Target) {
		return 0, nil
	}
	b := ir.NewBuilder(f, f.Body)
	b.By = "fp8"
	q := &quantizer{Builder: b, made: map[quantized]*ir.Op{}, loops: map[string]*ir.Op{}}
	n := 0
	for _, op := range layerProducts(f) {
		q.layers = max(q.layers, layerWeight(op).Param.To)
	}
	for _, op := range layerProducts(f) {
		if fp8Refuses(op) != "" {
			continue
		}
		q.product(op)
		n++
	}
	if q.histories > 0 {
		b.Before(f.Body.Ops[0])
		b.Pos = spec.Pos{}
		b.Op("turn_amax", nil, nil, ir.Attrs{"slots": q.histories * q.layers})
	}
	return n, nil
}

func takesFP8(t *ir.Target) bool { return t.Takes(fp8Forward) && t.Takes(fp8Gradient) }

// layerProducts are the products by a layer's weights whose operands have 16 or 32 bits.
func layerProducts(f *ir.Func) []*ir.Op {
	var list []*ir.Op
	for _, op := range opsOf(f, "linear", "linear_dx", "linear_dw") {
		if w := layerWeight(op); w != nil && w.Param.Axis != "" {
			list = append(list, op)
		}
	}
	return list
}

// layerWeight is the parameter that a product reads, or whose gradient it gives.
func layerWeight(op *ir.Op) *ir.Value {
	w := op.Args[1]
	if op.Kind == "linear_dw" {
		w = op.Into[0]
	}
	if w.Param == nil {
		return nil
	}
	return w
}

// fp8Refuses says why a product cannot have operands in 8 bits; "" where it can.
func fp8Refuses(op *ir.Op) string {
	x, w := op.Args[0], layerWeight(op)
	if x.Type.DType != ir.BF16 {
		return fmt.Sprintf("its operands are %s, not bf16", x.Type.DType)
	}
	sides := []struct {
		n    int
		what string
	}{{x.Type.Rows(), "rows"}, {w.Type.Rows(), "outputs"}, {w.Type.Cols(), "inputs"}}
	for _, s := range sides {
		if s.n%fp8Side != 0 {
			return fmt.Sprintf("%d %s are no multiple of %d", s.n, s.what, fp8Side)
		}
	}
	if op.Str("act") != "" || op.Kind != "linear_dw" && (op.Args[2] != nil || op.Args[3] != nil) {
		return "it does more than multiply"
	}
	return ""
}

// FP8Left says what of f, a function that all passes have seen, is not in 8 bits though the spec asks for it, and why: nothing but the
// products of layers in training is counted.
func FP8Left(f *ir.Func, o Options) []string {
	if f.Name != "train" || o.Precision != "fp8" {
		return nil
	}
	if !takesFP8(o.Target) {
		return []string{fmt.Sprintf("all products: %s has none in 8 bits", o.Target.Name)}
	}
	var list []string
	for _, op := range layerProducts(f) {
		why := fp8Refuses(op)
		if why == "" {
			why = "the pass is switched off"
		}
		list = append(list, fmt.Sprintf("%s of %s: %s", op.Kind, layerWeight(op).Param.Name, why))
	}
	return list
}

// quantized names a value in a type of 8 bits.
type quantized struct {
	of *ir.Value
	to ir.DType
}

// quantizer makes the operands of products.
type quantizer struct {
	*ir.Builder
	made  map[quantized]*ir.Op
	loops map[string]*ir.Op // over the layers of families of weights

	histories int // so many values have one, of a slot a layer
	layers    int
}

// product puts one of 8 bits in op's place.
func (q *quantizer) product(op *ir.Op) {
	w := layerWeight(op)
	switch op.Kind {
	case "linear":
		x, u := q.value(op.Args[0], fp8Forward, op), q.weight(w, op)
		q.replace(op, x.Results[0], u.Results[0], x.Results[2], u.Results[2])
	case "linear_dx":
		dy, u := q.value(op.Args[0], fp8Gradient, op), q.weight(w, op)
		q.replace(op, dy.Results[0], u.Results[1], dy.Results[2], u.Results[2])
	case "linear_dw":
		dy, x := q.value(op.Args[0], fp8Gradient, op), q.value(op.Args[1], fp8Forward, op)
		q.Before(op)
		q.Pos = op.Pos
		q.Op("linear_dw_fp8", nil, []*ir.Value{dy.Results[1], x.Results[1], dy.Results[2], x.Results[2]}, nil, op.Into[0])
		op.Remove()
	}
}

// replace puts x·wᵀ in op's place.
func (q *quantizer) replace(op *ir.Op, x, w, xScale, wScale *ir.Value) {
	old := op.Result()
	q.Before(op)
	q.Pos = op.Pos
	q.Free(old.Name)
	made := q.Op("linear_fp8", []string{old.Name}, []*ir.Value{x, w, xScale, wScale, nil, nil}, nil)
	made.Result().Type = old.Type
	q.Func.Replace(old, made.Result())
	op.Remove()
}

// value quantises v where it is computed, for op to read.
func (q *quantizer) value(v *ir.Value, to ir.DType, op *ir.Op) *ir.Op {
	key := quantized{v, to}
	if made := q.made[key]; made != nil {
		return made
	}
	q.Pos = op.Pos
	switch {
	case v.Op == nil: // what a loop carries
		if ops := v.Block.Ops; len(ops) > 0 {
			q.Before(ops[0])
		}
	default:
		q.Pos = v.Op.Pos
		if ops := v.Block.Ops; ops[len(ops)-1] == v.Op {
			q.AtEnd(v.Block)
		} else {
			q.Before(ops[indexOf(v.Op)+1])
		}
	}
	q.made[key] = q.quantize(v, v.Name, to)
	return q.made[key]
}

// weight quantises w, for op to read, at the start of the step.
func (q *quantizer) weight(w *ir.Value, op *ir.Op) *ir.Op {
	key := quantized{w, fp8Forward}
	if made := q.made[key]; made != nil {
		return made
	}
	p := w.Param
	over := fmt.Sprint(p.Axis, p.From, p.To)
	loop := q.loops[over]
	if loop == nil {
		q.Before(firstLoop(q.Func))
		q.Pos = op.Pos
		loop = q.For(ir.Loop{Var: "l", Axis: p.Axis, From: p.From, To: p.To}, nil, nil)
		q.loops[over] = loop
	}
	q.AtEnd(loop.Loop.Body)
	q.Pos = op.Pos
	segments := strings.Split(p.Name, ".")
	q.made[key] = q.quantize(w, strings.Join(segments[max(0, len(segments)-2):], "_"), fp8Forward)
	return q.made[key]
}

// quantize appends what finds the largest magnitude of v and quantises it.
func (q *quantizer) quantize(v *ir.Value, name string, to ir.DType) *ir.Op {
	history := 1 + q.histories*q.layers
	q.histories++
	amax := q.Op("amax", []string{name + "_amax"}, []*ir.Value{v, nil, nil}, ir.Attrs{"history": history}).Result()
	return q.Op("quantize", []string{name + "_q", name + "_qt", name + "_scale"}, []*ir.Value{v, amax, nil, nil}, ir.Attrs{"history": history, "to": string(to)})
}

// firstLoop is the first loop of f's own block that carries something: over micro-batches.
func firstLoop(f *ir.Func) *ir.Op {
	for _, op := range f.Body.Ops {
		if op.Loop != nil && len(op.Loop.Carries) > 0 {
			return op
		}
	}
	panic("passes: a train function has no loop")
}
