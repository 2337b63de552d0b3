package lm

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// aheadConfig is fakeConfig on a trainer that runs ahead, which it keeps in *made.
func aheadConfig(t testing.TB, h hook, finishing func(step int), made **aheadTrainer) Config {
	cfg := fakeConfig(h)
	cfg.NewTrainer = func(w []float32, _ int) Trainer {
		f := newFakeTrainer(w)
		f.hook = h
		*made = &aheadTrainer{fakeTrainer: f, t: t, finishing: finishing}
		return *made
	}
	return cfg
}

// A run whose steps start ahead of time leaves what one does that takes them one by one: with the steps that something
// follows (4, 5, 8, 10 and 12) not overtaken, and wherever it is stopped.
func TestRunningAheadIsExact(t *testing.T) {
	t.Parallel()
	root := fakeRoot(t)
	want := unbroken(t, root)
	var made *aheadTrainer
	run := filepath.Join(t.TempDir(), "run")
	m := fakeModel(t, aheadConfig(t, nil, nil, &made), 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got, want) {
		t.Errorf("log %v, want %v", got.log, want.log)
	}
	if made.overlaps != 7 { // all but the first, and those after 4, 5, 8 and 10
		t.Errorf("%d steps of 12 were started ahead", made.overlaps)
	}
	for stop := 1; stop <= 12; stop++ {
		for _, when := range []string{"as it starts", "as it finishes"} {
			run := filepath.Join(t.TempDir(), "run")
			ctx, cancel := context.WithCancel(t.Context())
			starting, finishing := at(stop, cancel), func(int) {}
			if when == "as it finishes" {
				starting, finishing = nil, func(step int) {
					if step == stop {
						cancel()
					}
				}
			}
			res := mustTrain(t, fakeModel(t, aheadConfig(t, starting, finishing, &made), 1), ctx, TrainOptions{Run: run, Root: root})
			late := res.Step - stop // a step that was under way is finished
			if !res.Interrupted || late != 0 && (late != 1 || when == "as it starts" || slices.Contains([]int{4, 5, 8, 10, 12}, stop)) {
				t.Fatalf("stopped in step %d %s: %+v", stop, when, res)
			}
			m := fakeModel(t, aheadConfig(t, nil, nil, &made), 1)
			mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
			got := outcomeOf(t, m, run)
			if !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.moments, want.moments) ||
				!reflect.DeepEqual(got.log, want.log) || got.best != want.best {
				t.Errorf("stopped in step %d %s: log %v, best %s; want %v, %s", stop, when, got.log, got.best, want.log, want.best)
			}
		}
	}
}

// Of a step that diverges, and of the one that was under way behind it, nothing is kept.
func TestDivergedAhead(t *testing.T) {
	t.Parallel()
	root := fakeRoot(t)
	want := unbroken(t, root)
	short := fakeConfig(nil)
	short.Train.Schedule = nil // so that steps do not depend on how many there are
	for diverged := 1; diverged <= 12; diverged++ {
		var made *aheadTrainer
		spoil := func(step int, loss, norm float32) (float32, float32) {
			if step == diverged {
				return float32(math.NaN()), norm
			}
			return loss, norm
		}
		run := filepath.Join(t.TempDir(), "run")
		cfg := aheadConfig(t, spoil, nil, &made)
		cfg.Train.Schedule = nil
		m := fakeModel(t, cfg, 1)
		res, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root})
		if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("step %d: the loss is NaN", diverged)) || res.Step != diverged-1 {
			t.Fatalf("step %d diverged: %+v, %v", diverged, res, err)
		}
		before := fakeModel(t, short, 1)
		if diverged > 1 {
			mustTrain(t, before, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root, Steps: diverged - 1})
		}
		if !slices.Equal(m.weights, before.weights) {
			t.Errorf("step %d diverged: the weights are not those before it", diverged)
		}
	}
	// Without what spoiled it, the run goes on to the same bits.
	var made *aheadTrainer
	run := filepath.Join(t.TempDir(), "run")
	m := fakeModel(t, aheadConfig(t, func(step int, loss, norm float32) (float32, float32) {
		if step == 7 {
			return loss, float32(math.Inf(1))
		}
		return loss, norm
	}, nil, &made), 1)
	if _, err := m.Train(t.Context(), TrainOptions{Run: run, Root: root}); err == nil || !strings.Contains(err.Error(), "save is from step 5") {
		t.Errorf("%v", err)
	}
	m = fakeModel(t, aheadConfig(t, nil, nil, &made), 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root})
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got, want) {
		t.Errorf("went on to something else: log %v, want %v", got.log, want.log)
	}
}
