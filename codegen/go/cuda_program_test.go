package gogen_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/spec"
)

// cudaFeatures are the features whose CUDA programs run, in the simulator, which is slow: together they have every op.
var cudaFeatures = []string{"llama", "gpt2", "masks", "both", "qknorm", "groups", "every"}

// cudaRounded are those whose programs run in other precisions.
var cudaRounded = []string{"llama bf16", "gpt2 bf16", "both f16", "every bf16", "llama tf32", "gpt2 tf32", "llama fp8", "gpt2 fp8", "groups fp8", "parallel fp8", "every fp8"}

// TestCUDAProgramsAgreeWithEval runs the CUDA code of packages, in the simulator or on a GPU (see gotest.GPU), beside the
// reference. A short test runs two of them.
func TestCUDAProgramsAgreeWithEval(t *testing.T) {
	names := cudaFeatures
	if testing.Short() {
		names = []string{"gpt2", "every"}
	}
	runCUDA(t, names, func(t *testing.T, s *spec.Spec, _ string, j gotest.Job, got gotest.Answer) { check(t, s, j, got) })
}

// picks are ways to pick tokens; some look at a part of the vocabulary only, as if the rest were padding.
var picks = []gotest.Pick{
	{}, {Tokens: 33}, {Temperature: 0.8, Seed: 1}, {Temperature: 1.5, TopK: 5, Seed: 2, Tokens: 33}, {Temperature: 1, TopP: 0.7, Seed: 3},
	{Temperature: 3, TopP: 0.9, TopK: 20, Seed: 1<<40 | 7}, {Temperature: 100, TopK: 1000, TopP: 1, Seed: 5},
}

// checkPicked holds the tokens that the device picked to those that the host picks from the same logits.
func checkPicked(t *testing.T, got gotest.Answer) {
	t.Helper()
	if len(got.Picked) != len(picks) {
		t.Fatalf("tokens are picked on the device for %d of %d options", len(got.Picked), len(picks))
	}
	different := map[string]bool{}
	for i, tokens := range got.Picked {
		if !slices.Equal(tokens, got.OnHost[i]) {
			t.Errorf("%+v: the device picks %v, the host %v", picks[i], tokens, got.OnHost[i])
		}
		different[fmt.Sprint(tokens)] = true
	}
	if len(different) < 4 {
		t.Errorf("the options make no difference: %v", got.Picked)
	}
}

// TestCUDAProgramsRounded holds programs in bf16, f16 and tf32 to ir.Eval: each of their answers may be off twice as far as a
// plain computation in the same type is, op by op and with every result, or the products' operands, rounded. A short test runs
// one of them.
func TestCUDAProgramsRounded(t *testing.T) {
	names := cudaRounded
	if testing.Short() {
		names = names[:1]
	}
	runCUDA(t, names, checkPrecision)
}

// runCUDA checks the answers of programs that are named after features, with a precision behind where it is not f32.
func runCUDA(t *testing.T, names []string, check func(t *testing.T, s *spec.Spec, precision string, j gotest.Job, got gotest.Answer)) {
	t.Helper()
	var libraries []string
	if !gotest.OnGPU() {
		libraries = cudatest.Build(t).Environ()
	}
	var ps []gotest.Program
	for _, name := range names {
		feature, precision, rounded := strings.Cut(name, " ")
		i := slices.IndexFunc(features, func(f featureCase) bool { return f.name == feature })
		train := features[i].train
		if rounded && precision != "fp8" {
			train += ", precision: " + map[string]string{"bf16": "bf16", "f16": "fp16", "tf32": "tf32"}[precision]
		}
		s, text := featureSpec(t, features[i].model, train)
		if precision == "fp8" {
			s, text = inSixteens(t, text)
		}
		p := gotest.Program{Name: name, Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 2)}
		if rounded { // so small that no gradient overflows in f16
			for _, w := range p.Job.Weights {
				for k := range w {
					w[k] /= 2
				}
			}
		}
		gotest.CUDA(t, &p.Compiled, nil)
		p.Job.CUDA, p.Job.Picks = true, picks
		ps = append(ps, p)
	}
	for i, got := range gotest.Run(t, ps, libraries...) {
		t.Run(names[i], func(t *testing.T) {
			_, precision, _ := strings.Cut(names[i], " ")
			check(t, ps[i].Compiled.Spec, precision, ps[i].Job, got)
			checkHeld(t, ps[i].Compiled.Spec, got)
			checkPicked(t, got)
		})
	}
}

// inSixteens is a spec of the features in fp8, whose sides are multiples of 16 or come close.
func inSixteens(t *testing.T, text string) (*spec.Spec, string) {
	t.Helper()
	text = strings.NewReplacer("hidden_size: 24", "hidden_size: 32", "[36, 36, 20]", "[48, 48, 24]", "intermediate_size: 36", "intermediate_size: 48",
		"context: 13", "context: 16, precision: fp8").Replace(text) + "target: {arch: [sm_90a]}\n"
	s, err := parser.Parse("model.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s, text
}

// checkHeld holds what the trainer allocates to what is explained.
func checkHeld(t *testing.T, s *spec.Spec, got gotest.Answer) {
	t.Helper()
	r, err := compile.Explain(s, "train", passes.OptionsFor(s, ir.TargetNamed(s.Target.Arch[0])))
	if err != nil {
		t.Fatal(err)
	}
	if got.Held != int64(r.Memory.Total) {
		t.Errorf("the trainer holds %d bytes, explained are %d", got.Held, r.Memory.Total)
	}
}

// lastBit is what the last bit of a type moves, as a share.
var lastBit = map[string]float64{"bf16": 1. / 512, "f16": 1. / 512, "fp8": 1. / 512, "tf32": 1. / 4096}

// checkPrecision holds what a program in a precision answered to what ir.Eval makes of the job: each quantity may be off twice as far as
// a plain computation, and what a last bit moves.
func checkPrecision(t *testing.T, s *spec.Spec, precision string, j gotest.Job, got gotest.Answer) {
	t.Helper()
	arch := s.Target.Arch[0]
	answered, want, plain := quantities(got), quantities(reference(t, s, j)), quantities(referenceBy(t, s, j, arch, false, ir.EvalRounded))
	rounding := map[string]float64{}
	worst := func(plain, want map[string][]float32) {
		for name, w := range want {
			rounding[name] = max(rounding[name], length(plain[name], w))
		}
	}
	worst(plain, want)
	if precision == "fp8" { // of whose few digits it is a matter of luck how far off a single number is, as a norm: the worst of ten computations counts
		worst(quantities(referenceBy(t, s, j, arch, true, ir.EvalRounded)), want)
		for n := range uint64(8) {
			near := nudge(j, n)
			worst(quantities(referenceBy(t, s, near, arch, true, ir.EvalRounded)), quantities(reference(t, s, near)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		checkRounded(t, name, answered[name], want[name], rounding[name], lastBit[precision])
		off, plain := length(answered[name], want[name]), length(plain[name], want[name])
		if name == "logits" && off < plain/4 || strings.HasPrefix(name, "gradient of ") && precision == "fp8" && off < plain/4 {
			t.Errorf("%s: off by %.3g, a plain computation by %.3g: nothing seems to be rounded", name, off, plain)
		}
	}
}

// quantities are the numbers of an answer by what they are.
func quantities(a gotest.Answer) map[string][]float32 {
	all := map[string][]float32{"losses": a.Losses, "gradient norms": a.Norms, "eval": {float32(a.EvalSum)}, "logits": a.Logits}
	for k, logits := range a.Cached {
		all[fmt.Sprintf("cached logits %d", k)] = logits
	}
	for name, g := range packed(a.Grads) {
		all["gradient of "+name] = g
	}
	for name, w := range a.Final {
		all["weight "+name] = w
	}
	return all
}

// nudge moves every weight of a job by up to a rounding in bf16.
func nudge(j gotest.Job, seed uint64) gotest.Job {
	r := rand.New(rand.NewPCG(seed, 9))
	moved := map[string][]float32{}
	for _, name := range slices.Sorted(maps.Keys(j.Weights)) {
		x := slices.Clone(j.Weights[name])
		for i := range x {
			x[i] *= float32(1 + (2*r.Float64()-1)/512)
		}
		moved[name] = x
	}
	j.Weights = moved
	return j
}

// packed puts q, k and v together, as the programs do: the gradient of k's bias alone is nothing but rounding, for a bias
// that all keys share moves no probability.
func packed(grads map[string][]float32) map[string][]float32 {
	all := map[string][]float32{}
	for _, name := range slices.Sorted(maps.Keys(grads)) {
		to := strings.NewReplacer(".q.", ".qkv.", ".k.", ".qkv.", ".v.", ".qkv.").Replace(name)
		all[to] = append(all[to], grads[name]...)
	}
	return all
}

// length is the Euclidean length of x, or of x less y.
func length(x, y []float32) float64 {
	sum := 0.0
	for i := range x {
		d := float64(x[i])
		if y != nil {
			d -= float64(y[i])
		}
		sum += d * d
	}
	return math.Sqrt(sum)
}

// checkRounded allows twice the length of a plain computation's error, and what a last bit moves.
func checkRounded(t *testing.T, what string, got, want []float32, plain, bit float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	off, allowed := length(got, want), 2*plain+length(want, nil)*bit
	gotest.Off(t, off/allowed)
	if !(off <= allowed) {
		t.Errorf("%s: off by %.3g of %.3g, a plain computation by %.3g", what, off, length(want, nil), plain)
	}
}
