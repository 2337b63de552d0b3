package passes

import "github.com/tfc-dev/tfc/ir"

// fuseQKV packs the projections that feed an attention, whatever works on heads in between.
func fuseQKV(f *ir.Func, _ Options) (int, error) {
	return packOperands(f, 3, "qkv", "fuse-qkv", []string{"rope", "rmsnorm", "layernorm", "cast"}, "attention", "attention_cached")
}
