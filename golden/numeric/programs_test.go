package numeric_test

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
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
func TestProgramsAgreeWithTransformers(t *testing.T) {
	var ps []gotest.Program
	var checks []func(t *testing.T, a gotest.Answer)
	add := func(r *reference, j gotest.Job, check func(t *testing.T, a gotest.Answer)) {
		ps = append(ps, gotest.Program{Compiled: gotest.Compile(t, r.spec, "", nil), Job: j})
		checks = append(checks, check)
	}
	var names []string
	for _, name := range families(t, "hf") {
		names = append(names, name)
		r := load(t, filepath.Join("hf", name))
		j := r.job(r.ints("input_ids"), r.ints("greedy"), 1, r.shape("input_ids")[1], func(int) float64 { return 0 })
		add(r, j, r.checkFamily)
		// A second job of the same program has the first row for its logits.
		row := j
		row.Sequence, row.Prompt = j.Steps[0].Tokens[:r.shape("input_ids")[1]], 1
		names = append(names, name+"/logits")
		add(r, row, r.checkLogits)
	}
	for _, name := range families(t, "train") {
		names = append(names, "train/"+name)
		r := load(t, filepath.Join("train", name))
		shape := r.shape("batches")
		ids := r.ints("batches")
		add(r, r.job(ids, ids[:shape[3]], shape[0], shape[3], func(step int) float64 {
			return r.spec.Train.Optimizer.LR * r.spec.Train.Schedule.LR(step, shape[0])
		}), r.checkTraining)
	}
	for i, a := range gotest.Run(t, ps) {
		t.Run(names[i], func(t *testing.T) { checks[i](t, a) })
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
	if d := math.Abs(float64(a.Losses[0]) - loss); d > 1e-5 {
		t.Errorf("training loss %g, want %g", a.Losses[0], loss)
	}
	if d := math.Abs(a.EvalSum/a.EvalN - loss); d > 1e-5 {
		t.Errorf("loss %g, want %g", a.EvalSum/a.EvalN, loss)
	}
	for _, w := range r.table {
		got, want := floats64(a.Grads[w.Name]), r.weight("grad.", w)
		if r.cancels(w) {
			continue
		}
		if d := relative(got, want); !(d <= 1e-4) {
			t.Errorf("the gradient of %s differs by %g", w.Name, d)
		}
	}
}

func (r *reference) checkLogits(t *testing.T, a gotest.Answer) {
	want := r.floats("logits")[:len(a.Logits)]
	if d := worst(floats64(a.Logits), want); d > 1e-4 {
		t.Errorf("logits differ by %g", d)
	}
	cached := floats64(slices.Concat(a.Cached...))
	if d := worst(cached, want); d > 1e-4 {
		t.Errorf("logits by the cache differ by %g", d)
	}
}

func (r *reference) checkTraining(t *testing.T, a gotest.Answer) {
	losses, norms := r.floats("losses"), r.floats("grad_norms")
	for i := range losses {
		if d := math.Abs(float64(a.Losses[i]) - losses[i]); d > 1e-5 {
			t.Errorf("step %d: loss %g, want %g", i+1, a.Losses[i], losses[i])
		}
		if d := math.Abs(float64(a.Norms[i])-norms[i]) / norms[i]; d > 1e-4 {
			t.Errorf("step %d: gradient norm %g, want %g", i+1, a.Norms[i], norms[i])
		}
	}
	for _, w := range r.table {
		if r.cancels(w) {
			continue
		}
		if d := relative(floats64(a.Final[w.Name]), r.weight("final.", w)); !(d <= 1e-4) {
			t.Errorf("%s differs by %g in the end", w.Name, d)
		}
	}
}
