package numeric_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// prompt is the tokens that come before the greedy ones.
const prompt = 8

// job is what a generated program of r's spec is asked: the reference's own sequence of greedy tokens, and the steps.
func (r *reference) job(tokens, greedy []float64, steps, length int, lr func(step int) float64) gotest.Job {
	j := gotest.Job{Weights: map[string][]float32{}, Seed: 1, Sequence: ints32(greedy), Prompt: prompt}
	for name, x := range r.weights {
		j.Weights[name] = floats32(x.Data)
	}
	n := len(tokens) / steps
	for i := range steps {
		ids := tokens[i*n : (i+1)*n]
		j.Steps = append(j.Steps, gotest.Batch{Tokens: ints32(ids), Targets: ints32(shift(ids, length))})
		j.LRs = append(j.LRs, float32(lr(i+1)))
	}
	return j
}

func ints32(xs []float64) []int32 {
	out := make([]int32, len(xs))
	for i, x := range xs {
		out[i] = int32(x)
	}
	return out
}

func floats32(xs []float64) []float32 {
	out := make([]float32, len(xs))
	for i, x := range xs {
		out[i] = float32(x)
	}
	return out
}

func floats64(xs []float32) []float64 {
	out := make([]float64, len(xs))
	for i, x := range xs {
		out[i] = float64(x)
	}
	return out
}

// TestProgramsAgreeWithTransformers holds the generated programs, in float32 on this machine's kernels, to the same
// references: logits within 1e-4, greedy tokens equal, gradients within 1e-4, and 20 steps of training with losses
// within 1e-5 and final weights within 1e-4.
func TestProgramsAgreeWithTransformers(t *testing.T) { agree(t, false) }

// TestCUDAProgramsAgreeWithTransformers holds their CUDA code to the same, in the simulator or on a GPU: see gotest.GPU.
func TestCUDAProgramsAgreeWithTransformers(t *testing.T) {
	var libraries []string
	if !gotest.OnGPU() {
		libraries = cudatest.Build(t).Environ()
	}
	agree(t, true, libraries...)
}

func agree(t *testing.T, cuda bool, env ...string) {
	var ps []gotest.Program
	var names []string
	var checks []func(t *testing.T, a gotest.Answer)
	add := func(program, name string, r *reference, j gotest.Job, check func(t *testing.T, a gotest.Answer)) {
		p := gotest.Program{Name: program, Compiled: gotest.Compile(t, r.spec, "", nil), Job: j}
		if cuda {
			gotest.CUDA(t, &p.Compiled, nil)
			p.Job.CUDA = true
		}
		ps, names, checks = append(ps, p), append(names, name), append(checks, check)
	}
	for _, name := range families(t, "hf") {
		r := load(t, filepath.Join("hf", name))
		j := r.job(r.ints("input_ids"), r.ints("greedy"), 1, r.shape("input_ids")[1], func(int) float64 { return 0 })
		add(name, name, r, j, r.checkFamily)
		// A second job of the same program has the first row for its logits.
		row := j
		row.Sequence, row.Prompt = j.Steps[0].Tokens[:r.shape("input_ids")[1]], 1
		add(name, name+"/logits", r, row, r.checkLogits)
	}
	for _, name := range families(t, "train") {
		r := load(t, filepath.Join("train", name))
		shape := r.shape("batches")
		ids := r.ints("batches")
		add("train/"+name, "train/"+name, r, r.job(ids, ids[:shape[3]], shape[0], shape[3], func(step int) float64 {
			return r.spec.Train.Optimizer.LR * r.spec.Train.Schedule.LR(step, shape[0])
		}), r.checkTraining)
	}
	for i, a := range gotest.Run(t, ps, env...) {
		t.Run(names[i], func(t *testing.T) { checks[i](t, a) })
	}
}

// within fails the test where a result is off more than is allowed.
func within(t *testing.T, off, allowed float64, what string, args ...any) {
	t.Helper()
	gotest.Off(t, off/allowed)
	if !(off <= allowed) {
		t.Errorf("%s: off by %.3g, allowed are %g", fmt.Sprintf(what, args...), off, allowed)
	}
}

func (r *reference) checkFamily(t *testing.T, a gotest.Answer) {
	greedy := r.ints("greedy")
	for i, logits := range a.Cached { // after the prompt, and after each greedy token but the last
		if at := prompt + i; at < len(greedy) && largest(floats64(logits)) != int(greedy[at]) {
			t.Errorf("token %d is %d by the cache, want %g", at, largest(floats64(logits)), greedy[at])
		}
	}
	loss := r.floats("loss")[0]
	within(t, math.Abs(float64(a.Losses[0])-loss), 1e-5, "training loss %g, want %g", a.Losses[0], loss)
	within(t, math.Abs(a.EvalSum/a.EvalN-loss), 1e-5, "loss %g, want %g", a.EvalSum/a.EvalN, loss)
	for _, w := range r.table {
		got, want := floats64(a.Grads[w.Name]), r.weight("grad.", w)
		if r.cancels(w) {
			continue
		}
		within(t, relative(got, want), 1e-4, "the gradient of %s", w.Name)
	}
}

func (r *reference) checkLogits(t *testing.T, a gotest.Answer) {
	want := r.floats("logits")[:len(a.Logits)]
	within(t, worst(floats64(a.Logits), want), 1e-4, "logits")
	within(t, worst(floats64(slices.Concat(a.Cached...)), want), 1e-4, "logits by the cache")
}

func (r *reference) checkTraining(t *testing.T, a gotest.Answer) {
	losses, norms := r.floats("losses"), r.floats("grad_norms")
	for i := range losses {
		within(t, math.Abs(float64(a.Losses[i])-losses[i]), 1e-5, "step %d: loss %g, want %g", i+1, a.Losses[i], losses[i])
		within(t, math.Abs(float64(a.Norms[i])-norms[i])/norms[i], 1e-4, "step %d: gradient norm %g, want %g", i+1, a.Norms[i], norms[i])
	}
	for _, w := range r.table {
		if r.cancels(w) {
			continue
		}
		within(t, relative(floats64(a.Final[w.Name]), r.weight("final.", w)), 1e-4, "%s in the end", w.Name)
	}
}
