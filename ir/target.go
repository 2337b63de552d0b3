package ir

import "slices"

// Target is a machine to compile for. A new GPU is a row here, and the rows of the kernels it has.
type Target struct {
	Name      string
	CUDA      bool
	Types     []DType  // element types its products take
	Weights   []string // types of weights that its products in generation read, beside f32 and those of Types
	FLOPs     float64  // of products in f32, a second: what plans are estimated by
	Bandwidth float64  // bytes a second
	Launch    float64  // seconds one kernel costs beside its work
	HeadTile  int      // logits that the output head holds at once, of HeadRows rows at least; 0: as many as a CPU's cache has room for
	Features  []string
}

// Targets is the table of machines. Rates are those of two cores with AVX-512, and of the published boards (A100,
// RTX 3090, L40S, H100), rounded: they order the choices of the checkpoint pass, nothing else.
var Targets = []Target{
	{Name: "cpu", Types: []DType{F32}, Weights: []string{"bf16", "int8", "int4"}, FLOPs: 150e9, Bandwidth: 40e9, Launch: 2e-6},
	{Name: "sm_80", CUDA: true, Types: []DType{BF16, F16, F32}, FLOPs: 280e12, Bandwidth: 1.5e12, Launch: 2e-6, HeadTile: 1 << 27, Features: []string{"mma"}},
	{Name: "sm_86", CUDA: true, Types: []DType{BF16, F16, F32}, FLOPs: 70e12, Bandwidth: 0.9e12, Launch: 2e-6, HeadTile: 1 << 27, Features: []string{"mma"}},
	{Name: "sm_89", CUDA: true, Types: []DType{BF16, F16, F32, E4M3, E5M2}, FLOPs: 180e12, Bandwidth: 0.8e12, Launch: 2e-6, HeadTile: 1 << 27, Features: []string{"mma"}},
	{Name: "sm_90a", CUDA: true, Types: []DType{BF16, F16, F32, E4M3, E5M2}, FLOPs: 700e12, Bandwidth: 3.3e12, Launch: 1e-6, HeadTile: 1 << 27, Features: []string{"mma", "wgmma", "tma"}},
}

// TargetNamed returns the row of that name, or nil.
func TargetNamed(name string) *Target {
	for i := range Targets {
		if Targets[i].Name == name {
			return &Targets[i]
		}
	}
	return nil
}

// Has says whether the target has a feature.
func (t *Target) Has(feature string) bool {
	for _, f := range t.Features {
		if f == feature {
			return true
		}
	}
	return false
}

// Rate is the floating-point operations a second at which the target runs an op: products of operands in 8 bits take half the time.
func (t *Target) Rate(op *Op) float64 {
	if len(op.Args) > 1 && op.Args[1] != nil && EightBits[op.Args[1].Type.DType] > 0 {
		return 2 * t.FLOPs
	}
	return t.FLOPs
}

// HeadRows is the fewest rows that the output head should hold the logits of at once, 0 where HeadTile is 0. Each tile adds to the gradients of the
// whole weights, which moves 8 bytes for 2 FLOPs a row: with so many rows the product takes three times as long as that.
func (t *Target) HeadRows() int {
	if t.HeadTile == 0 {
		return 0
	}
	return int(3 * 4 * t.FLOPs / t.Bandwidth)
}

// Takes says whether the target's products take operands of a type.
func (t *Target) Takes(d DType) bool { return slices.Contains(t.Types, d) }
