package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
)

// cpuKernels names the kernel of each op on the CPU, a function of runtime/cpu; "" where the op is no work: a view, or
// something the generated code does by itself.
var cpuKernels = map[string]string{
	"embed": "Embed", "add_positions": "AddPositions", "layernorm": "LayerNorm", "rmsnorm": "RMSNorm", "linear": "Linear",
	"bias": "AddBias", "act": "Activate", "glu": "GLU", "add": "Add", "scale": "Scale", "softcap": "Softcap",
	"dropout": "Dropout", "rope": "RoPE", "split": "", "concat": "Copy", "last": "Copy", "cast": "",
	"attention": "Attention", "attention_cached": "AttentionCached", "attention_grad": "AttentionGrad",
	"count": "Count", "zero": "", "cross_entropy": "CrossEntropy", "cross_entropy_grad": "CrossEntropyGrad",
	"head_loss": "HeadLoss", "head_loss_grad": "HeadLossGrad",
	"add_layernorm": "AddLayerNorm", "add_rmsnorm": "AddRMSNorm",
	"embed_grad": "EmbedGrad", "positions_grad": "PositionsGrad", "layernorm_grad": "LayerNormGrad", "rmsnorm_grad": "RMSNormGrad",
	"linear_dx": "LinearInputGrad", "linear_dw": "LinearWeightGrad", "bias_grad": "BiasGrad",
	"act_grad": "ActivateGrad", "glu_grad": "GLUGrad", "softcap_grad": "SoftcapGrad",
	"zero_grads": "Zero", "grad_norm": "GradNorm", "adamw": "AdamW",
}

// cudaOnly are ops that passes write for GPUs alone.
var cudaOnly = []string{"turn_amax", "amax", "quantize", "linear_fp8", "linear_quantize", "linear_dw_fp8", "linear_glu", "linear_glu_dx"}

// lower writes the kernel of every op. An op that the target has no kernel for is an error.
func lower(f *ir.Func, o Options) (int, error) {
	if o.Target.CUDA {
		return lowerCUDA(f), nil
	}
	n := 0
	var err error
	f.Walk(func(op *ir.Op) {
		if op.Loop != nil {
			return
		}
		k, ok := cpuKernels[op.Kind]
		if !ok && err == nil {
			err = fmt.Errorf("%s (%v): no kernel for it on %s", op.Kind, op.Pos, o.Target.Name)
		}
		if op.Str("weights") != "" {
			k += "Narrow"
		}
		if k != "" && op.Str("kernel") == "" {
			op.Attrs["kernel"] = k
			n++
		}
	})
	return n, err
}

// fewRows is how many rows a product has at most that is bound by the bytes of its weights.
const fewRows = 64

// lowerCUDA names the kernel of every op on a CUDA device; package cudagen has its body and tile. Where there is a choice,
// it is made here: products go to cuBLASLt, those of the few rows of a decode step to a kernel that streams the weights.
func lowerCUDA(f *ir.Func) int {
	n := 0
	f.Walk(func(op *ir.Op) {
		if op.Loop != nil || op.Str("kernel") != "" {
			return
		}
		k := op.Kind
		switch op.Kind {
		case "split", "cast": // views
			return
		case "linear_quantize": // a product of our own, whose kernel is chosen with it
			k = "product_quantize"
		case "linear", "linear_dx", "linear_dw", "linear_fp8", "linear_dw_fp8", "linear_glu", "linear_glu_dx":
			k = "cublaslt"
			if x := op.Args[0].Type; f.Name == "decode" && x.Rows() <= fewRows {
				k = "small_linear"
			}
		}
		op.Attrs["kernel"] = k
		n++
	})
	return n
}
