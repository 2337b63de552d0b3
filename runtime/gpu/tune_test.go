package gpu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// tuning makes products be timed, and kept in a folder of the test.
func tuning(t *testing.T) (fake *cudatest.Fake, cache string) {
	fake = cudatest.New(t)
	fake.Set("pace1", 90) // the second algorithm is the fastest
	cache = t.TempDir()
	t.Setenv("TFC_TUNE", "")
	t.Setenv("TFC_CACHE", cache)
	return fake, cache
}

// on calls f with the program's device.
func on(t *testing.T, p *Program, f func(d lm.Device)) {
	t.Helper()
	d, err := Backend(p).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	f(d)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// evaluate has a trainer make its product, and returns what the device has to say.
func evaluate(t *testing.T, p *Program, tuned string) (notes []string) {
	t.Helper()
	on(t, p, func(d lm.Device) {
		trainer, err := d.NewTrainer(make([]float32, 32), tuned)
		if err != nil {
			t.Fatal(err)
		}
		defer trainer.Close()
		if _, _, err := trainer.Loss(make([]int32, 8), make([]int32, 8)); err != nil {
			t.Fatal(err)
		}
		if notes = d.Notes(); len(d.Notes()) > 0 {
			t.Error("notes come twice")
		}
	})
	return notes
}

func contains(t *testing.T, path, text string) bool {
	data, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(data), text)
}

// TestProductsAreTimedOnce: the first program on a machine times its products, all later ones choose the same, and a run
// keeps its choices elsewhere.
func TestProductsAreTimedOnce(t *testing.T) {
	fake, cache := tuning(t)
	p := program(t)
	run, other := filepath.Join(t.TempDir(), "tuned.json"), filepath.Join(t.TempDir(), "tuned.json")
	asked := func() int { return fake.Count("cublasLtMatmulAlgoGetHeuristic") }
	notes := evaluate(t, p, run)
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "1 matrix products were timed, once for this machine, in ") || asked() != 1 {
		t.Errorf("the first time: %q, %d calls", notes, asked())
	}
	const second = `"algorithm": "74616663616c676f0100000000000000`
	if !contains(t, run, second) || !contains(t, filepath.Join(cache, "products.json"), second) {
		t.Error("the choice is not in both locks")
	}
	for _, path := range []string{run, other, ""} {
		if notes := evaluate(t, p, path); len(notes) > 0 || asked() != 1 {
			t.Errorf("%s: %q, %d calls", path, notes, asked())
		}
	}
	if !contains(t, other, second) {
		t.Error("the second run has not taken over the machine's choice")
	}
	// Elsewhere, and with timing off, the run's choice holds.
	t.Setenv("TFC_CACHE", t.TempDir())
	evaluate(t, p, run)
	t.Setenv("TFC_TUNE", "off")
	evaluate(t, p, run)
	if asked() != 1 {
		t.Errorf("a run that moves chooses again")
	}
	// With timing off the machine's lock is not there, and the first choice is kept for the run.
	fresh := filepath.Join(t.TempDir(), "tuned.json")
	t.Setenv("TFC_CACHE", cache)
	if notes := evaluate(t, p, fresh); len(notes) > 0 || asked() != 2 || !contains(t, fresh, `"algorithm": "74616663616c676f0000000000000000`) {
		t.Errorf("timing off: %q, %d calls", notes, asked())
	}
	t.Setenv("TFC_TUNE", "")
	if evaluate(t, p, fresh); asked() != 2 {
		t.Error("a run that began with timing off goes on with other choices")
	}
	t.Setenv("TFC_TUNE", "no")
	on(t, p, func(d lm.Device) {
		if _, err := d.NewTrainer(make([]float32, 32), ""); err == nil || !strings.Contains(err.Error(), `TFC_TUNE is "no"; it can be off`) {
			t.Error(err)
		}
	})
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
}

// TestCacheCannotBeWritten: that is said once, and the run keeps its choice.
func TestCacheCannotBeWritten(t *testing.T) {
	tuning(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TFC_CACHE", filepath.Join(file, "below"))
	run := filepath.Join(t.TempDir(), "tuned.json")
	notes := evaluate(t, program(t), run)
	cannot := 0
	for _, n := range notes {
		if strings.Contains(n, "products.json cannot be saved") {
			cannot++
		}
	}
	if cannot != 1 || !contains(t, run, `"algorithm"`) {
		t.Errorf("%q", notes)
	}
}

// TestTune times again, for the machine and for a run that has chosen before.
func TestTune(t *testing.T) {
	fake, cache := tuning(t)
	p := program(t)
	p.Prefill.Enqueue = func(r *Run) Ptr { // over a chunk, or fewer tokens; the first layer's cache, and a table
		r.Multiply(1, r.Arena, r.Keys[0], r.Weights, 0, 0, 0)
		return r.Arena
	}
	p.Products = append(p.Products, Product{M: 8, N: 3, K: 8, Dynamic: true, A: F32, B: F32, D: F32, Align: 64, About: "prefill  m.yaml:6"})
	run := filepath.Join(t.TempDir(), "tuned.json")
	evaluate(t, p, run)
	fake.Set("pace1", 110)
	on(t, p, func(d lm.Device) {
		timings, err := d.Tune(run)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range timings {
			got = append(got, x.About+": "+x.Shape)
			if x.Candidates != 3 || x.Chosen != 1 || x.First != x.Took || x.Took == 0 {
				t.Errorf("%+v", x)
			}
		}
		if want := []string{"eval  m.yaml:5: 1 × 1 × 32 f32", "prefill  m.yaml:6: 4 × 3 × 8 f32"}; !slices.Equal(got, want) {
			t.Errorf("timed: %q", got)
		}
		machine := filepath.Join(cache, "products.json")
		if notes, want := d.Notes(), []string{"the choices are kept in " + run + " and " + machine}; !slices.Equal(notes, want) {
			t.Errorf("%q", notes)
		}
		for _, path := range []string{run, machine} {
			const first = `"algorithm": "74616663616c676f0000000000000000`
			if !contains(t, path, first) || contains(t, path, "74616663616c676f01") {
				t.Errorf("%s is not refreshed", path)
			}
		}
		g, err := d.NewGenerator(make([]float32, 32), 1, run)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		before := fake.Count("cublasLtMatmulAlgoGetHeuristic")
		for _, c := range []struct{ tokens, asked int }{{4, 0}, {3, 1}} { // a whole chunk is known, others take the first choice
			if _, err := g.Prefill(make([]int32, c.tokens), 0, 0); err != nil {
				t.Fatal(err)
			}
			if got := fake.Count("cublasLtMatmulAlgoGetHeuristic") - before; got != c.asked {
				t.Errorf("a prefill of %d tokens asks the heuristic %d times, not %d", c.tokens, got, c.asked)
			}
		}
		if notes := d.Notes(); len(notes) > 0 {
			t.Errorf("%q", notes)
		}
	})
	// Without memory, a product is listed as such.
	fake.Set("memory", 40<<20)
	p.Products[0].K = 4 << 20
	on(t, p, func(d lm.Device) {
		timings, err := d.Tune("")
		if err != nil || len(timings) != 2 || timings[0].Took != 0 || timings[0].About != "eval  m.yaml:5" {
			t.Errorf("%+v, %v", timings, err)
		}
	})
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
}
