package passes

import "github.com/tfc-dev/tfc/ir"

// precision gives activations the type that the spec asks for. Weights stay f32 masters; statistics of norms and
// attention, scalars and losses stay f32, since they are few and sums. A target without the type keeps f32. With tf32 all is
// f32, and the products may round their operands, where the target has units for that: all GPUs have. On the CPU bf16 is such a
// rounding, too, in training: its caches hold a layer's activations, and it has no faster units for what is not a product. With
// fp8 all is as with bf16: the pass fp8 comes later.
func precision(f *ir.Func, o Options) (int, error) {
	switch {
	case o.Precision == "tf32" && o.Target.CUDA:
		return roundProducts(f, "tf32", "linear", "head_loss"), nil
	case (o.Precision == "bf16" || o.Precision == "fp8") && !o.Target.CUDA && (f.Name == "train" || f.Name == "eval"):
		return roundProducts(f, "bf16", "linear", "head_loss", "attention"), nil
	}
	want := map[string]ir.DType{"f32": ir.F32, "bf16": ir.BF16, "fp16": ir.F16, "fp8": ir.BF16}[o.Precision]
	has := false
	for _, t := range o.Target.Types {
		has = has || t == want
	}
	if !has || want == ir.F32 {
		return 0, nil
	}
	n := 0
	set := func(v *ir.Value) {
		if v.Type.DType == ir.F32 && len(v.Type.Dims) > 0 {
			v.Type.DType = want
			n++
		}
	}
	f.Walk(func(op *ir.Op) {
		for i, r := range op.Results {
			if keep := keptF32[op.Kind]; keep == 0 || i < keep || op.Kind == "head_loss" && i == 2 {
				set(r) // the tile of a head loss becomes the operand of products
			}
		}
		if op.Loop != nil {
			for _, c := range op.Loop.Carries {
				set(c)
			}
		}
	})
	return n, nil
}

// roundProducts has the products of ops of some kinds round their operands to a type.
func roundProducts(f *ir.Func, to string, kinds ...string) int {
	n := 0
	for _, op := range opsOf(f, kinds...) {
		if !op.Bool(to) {
			op.Attrs[to] = true
			n++
		}
	}
	return n
}

// keptF32 names the ops whose results from an index on stay f32.
var keptF32 = map[string]int{"layernorm": 1, "rmsnorm": 1, "add_layernorm": 2, "add_rmsnorm": 2, "attention": 1, "cross_entropy": 1, "head_loss": 1}
