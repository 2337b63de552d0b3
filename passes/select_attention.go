package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
)

// attentionKernel is a kernel, and what it can do.
type attentionKernel struct {
	name     string
	op       string
	cuda     bool
	feature  string     // the target must have it, "" for any
	types    []ir.DType // of q, k and v
	headDim  int        // largest, 0 for any
	multiple int        // the head's width must be a multiple of it
	minRows  int        // fewest query rows it pays for
}

// attentionKernels is searched in order: the first that fits is taken. All take every pattern: tiles that a mask
// empties are skipped, and those it cuts are masked element by element.
var attentionKernels = []attentionKernel{
	{name: "flash_mma", op: "attention", cuda: true, feature: "mma", types: []ir.DType{ir.BF16, ir.F16}, headDim: 256, multiple: 8, minRows: 1},
	{name: "tiled", op: "attention", cuda: true, types: []ir.DType{ir.F32, ir.BF16, ir.F16}, multiple: 1},
	{name: "split_kv", op: "attention_cached", cuda: true, types: []ir.DType{ir.F32, ir.BF16, ir.F16}, multiple: 1},
	{name: "tiled", op: "attention", types: []ir.DType{ir.F32}, multiple: 1},
	{name: "cached", op: "attention_cached", types: []ir.DType{ir.F32}, multiple: 1},
}

func selectAttention(f *ir.Func, o Options) (int, error) {
	n := 0
	for _, op := range opsOf(f, "attention", "attention_cached") {
		if op.Str("kernel") != "" {
			continue
		}
		q := op.Args[0].Type
		rows := q.Dims[len(q.Dims)-2].Size
		for _, k := range attentionKernels {
			if k.fits(op, o.Target, q.DType, rows) {
				op.Attrs["kernel"] = k.name
				n++
				break
			}
		}
		if op.Str("kernel") == "" {
			return n, fmt.Errorf("no attention kernel for %s of %d-wide heads in %s on %s", op.Kind, op.Int("head_dim"), q.DType, o.Target.Name)
		}
	}
	return n, nil
}

func (k attentionKernel) fits(op *ir.Op, t *ir.Target, d ir.DType, rows int) bool {
	if k.op != op.Kind || k.cuda != t.CUDA || k.feature != "" && !t.Has(k.feature) || rows < k.minRows {
		return false
	}
	if e := op.Int("head_dim"); k.headDim > 0 && e > k.headDim || e%k.multiple != 0 {
		return false
	}
	for _, x := range k.types {
		if x == d {
			return true
		}
	}
	return false
}
