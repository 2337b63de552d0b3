package gogen_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/spec"
)

// cudaFeatures are the features whose CUDA programs run, in the simulator, which is slow: together they have every op.
var cudaFeatures = []string{"llama", "gpt2", "masks", "both", "qknorm", "groups", "every"}

// cudaFeatures16 are those whose programs run in 16 bits.
var cudaFeatures16 = []string{"llama bf16", "gpt2 bf16", "both f16", "every bf16"}

// TestCUDAProgramsAgreeWithEval runs the CUDA code of packages, in the simulator or on a GPU (see gotest.GPU), beside the
// reference. A short test runs two of them.
func TestCUDAProgramsAgreeWithEval(t *testing.T) {
	names := cudaFeatures
	if testing.Short() {
		names = []string{"gpt2", "every"}
	}
	runCUDA(t, names, check)
}

// TestCUDAProgramsIn16Bits holds programs in bf16 and f16 to ir.Eval: each of their answers may be off twice as far as a plain
// computation in the same type is, op by op and with every result rounded. A short test runs one of them.
func TestCUDAProgramsIn16Bits(t *testing.T) {
	names := cudaFeatures16
	if testing.Short() {
		names = names[:1]
	}
	runCUDA(t, names, checkNarrow)
}

// runCUDA checks the answers of programs that are named after features, with a precision behind where it is not f32.
func runCUDA(t *testing.T, names []string, check func(*testing.T, *spec.Spec, gotest.Job, gotest.Answer)) {
	t.Helper()
	var libraries []string
	if !gotest.OnGPU() {
		libraries = cudatest.Build(t).Environ()
	}
	var ps []gotest.Program
	for _, name := range names {
		feature, precision, narrow := strings.Cut(name, " ")
		i := slices.IndexFunc(features, func(f featureCase) bool { return f.name == feature })
		train := features[i].train
		if narrow {
			train += ", precision: " + map[string]string{"bf16": "bf16", "f16": "fp16"}[precision]
		}
		s, text := featureSpec(t, features[i].model, train)
		p := gotest.Program{Name: name, Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 2)}
		if narrow { // so small that no gradient overflows in f16
			for _, w := range p.Job.Weights {
				for k := range w {
					w[k] /= 2
				}
			}
		}
		gotest.CUDA(t, &p.Compiled, nil)
		p.Job.CUDA = true
		ps = append(ps, p)
	}
	for i, got := range gotest.Run(t, ps, libraries...) {
		t.Run(names[i], func(t *testing.T) { check(t, ps[i].Compiled.Spec, ps[i].Job, got) })
	}
}

// checkNarrow holds what a program in 16 bits answered to what ir.Eval makes of the job.
func checkNarrow(t *testing.T, s *spec.Spec, j gotest.Job, got gotest.Answer) {
	t.Helper()
	want, plain := reference(t, s, j), referenceBy(t, s, j, "sm_80", ir.EvalRounded)
	check16(t, "losses", got.Losses, want.Losses, plain.Losses)
	check16(t, "gradient norms", got.Norms, want.Norms, plain.Norms)
	check16(t, "eval", []float32{float32(got.EvalSum)}, []float32{float32(want.EvalSum)}, []float32{float32(plain.EvalSum)})
	check16(t, "logits", got.Logits, want.Logits, plain.Logits)
	for k := range want.Cached {
		check16(t, fmt.Sprintf("cached logits %d", k), got.Cached[k], want.Cached[k], plain.Cached[k])
	}
	gots, wants, plains := packed(got.Grads), packed(want.Grads), packed(plain.Grads)
	for name, w := range wants {
		check16(t, "gradient of "+name, gots[name], w, plains[name])
	}
	for name, w := range want.Final {
		check16(t, "weight "+name, got.Final[name], w, plain.Final[name])
	}
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

// check16 allows twice the Euclidean length of a plain computation's error, and what a last bit of bf16 moves.
func check16(t *testing.T, what string, got, want, plain []float32) {
	t.Helper()
	length := func(x, y []float32) float64 {
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
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	off, allowed := length(got, want), 2*length(plain, want)+length(want, nil)/512
	gotest.Off(t, off/allowed)
	if !(off <= allowed) {
		t.Errorf("%s: off by %.3g of %.3g, a plain computation by %.3g", what, off, length(want, nil), length(plain, want))
	}
}
