package passes_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// inSixteens is the spec of a model whose products may have operands in 8 bits, but for a layer of three_groups.
func inSixteens(t *testing.T, name string) *spec.Spec {
	t.Helper()
	lines := strings.Join(model(t, name).Source.Lines, "\n")
	text := strings.NewReplacer("intermediate_size: 24", "intermediate_size: 32", "[24, 24, 24, 32, 20]", "[32, 32, 32, 48, 24]",
		"context: 6", "context: 8, precision: fp8").Replace(lines) + "\ntarget: {arch: [sm_90a]}\n"
	s, err := parser.Parse(name+".yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s
}

// TestFP8Runs takes models with operands in 8 bits through all passes: what is computed again has the same bits as what is kept, and every
// value is where the plan says, weights too that all micro-batches and all segments of layers read.
func TestFP8Runs(t *testing.T) {
	for _, name := range []string{"llama", "gpt2", "parallel", "both", "three_groups", "one_layer"} {
		s := inSixteens(t, name)
		var want []*ir.Tensor
		var left *ir.State
		for _, c := range []spec.Checkpointing{{Kind: "none"}, {Kind: "full"}, {Kind: "every", N: 2}, {Kind: "auto", Budget: 1 << 30}} {
			if c.Kind == "every" && name == "one_layer" {
				continue
			}
			o := passes.OptionsFor(s, ir.TargetNamed("sm_90a"))
			o.Checkpointing = c
			f, fired := ir.Build(s, "train"), 0
			if err := passes.Run(f, o, "", func(p *passes.Pass, _ *ir.Func, n int) {
				if p.Name == "fp8" {
					fired = n
				}
			}); err != nil {
				t.Fatalf("%s, %v: %v", name, c, err)
			}
			if left := passes.FP8Left(f, o); fired < 12 || (len(left) > 0) != (name == "three_groups") {
				t.Errorf("%s: %d products in 8 bits, left are %v", name, fired, left)
			}
			results, state, err := checkPlan(f)
			if err != nil {
				t.Fatalf("%s, %v: %v\n%s", name, c, err, ir.Print(f))
			}
			if want == nil {
				want, left = results, state
			}
			if err := sameTensors(results, want); err != nil {
				t.Errorf("%s, %v: %v", name, c, err)
			}
			if err := sameStates(state, left); err != nil {
				t.Errorf("%s, %v: %v", name, c, err)
			}
			if text := ir.Print(f); strings.Count(text, "quantize(@layers") != strings.Count(text, "amax(@layers") || !strings.Contains(text, "quantize(@layers") {
				t.Errorf("%s, %v: weights are not quantised once:\n%s", name, c, text)
			}
		}
	}
}

// TestFP8IsForTraining: other jobs, and other targets, are as in bf16.
func TestFP8IsForTraining(t *testing.T) {
	s := inSixteens(t, "llama")
	for _, target := range ir.Targets {
		for _, job := range ir.Jobs {
			texts := map[string]string{}
			for _, precision := range []string{"bf16", "fp8"} {
				o := passes.OptionsFor(s, &target)
				o.Precision = precision
				f := ir.Build(s, job)
				if err := passes.Run(f, o, "", nil); err != nil {
					t.Fatal(err)
				}
				texts[precision] = ir.Print(f)
				if left := passes.FP8Left(f, o); len(left) > 0 != (precision == "fp8" && job == "train" && !target.Takes(ir.E4M3)) {
					t.Errorf("%s on %s in %s: left are %v", job, target.Name, precision, left)
				}
			}
			if same := texts["fp8"] == texts["bf16"]; same == (job == "train" && target.Takes(ir.E4M3)) {
				t.Errorf("%s on %s: the same as in bf16: %v", job, target.Name, same)
			}
			if target.CUDA && target.Takes(ir.E4M3) != slices.Contains(spec.FP8Arch, target.Name) {
				t.Errorf("package spec takes %s for a GPU that multiplies 8 bits: %v", target.Name, slices.Contains(spec.FP8Arch, target.Name))
			}
		}
	}
}
