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

// lower writes the kernel of every op. An op that the target has no kernel for is an error.
func lower(f *ir.Func, o Options) (int, error) {
	if o.Target.CUDA {
		return 0, fmt.Errorf("there are no %s kernels yet; build for the cpu target", o.Target.Name)
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
		if k != "" && op.Str("kernel") == "" {
			op.Attrs["kernel"] = k
			n++
		}
	})
	return n, err
}
