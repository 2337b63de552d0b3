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
)

// cudaFeatures are the features whose CUDA programs run in the simulator, which is slow: together they have every op.
var cudaFeatures = []string{"llama", "gpt2", "masks", "both", "qknorm", "groups", "every"}

// TestCUDAProgramsAgreeWithEval runs the CUDA code of packages in the simulator beside the reference.
func TestCUDAProgramsAgreeWithEval(t *testing.T) {
	libraries := cudatest.Build(t)
	var ps []gotest.Program
	for i, f := range features {
		for _, name := range cudaFeatures {
			if f.name == name {
				s, text := featureSpec(t, f.model, f.train)
				p := gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 2)}
				gotest.CUDA(t, &p.Compiled, nil)
				p.Job.CUDA, p.Job.Picks = true, picks
				ps = append(ps, p)
			}
		}
	}
	for i, got := range gotest.Run(t, ps, libraries.Environ()...) {
		t.Run(cudaFeatures[i], func(t *testing.T) {
			check(t, ps[i].Compiled.Spec, ps[i].Job, got)
			checkPicked(t, got)
		})
	}
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

// TestCUDAProgramsIn16Bits holds programs in bf16 and f16 to ir.Eval: each of their answers may be off twice as far as a plain
// computation in the same type is, op by op and with every result rounded.
func TestCUDAProgramsIn16Bits(t *testing.T) {
	libraries := cudatest.Build(t)
	var ps []gotest.Program
	var names []string
	for i, f := range features {
		for _, name := range []string{"llama bf16", "gpt2 bf16", "both f16", "every bf16"} {
			feature, precision, _ := strings.Cut(name, " ")
			if f.name != feature {
				continue
			}
			s, text := featureSpec(t, f.model, f.train+", precision: "+map[string]string{"bf16": "bf16", "f16": "fp16"}[precision])
			p := gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 2)}
			for _, w := range p.Job.Weights { // so small that no gradient overflows in f16
				for k := range w {
					w[k] /= 2
				}
			}
			gotest.CUDA(t, &p.Compiled, nil)
			p.Job.CUDA, p.Job.Picks = true, picks
			ps, names = append(ps, p), append(names, name)
		}
	}
	for i, got := range gotest.Run(t, ps, libraries.Environ()...) {
		t.Run(names[i], func(t *testing.T) {
			s, j := ps[i].Compiled.Spec, ps[i].Job
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
			checkPicked(t, got)
		})
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
	if !(off <= allowed) {
		t.Errorf("%s: off by %.3g of %.3g, a plain computation by %.3g", what, off, length(want, nil), length(plain, want))
	}
}
