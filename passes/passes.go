// Package passes rewrites the program that ir.Build wrote into the one that is generated. Each pass is a file named as
// the pass, rewrites ir and nothing else, and leaves a function that verifies and evaluates to the same results.
package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// Options are what passes may need to know beside the function.
type Options struct {
	Target        *ir.Target
	Archs         []string // of GPUs that the program runs on, where these are more than the target
	Precision     string   // f32, tf32, bf16, fp16 or fp8, where the target has it
	Weights       string   // of generation: f32, bf16, int8 or int4, where the target has it
	Optimizer     spec.Optimizer
	Clip          float64
	Checkpointing spec.Checkpointing
	Holding       func() (Holding, error) // asked where there is a budget; nil: what Memory counts beside the arena
	Off           map[string]bool         // passes switched off, by name
}

// OptionsFor returns the options that s asks for on a target.
func OptionsFor(s *spec.Spec, target *ir.Target) Options {
	return Options{Target: target, Archs: s.Target.Arch, Precision: s.Train.Precision, Weights: s.GenerationWeights(), Optimizer: s.Train.Optimizer, Clip: s.Train.Clip, Checkpointing: s.Train.Checkpointing}
}

// Pass is one rewrite of a function.
type Pass struct {
	Name     string                               // file, flag, dump suffix and golden folder
	Doc      string                               // one sentence
	Run      func(*ir.Func, Options) (int, error) // returns the rewrites made; an error only where the program cannot fit
	After    []string                             // passes that must stand earlier; the reason is the comment above the row
	Required bool                                 // cannot be switched off
}

// Pipeline is the table of passes, in order.
var Pipeline = []Pass{
	{Name: "canonicalize", Doc: "Remove what does nothing, compute equal things once, fold scales into the adds that use them.", Run: canonicalize},
	{Name: "fuse-qkv", Doc: "Merge the query, key and value projections of one value into one product.", Run: fuseQKV, After: []string{"canonicalize"}},
	{Name: "fuse-gate-up", Doc: "Merge the gate and up projections of a gated MLP into one product.", Run: fuseGateUp, After: []string{"canonicalize"}},
	// A residual add with a folded scale is one add.
	{Name: "fuse-norm", Doc: "Merge a residual add with the norm that reads it.", Run: fuseNorm, After: []string{"canonicalize"}},
	{Name: "fuse-loss", Doc: "Merge the output head with the cross-entropy, so that logits are never stored.", Run: fuseLoss, After: []string{"canonicalize"}},
	// Types are given to what the fusions left, once.
	{Name: "precision", Doc: "Give activations the element type the spec asks for, where the target has it.", Run: precision, After: []string{"fuse-qkv", "fuse-gate-up", "fuse-norm", "fuse-loss"}},
	// Which products are left, and the element types that they read, is known now.
	{Name: "quantize", Doc: "Let generation read its weights in the type the spec asks for, where the target has it.", Run: quantize, After: []string{"fuse-qkv", "fuse-gate-up", "precision"}},
	// Which kernels there are depends on the element type.
	{Name: "select-attention", Doc: "Choose the attention kernel by pattern, shape, element type and target.", Run: selectAttention, After: []string{"precision"}},
	// grad must see packed weights, or it writes three weight gradients that no later pass merges; and the fused loss,
	// whose gradient comes out of its own forward pass. The backward pass of an attention needs its chosen kernel.
	{Name: "grad", Doc: "Append the backward pass and the optimizer's update.", Run: grad, After: []string{"fuse-qkv", "fuse-gate-up", "fuse-norm", "fuse-loss", "select-attention"}, Required: true},
	// Both passes' products are there, and not yet merged with what some products in 8 bits do not do.
	{Name: "fp8", Doc: "Give the products of layers operands in 8 bits, where the spec asks for them and the target has them.", Run: fp8, After: []string{"precision", "grad"}},
	// The backward pass has residual adds of its own to fuse; and an add that a norm took is no longer there to take.
	{Name: "fuse-epilogue", Doc: "Merge biases, activations and residual adds into the products before them.", Run: fuseEpilogue, After: []string{"grad", "fuse-norm", "fp8"}},
	// What an activation is computed of has its bias; an activation that a product takes is no op to merge with.
	{Name: "fuse-quantize", Doc: "Compute activations, their gradients and those of biases where values are quantised to 8 bits.", Run: fuseQuantize, After: []string{"fp8", "fuse-epilogue"}},
	// What is recomputed should be recomputed as fused.
	{Name: "checkpoint", Doc: "Compute activations again in the backward pass instead of keeping them, within the memory budget.", Run: checkpoint, After: []string{"grad", "fuse-epilogue", "fuse-quantize"}},
	// A policy may have an activation computed again from gate and up, which a product with it would not keep.
	{Name: "fuse-glu", Doc: "Merge a gated activation, and its derivative, into the products before them.", Run: fuseGLU, After: []string{"fuse-gate-up", "precision", "checkpoint"}},
	// As fuse-glu, for what is quantised where it is computed.
	{Name: "fuse-fp8", Doc: "Merge what quantises an activation, or its gradient, into the product in 8 bits before it.", Run: fuseFP8, After: []string{"fuse-quantize", "checkpoint"}},
	// The arena holds what is left to store when every value is known.
	{Name: "plan-memory", Doc: "Give every value its place in one arena.", Run: planMemory, After: []string{"checkpoint", "fuse-glu", "fuse-fp8"}, Required: true},
	// Kernels are chosen for operands whose places, and so strides, are known.
	{Name: "lower", Doc: "Choose the kernel of every op.", Run: lower, After: []string{"plan-memory"}, Required: true},
}

// Named returns the pass of that name, or nil.
func Named(name string) *Pass {
	for i := range Pipeline {
		if Pipeline[i].Name == name {
			return &Pipeline[i]
		}
	}
	return nil
}

// Run takes f through the pipeline, verifying it after every pass. It stops after the pass named last, or at the end
// where last is empty. watch, if not nil, sees f after each pass with the rewrites it made.
func Run(f *ir.Func, o Options, last string, watch func(p *Pass, f *ir.Func, rewrites int)) error {
	for i := range Pipeline {
		p := &Pipeline[i]
		if !o.Off[p.Name] || p.Required {
			n, err := p.Run(f, o)
			if err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			if err := ir.Verify(f); err != nil {
				return fmt.Errorf("pass %s left a function that does not verify: %w\n%s", p.Name, err, ir.Print(f))
			}
			if watch != nil {
				watch(p, f, n)
			}
		}
		if p.Name == last {
			return nil
		}
	}
	return nil
}
