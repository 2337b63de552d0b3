package lm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/checkpoint"
	"github.com/tfc-dev/tfc/runtime/telemetry"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// outcome is all that a run leaves, less what depends on the clock.
type outcome struct {
	weights []float32
	moments []weights.Named
	log     []telemetry.Record
	saves   []string
	best    string
}

func outcomeOf(t *testing.T, m *Model, run string) outcome {
	t.Helper()
	dir, _, err := checkpoint.Latest(run, nil)
	if err != nil {
		t.Fatal(err)
	}
	moments, err := weights.ReadTensors(filepath.Join(dir, momentsFile))
	if err != nil {
		t.Fatal(err)
	}
	log, err := telemetry.ReadLog(filepath.Join(run, logFile))
	if err != nil {
		t.Fatal(err)
	}
	for i := range log {
		log[i].Elapsed, log[i].TokensPerSecond = 0, 0
	}
	best, _, err := checkpoint.Best(run)
	if err != nil {
		t.Fatal(err)
	}
	return outcome{slices.Clone(m.weights), moments, log, saves(t, run), filepath.Base(best)}
}

func saves(t *testing.T, run string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "checkpoint-") {
			names = append(names, e.Name())
		}
	}
	return names
}

func mustTrain(t *testing.T, m *Model, ctx context.Context, o TrainOptions) TrainResult {
	t.Helper()
	res, err := m.Train(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func unbroken(t *testing.T, root string) outcome {
	t.Helper()
	run := filepath.Join(t.TempDir(), "run")
	m := fakeModel(t, fakeConfig(nil), 1)
	res := mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if res.Step != 12 || res.Steps != 12 || res.Interrupted || res.Resumed != 0 || res.Tokens != 12*4*16 || res.FirstStep <= 0 {
		t.Fatalf("%+v", res)
	}
	return outcomeOf(t, m, run)
}

// A run stopped after any step goes on to the same bits.
func TestResumeIsExact(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	var lines, evaluated []int
	for _, r := range want.log {
		lines = append(lines, r.Step)
		if r.EvalLoss != nil {
			evaluated = append(evaluated, r.Step)
		}
	}
	if !slices.Equal(lines, []int{1, 3, 4, 5, 6, 8, 9, 10, 12}) || !slices.Equal(evaluated, []int{4, 5, 8, 10, 12}) {
		t.Errorf("lines about steps %v, evaluations at %v", lines, evaluated)
	}
	for stop := 1; stop <= 12; stop++ {
		run := filepath.Join(t.TempDir(), "run")
		ctx, cancel := context.WithCancel(t.Context())
		cfg := fakeConfig(at(stop, cancel))
		m := fakeModel(t, cfg, 1)
		res := mustTrain(t, m, ctx, TrainOptions{Run: run, Root: root})
		if !res.Interrupted || res.Step != stop {
			t.Fatalf("stopped after step %d: %+v", stop, res)
		}
		m = fakeModel(t, fakeConfig(nil), 1)
		res = mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
		if res.Interrupted || res.Step != 12 || res.Resumed != stop {
			t.Fatalf("went on from step %d: %+v", stop, res)
		}
		got := outcomeOf(t, m, run)
		if !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.moments, want.moments) {
			t.Errorf("stopped after step %d: other weights or moments", stop)
		}
		if !reflect.DeepEqual(got.log, want.log) || got.best != want.best {
			t.Errorf("stopped after step %d: log %v, best %s; want %v, %s", stop, got.log, got.best, want.log, want.best)
		}
	}
}

func TestStopAtEveryStepOfOneRun(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	run := filepath.Join(t.TempDir(), "run")
	var m *Model
	for step := 1; ; step++ {
		ctx, cancel := context.WithCancel(t.Context())
		m = fakeModel(t, fakeConfig(at(step, cancel)), 1)
		res := mustTrain(t, m, ctx, TrainOptions{Run: run, Root: root})
		cancel()
		if !res.Interrupted {
			break
		}
		if res.Step != step {
			t.Fatalf("%+v after %d calls", res, step)
		}
	}
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.moments, want.moments) ||
		!reflect.DeepEqual(got.log, want.log) {
		t.Errorf("a run of one step at a time came to something else: %v, want %v", got.log, want.log)
	}
}

type cancelInLoss struct {
	*fakeTrainer
	cancel func()
}

func (c cancelInLoss) Loss(tokens, targets []int32) (float64, int, error) {
	c.cancel()
	return c.fakeTrainer.Loss(tokens, targets)
}

// A run killed after the log line of a step that was saved before it does not log the step twice.
func TestKilledAfterResuming(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	run := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	mustTrain(t, fakeModel(t, fakeConfig(at(6, cancel)), 1), ctx, TrainOptions{Run: run, Root: root})
	killed := fakeConfig(func(step int, loss, norm float32) (float32, float32) { return float32(math.NaN()), norm })
	if _, err := fakeModel(t, killed, 1).Train(t.Context(), TrainOptions{Run: run, Root: root}); err == nil {
		t.Fatal("a diverged step is no error")
	}
	m := fakeModel(t, fakeConfig(nil), 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.log, want.log) {
		t.Errorf("log %v, want %v", got.log, want.log)
	}
}

// A run stopped in an evaluation makes up for it when it goes on.
func TestCancelInEvaluation(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	run := filepath.Join(t.TempDir(), "run")
	ctx, cancel := context.WithCancel(t.Context())
	cfg := fakeConfig(nil)
	cfg.NewTrainer = func(w []float32, _ int) Trainer { return cancelInLoss{newFakeTrainer(w), cancel} }
	if res := mustTrain(t, fakeModel(t, cfg, 1), ctx, TrainOptions{Run: run, Root: root}); !res.Interrupted || res.Step != 4 {
		t.Fatalf("%+v", res)
	}
	m := fakeModel(t, fakeConfig(nil), 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.log, want.log) {
		t.Errorf("log %v, want %v", got.log, want.log)
	}
}

func TestDivergedStepIsNotKept(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	for name, spoil := range map[string]func(loss, norm float32) (float32, float32){
		"loss NaN": func(_, norm float32) (float32, float32) { return float32(math.NaN()), norm },
		"loss Inf": func(_, norm float32) (float32, float32) { return float32(math.Inf(1)), norm },
		"norm NaN": func(loss, _ float32) (float32, float32) { return loss, float32(math.NaN()) },
		"norm Inf": func(loss, _ float32) (float32, float32) { return loss, float32(math.Inf(1)) },
	} {
		run := filepath.Join(t.TempDir(), "run")
		m := fakeModel(t, fakeConfig(func(step int, loss, norm float32) (float32, float32) {
			if step == 8 {
				return spoil(loss, norm)
			}
			return loss, norm
		}), 1)
		res, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root})
		if err == nil || !strings.Contains(err.Error(), "step 8:") || !strings.Contains(err.Error(), "save is from step 5") || res.Step != 7 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if got := saves(t, run); !slices.Equal(got, []string{"checkpoint-5"}) {
			t.Errorf("%s: saves %v", name, got)
		}
		// Without what spoiled it, the run goes on to the same bits.
		m = fakeModel(t, fakeConfig(nil), 1)
		mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
		if got := outcomeOf(t, m, run); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: went on to something else: log %v, want %v", name, got.log, want.log)
		}
	}
	run := filepath.Join(t.TempDir(), "run")
	m := fakeModel(t, fakeConfig(func(_ int, _, norm float32) (float32, float32) { return float32(math.NaN()), norm }), 1)
	if _, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root}); err == nil || !strings.Contains(err.Error(), "nothing is saved yet") {
		t.Errorf("diverged at once: %v", err)
	}
}

// breakFolder puts a file in the place of the run's folder, so that no save can be written; mend undoes it.
func breakFolder(t *testing.T, run string) (mend func()) {
	t.Helper()
	for _, err := range []error{os.Rename(run, run+".away"), os.WriteFile(run, nil, 0o666)} {
		if err != nil {
			t.Error(err)
		}
	}
	return func() {
		for _, err := range []error{os.Remove(run), os.Rename(run+".away", run)} {
			if err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFailedSaves(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)

	t.Run("once", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		var mend func()
		m := fakeModel(t, fakeConfig(func(step int, loss, norm float32) (float32, float32) {
			switch step {
			case 5:
				mend = breakFolder(t, run)
			case 6:
				mend()
			}
			return loss, norm
		}), 1)
		var out bytes.Buffer
		mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root, Progress: &out})
		if !strings.Contains(out.String(), "warning: after step 5: saving") {
			t.Errorf("no warning:\n%s", &out)
		}
		got := outcomeOf(t, m, run)
		if !reflect.DeepEqual(got.weights, want.weights) || !slices.Equal(got.saves, []string{"checkpoint-10", "checkpoint-12"}) {
			t.Errorf("saves %v", got.saves)
		}
	})
	t.Run("twice and twice again", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		var mend func()
		cfg := fakeConfig(func(step int, loss, norm float32) (float32, float32) {
			switch step {
			case 2, 5:
				mend = breakFolder(t, run)
			case 4, 7:
				mend()
			}
			return loss, norm
		})
		cfg.Train.Save.Every = 1
		if res := mustTrain(t, fakeModel(t, cfg, 1), t.Context(), TrainOptions{Run: run, Root: root}); res.Step != 12 {
			t.Errorf("%+v", res)
		}
	})
	t.Run("three times", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		var mend func()
		cfg := fakeConfig(at(3, func() { mend = breakFolder(t, run) }))
		cfg.Train.Save.Every = 2
		m := fakeModel(t, cfg, 1)
		res, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root})
		mend()
		if err == nil || !strings.Contains(err.Error(), "after step 8: 3 saves in a row failed") || res.Step != 8 || errors.Is(err, ErrFile) {
			t.Errorf("%+v, %v", res, err)
		}
		if got := saves(t, run); !slices.Equal(got, []string{"checkpoint-2"}) {
			t.Errorf("saves %v", got)
		}
	})
	t.Run("the last", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		var mend func()
		m := fakeModel(t, fakeConfig(at(12, func() { mend = breakFolder(t, run) })), 1)
		_, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root})
		mend()
		if err == nil || !strings.Contains(err.Error(), "after step 12: saving") {
			t.Errorf("%v", err)
		}
		m = fakeModel(t, fakeConfig(nil), 1)
		if res := mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root}); res.Resumed != 10 {
			t.Errorf("%+v", res)
		}
		if got := outcomeOf(t, m, run); !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.log, want.log) {
			t.Errorf("log %v, want %v", got.log, want.log)
		}
	})
	t.Run("when stopped", func(t *testing.T) {
		run := filepath.Join(t.TempDir(), "run")
		var mend func()
		ctx, cancel := context.WithCancel(t.Context())
		m := fakeModel(t, fakeConfig(at(7, func() {
			mend = breakFolder(t, run)
			cancel()
		})), 1)
		_, err := m.Train(ctx, TrainOptions{Run: run, Root: root})
		mend()
		if err == nil || !strings.Contains(err.Error(), "stopped after step 7, which could not be saved") {
			t.Errorf("%v", err)
		}
	})
}

func TestWhatMayNotChange(t *testing.T) {
	root := fakeRoot(t)
	other := t.TempDir()
	writeText(t, other, "two")
	run := filepath.Join(t.TempDir(), "run")
	start := fakeConfig(nil)
	start.Train.Steps = 3
	mustTrain(t, fakeModel(t, start, 1), t.Context(), TrainOptions{Run: run, Root: root})
	before := saves(t, run)

	settings := fakeConfig(nil)
	settings.SpecHash = "spec-2"
	settings.Settings = []Setting{{"model.hidden_size", "4"}, {"model.dropout.embedding", "0.2"}, {"train.clip", "1"}}
	compiler := fakeConfig(nil)
	compiler.SpecHash = "spec-2"
	elsewhere := fakeModel(t, fakeConfig(nil), 1)
	mustTrain(t, elsewhere, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: other, Steps: 1})
	for _, c := range []struct {
		name  string
		m     *Model
		root  string
		wants []string
	}{
		{"settings", fakeModel(t, settings, 1), root, []string{
			"model.dropout.embedding: 0.1 in the run, 0.2 in the program", "train.batch: 4 in the run, nothing in the program",
			"train.clip: nothing in the run, 1 in the program"}},
		{"spec hash", fakeModel(t, compiler, 1), root, []string{"spec: spec-1 in the run, spec-2 in the program"}},
		{"seed", fakeModel(t, fakeConfig(nil), 2), root, []string{"seed: 1 in the run, 2 in the program"}},
		{"data", fakeModel(t, fakeConfig(nil), 1), other, []string{"data: "}},
		{"tokenizer", elsewhere, root, []string{"tokenizer: "}},
	} {
		held := slices.Clone(c.m.weights)
		_, err := c.m.Train(t.Context(), TrainOptions{Run: run, Root: c.root})
		if !slices.Equal(held, c.m.weights) {
			t.Errorf("%s: the model was changed", c.name)
		}
		if !errors.Is(err, ErrFile) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, want := range c.wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\nlacks %q", c.name, err, want)
			}
		}
		if strings.Contains(err.Error(), "hidden_size") {
			t.Errorf("%s: names a setting that is the same: %v", c.name, err)
		}
	}
	if !slices.Equal(before, saves(t, run)) {
		t.Errorf("saves %v became %v", before, saves(t, run))
	}
	// Steps may change: the run is then longer, and says so.
	var out bytes.Buffer
	res := mustTrain(t, fakeModel(t, start, 1), t.Context(), TrainOptions{Run: run, Root: root, Steps: 5, Progress: &out})
	if res.Resumed != 3 || res.Step != 5 || !strings.Contains(out.String(), "was to have 3 steps") {
		t.Errorf("%+v\n%s", res, &out)
	}
	// A run that has all its steps has nothing to do.
	if res := mustTrain(t, fakeModel(t, start, 1), t.Context(), TrainOptions{Run: run, Root: root, Steps: 5}); res.Step != 5 || res.FirstStep != 0 || !math.IsNaN(res.Loss) {
		t.Errorf("%+v", res)
	}
}

func TestOneProcessTrainsInAFolder(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(run, 0o777); err != nil {
		t.Fatal(err)
	}
	unlock, err := checkpoint.Lock(run)
	if err != nil {
		t.Fatal(err)
	}
	root := fakeRoot(t)
	m := fakeModel(t, fakeConfig(nil), 1)
	if _, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root}); err == nil || !strings.Contains(err.Error(), run) {
		t.Errorf("a locked folder: %v", err)
	}
	unlock()
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
}

func TestKeepAndBest(t *testing.T) {
	root := fakeRoot(t)
	run := filepath.Join(t.TempDir(), "run")
	cfg := fakeConfig(nil)
	cfg.Train.Steps, cfg.Train.Save, cfg.Train.Schedule = 8, Save{Every: 1, Keep: 2, Best: true}, nil
	// The model learns in the first steps, and then is made worse and worse by a rate of the wrong sign.
	cfg.NewTrainer = func(w []float32, _ int) Trainer { return worseAfter{newFakeTrainer(w), 3} }
	m := fakeModel(t, cfg, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if got, want := saves(t, run), []string{"checkpoint-3", "checkpoint-7", "checkpoint-8"}; !slices.Equal(got, want) {
		t.Errorf("saves %v, want %v", got, want)
	}
	best, err := OpenBest(cfg, run)
	if err != nil {
		t.Fatal(err)
	}
	last, err := Open(cfg, run)
	if err != nil {
		t.Fatal(err)
	}
	o := EvalOptions{Root: root, Batches: cfg.Train.Eval.Batches}
	b, err1 := best.Evaluate(t.Context(), o)
	l, err2 := last.Evaluate(t.Context(), o)
	if err := errors.Join(err1, err2); err != nil || !(b.Loss < l.Loss) {
		t.Errorf("best %v, last %v: %v", b, l, err)
	}
	records, err := telemetry.ReadLog(filepath.Join(run, logFile))
	if err != nil || *records[2].EvalLoss != b.Loss || *records[7].EvalLoss != l.Loss {
		t.Errorf("evaluation %v and %v, while training %v: %v", b, l, records, err)
	}
	if math.Exp(b.Loss) != b.Perplexity || b.Tokens == 0 {
		t.Errorf("%+v", b)
	}
	for _, name := range []string{logFile, curveFile, "checkpoint-8/config.json", "checkpoint-8/tokenizer.json", "checkpoint-8/generation_config.json", "checkpoint-8/model.safetensors"} {
		if info, err := os.Stat(filepath.Join(run, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// twoNats is a program whose loss is two nats a token.
type twoNats struct{ *fakeTrainer }

func (twoNats) Loss(_, targets []int32) (sum float64, count int, err error) {
	for _, v := range targets {
		if v >= 0 {
			sum += 2
			count++
		}
	}
	return sum, count, nil
}

func TestEvaluateIsAMeanOverTokens(t *testing.T) {
	cfg := fakeConfig(nil)
	cfg.NewTrainer = func(w []float32, _ int) Trainer { return twoNats{newFakeTrainer(w)} }
	root := fakeRoot(t)
	m := fakeModel(t, cfg, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root, Steps: 1})
	all, err := m.Evaluate(t.Context(), EvalOptions{Root: root})
	if err != nil || all.Loss != 2 || all.Perplexity != math.Exp(2) {
		t.Errorf("%+v, %v", all, err)
	}
	one, err := m.Evaluate(t.Context(), EvalOptions{Root: root, Batches: 1})
	if err != nil || one.Tokens > 2*16 || one.Tokens >= all.Tokens {
		t.Errorf("%+v of %+v, %v", one, all, err)
	}
}

type worseAfter struct {
	*fakeTrainer
	step int
}

func (w worseAfter) Step(tokens, targets []int32, p StepParams) (float32, float32, error) {
	if p.Step > w.step {
		p.LR = -p.LR
	}
	return w.fakeTrainer.Step(tokens, targets, p)
}

func TestNoEvaluation(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	cfg := fakeConfig(nil)
	cfg.Data.EvalShare = 0
	m := fakeModel(t, cfg, 1)
	res := mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: fakeRoot(t)})
	if !math.IsNaN(res.EvalLoss) || len(saves(t, run)) != 2 {
		t.Errorf("%+v, saves %v", res, saves(t, run))
	}
	if _, err := OpenBest(cfg, run); !errors.Is(err, ErrFile) {
		t.Errorf("the best of a run without evaluations: %v", err)
	}
}

// A run that is stopped in its last step is complete, and says so: nothing is left where nothing is held out, otherwise an
// evaluation.
func TestStoppedInTheLastStep(t *testing.T) {
	root := fakeRoot(t)
	for share, says := range map[float64]string{0: "", 0.2: "; complete and saved, but for the last evaluation: the same command makes up for it"} {
		run := filepath.Join(t.TempDir(), "run")
		ctx, cancel := context.WithCancel(t.Context())
		cfg := fakeConfig(at(12, cancel))
		cfg.Data.EvalShare = share
		res := mustTrain(t, fakeModel(t, cfg, 1), ctx, TrainOptions{Run: run, Root: root})
		if res.Interrupted != (says != "") || !strings.HasPrefix(res.String(), run+": 12 of 12 steps, loss ") || !strings.HasSuffix(res.String(), says) || strings.Contains(res.String(), "stopped") {
			t.Errorf("%s", res)
		}
		if got := saves(t, run); !slices.Equal(got, []string{"checkpoint-10", "checkpoint-12"}) {
			t.Errorf("saves %v", got)
		}
		cfg = fakeConfig(nil)
		cfg.Data.EvalShare = share
		res = mustTrain(t, fakeModel(t, cfg, 1), t.Context(), TrainOptions{Run: run, Root: root})
		records, err := telemetry.ReadLog(filepath.Join(run, logFile))
		if err != nil || res.Interrupted || res.Resumed != 12 || records[len(records)-1].Step != 12 {
			t.Errorf("%+v, %v, the log ends with %+v", res, err, records[len(records)-1])
		}
	}
}

func TestEpochs(t *testing.T) {
	root := fakeRoot(t)
	cfg := fakeConfig(nil)
	cfg.Train.Steps, cfg.Train.Epochs = 0, 1
	one := mustTrain(t, fakeModel(t, cfg, 1), t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root})
	cfg.Train.Epochs = 2.5
	more := mustTrain(t, fakeModel(t, cfg, 1), t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root})
	if one.Steps < 5 || math.Abs(float64(more.Steps)-2.5*float64(one.Steps)) > 3 {
		t.Errorf("1 epoch is %d steps, 2.5 are %d", one.Steps, more.Steps)
	}
}

// Learning lowers the loss, and another seed gives other weights.
func TestLearns(t *testing.T) {
	root := fakeRoot(t)
	var losses, norms []float64
	cfg := fakeConfig(func(_ int, loss, norm float32) (float32, float32) {
		losses, norms = append(losses, float64(loss)), append(norms, float64(norm))
		return loss, norm
	})
	cfg.Train.Steps = 60
	run := filepath.Join(t.TempDir(), "run")
	m := fakeModel(t, cfg, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	records, err := telemetry.ReadLog(filepath.Join(run, logFile))
	if err != nil {
		t.Fatal(err)
	}
	first, last := records[0], records[len(records)-1]
	if !(last.Loss < first.Loss-1.5 && *last.EvalLoss < first.Loss-1.5) {
		t.Errorf("from %v to %v", first, last)
	}
	if second := records[1]; second.Step != 3 || second.Loss != (losses[1]+losses[2])/2 || second.GradNorm != norms[2] || !(second.TokensPerSecond > 0) {
		t.Errorf("steps of losses %v and norms %v are logged as %+v", losses[:3], norms[:3], second)
	}
	if records[0].LR != 0.025 || math.Abs(last.LR-0.005) > 1e-12 {
		t.Errorf("rates %v, %v", records[0].LR, last.LR)
	}
	if m2 := fakeModel(t, cfg, 2); reflect.DeepEqual(fakeModel(t, cfg, 1).weights, m2.weights) {
		t.Error("two seeds gave the same weights")
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	var made *aheadTrainer
	for name, cfg := range map[string]Config{"one by one": fakeConfig(nil), "ahead": aheadConfig(t, nil, nil, &made)} {
		cfg.Train.Steps, cfg.Train.Save.Every, cfg.Train.Eval.Every = 1000, 1000, 1000
		m := fakeModel(t, cfg, 1)
		r, err := m.openRun(t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: fakeRoot(t)})
		if err != nil {
			t.Fatal(err)
		}
		step := func() {
			if err := r.learn(t.Context()); err != nil {
				t.Error(err)
			}
		}
		step()
		if n := testing.AllocsPerRun(20, step); n != 0 {
			t.Errorf("%s: %v allocations a step", name, n)
		}
		if p, ok := r.trainer.(Pipelined); ok {
			p.Finish()
		}
		r.close()
	}
	if made.overlaps < 20 {
		t.Errorf("%d steps were started ahead", made.overlaps)
	}
}

func TestTrainErrors(t *testing.T) {
	root := fakeRoot(t)
	m := fakeModel(t, fakeConfig(nil), 1)
	run := filepath.Join(t.TempDir(), "run")
	if _, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root, Steps: -1}); !errors.Is(err, ErrInput) {
		t.Errorf("negative steps: %v", err)
	}
	if _, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root, Data: []string{"none/*.txt"}}); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "none/*.txt") {
		t.Errorf("no data: %v", err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if res, err := m.Train(done, TrainOptions{Run: run, Root: root}); err == nil && !res.Interrupted || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %+v, %v", res, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Train(t.Context(), TrainOptions{Run: filepath.Join(file, "run"), Root: root}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("no folder: %v", err)
	}
	// A save whose files are damaged is passed over for the one before, and never when it is the only one.
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	want := slices.Clone(m.weights)
	damage := func(step int) {
		if err := os.Truncate(filepath.Join(run, fmt.Sprintf("checkpoint-%d", step), momentsFile), 100); err != nil {
			t.Fatal(err)
		}
	}
	damage(12)
	var out bytes.Buffer
	m = fakeModel(t, fakeConfig(nil), 1)
	res := mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root, Progress: &out})
	if res.Resumed != 10 || !slices.Equal(m.weights, want) || !strings.Contains(out.String(), "checkpoint-12") {
		t.Errorf("%+v\n%s", res, &out)
	}
	damage(12)
	damage(10)
	if _, err := fakeModel(t, fakeConfig(nil), 1).Train(t.Context(), TrainOptions{Run: run, Root: root}); !errors.Is(err, ErrFile) {
		t.Errorf("all saves damaged: %v", err)
	}
}
