package passes

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// quantize lets the products of generation read their weights in the type that the spec asks for, where the target has
// kernels for it: those of prefill and decode, the output head among them; and the embedding, where it shares its table with
// such a product. Keys and values are cached in bf16 then: beside such weights, those in f32 would be a good part of what a
// step reads. Norms, biases and positions stay f32, since they are few. A target without the type reads what training
// uses, as with precision.
func quantize(f *ir.Func, o Options) (int, error) {
	if !slices.Contains(o.Target.Weights, o.Weights) || f.Name != "prefill" && f.Name != "decode" {
		return 0, nil
	}
	n := 0
	set := func(op *ir.Op) {
		if op.Attrs == nil {
			op.Attrs = ir.Attrs{}
		}
		op.Attrs["weights"] = o.Weights
		n++
	}
	narrow := map[*ir.Value]bool{}
	for _, op := range opsOf(f, "linear") {
		if op.Str("weights") == "" && op.Args[0].Type.DType == ir.F32 {
			set(op)
			narrow[op.Args[1]] = true
		}
	}
	if n == 0 {
		return 0, nil
	}
	for _, p := range f.Params {
		if p.Cache && p.Type.DType == ir.F32 {
			p.Type.DType, p.Value.Type.DType = ir.BF16, ir.BF16
			n++
		}
	}
	for _, op := range opsOf(f, "embed") {
		if op.Str("weights") == "" && narrow[op.Args[1]] {
			set(op)
		}
	}
	return n, nil
}
