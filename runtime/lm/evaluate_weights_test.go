package lm

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// offGenerator is a fakeGenerator whose generation is off by a share of each logit.
type offGenerator struct {
	*fakeGenerator
	share float32
}

func (g offGenerator) off(logits []float32, err error) ([]float32, error) {
	for i := range logits {
		logits[i] *= 1 + g.share
	}
	return logits, err
}

func (g offGenerator) Prefill(tokens []int32, start, slot int) ([]float32, error) {
	return g.off(g.fakeGenerator.Prefill(tokens, start, slot))
}

func (g offGenerator) Decode(tokens, positions, slots []int32) ([]float32, error) {
	return g.off(g.fakeGenerator.Decode(tokens, positions, slots))
}

// TestEvaluateWeights: the error of logits is what it is made to be, 0 where there is none, and losses follow.
func TestEvaluateWeights(t *testing.T) {
	root, run := fakeRoot(t), filepath.Join(t.TempDir(), "run")
	if code, out, errs := runCommand(t.Context(), fakeConfig(nil), "train", "--run", run, "--root", root); code != 0 {
		t.Fatalf("train: %d\n%s\n%s", code, out, errs)
	}
	for _, share := range []float32{0, 0.01, 0.25} {
		cfg := fakeConfig(nil)
		cfg.Generate.Weights = "int8"
		cfg.NewGenerator = func(w []float32, slots, _ int) Generator { return offGenerator{newFakeGenerator(w, slots), share} }
		m, err := Open(cfg, run)
		if err != nil {
			t.Fatal(err)
		}
		r, err := m.EvaluateWeights(t.Context(), EvalOptions{Root: root, Batches: 2})
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(r.LogitError-float64(share)) > 1e-6 || r.Tokens == 0 || r.Weights != "int8" || r.Trained.Tokens != r.Tokens {
			t.Errorf("off by %v: %+v", share, r)
		}
		if (share == 0) != (r.Generation.Loss == r.Trained.Loss) {
			t.Errorf("off by %v: loss %v by generation, %v in f32", share, r.Generation.Loss, r.Trained.Loss)
		}

		code, out, errs := runCommand(t.Context(), cfg, "eval", "--run", run, "--root", root, "--weights", "--batches", "2")
		if code != 0 || !strings.HasPrefix(out, "f32: loss ") || !strings.Contains(out, "\nint8: loss ") || !strings.Contains(out, "\nlogits differ by ") {
			t.Errorf("eval --weights: %d\n%s\n%s", code, out, errs)
		}
		code, out, errs = runCommand(t.Context(), cfg, "eval", "--run", run, "--root", root, "--weights", "--batches", "2", "--json")
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); code != 0 || err != nil || got["weights"] != "int8" || got["logit_error"] != r.LogitError || got["f32_loss"] != r.Trained.Loss {
			t.Errorf("eval --weights --json: %d, %v\n%s\n%s", code, err, out, errs)
		}
	}
	if code, _, errs := runCommand(t.Context(), fakeConfig(nil), "eval", "--run", run, "--root", root, "--weights", "--batches", "-1"); code != 2 || !strings.Contains(errs, "must not be negative") {
		t.Errorf("%d %s", code, errs)
	}
}
