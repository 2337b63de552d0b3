package lm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeBackend has devices on which the fake program runs, with memory of their own.
type fakeBackend struct {
	devices int
	problem error // of the first that Open is asked for
	calls   *[]string
}

func (b fakeBackend) Find() (int, error) {
	if b.devices == 0 {
		return 0, errors.New("no driver")
	}
	return b.devices - 1, nil // those before have no code
}

func (b fakeBackend) Open(i int) (Device, error) {
	if b.problem != nil {
		return nil, b.problem
	}
	*b.calls = append(*b.calls, "open")
	return fakeDevice{b.calls}, nil
}

type fakeDevice struct{ calls *[]string }

func (fakeDevice) String() string { return "cuda:0, a fake" }

func (d fakeDevice) Close() error { *d.calls = append(*d.calls, "close"); return nil }

func (d fakeDevice) NewTrainer(w []float32, tuned string) (Trainer, error) {
	*d.calls = append(*d.calls, "train by "+tuned)
	return &remoteTrainer{fakeTrainer: newFakeTrainer(slices.Clone(w)), host: w, scale: LossScale{Scale: 8}}, nil
}

func (d fakeDevice) NewGenerator(w []float32, slots int, tuned string) (Generator, error) {
	*d.calls = append(*d.calls, "generate by "+tuned)
	return newFakeGenerator(slices.Clone(w), slots), nil
}

func (d fakeDevice) Tune(tuned string) ([]Timing, error) {
	*d.calls = append(*d.calls, "tune "+tuned)
	return []Timing{
		{About: "linear  qkv  m.yaml:3", Shape: "8 × 16 × 4 bf16", Candidates: 3, Chosen: 2, First: 200 * time.Microsecond, Took: 150 * time.Microsecond},
		{About: "linear  up  m.yaml:4", Shape: "8 × 4 × 16 bf16", Candidates: 2, Chosen: 2, Took: 50 * time.Microsecond},
		{About: "linear  down  m.yaml:4", Shape: "8 × 4 × 16 f32"},
	}, nil
}

// Notes says one thing to the process.
func (d fakeDevice) Notes() []string {
	if slices.Contains(*d.calls, "noted") {
		return nil
	}
	*d.calls = append(*d.calls, "noted")
	return []string{"a sentence"}
}

// remoteTrainer keeps its weights elsewhere, and scales its loss by a number that every step halves or doubles.
type remoteTrainer struct {
	*fakeTrainer
	host  []float32
	scale LossScale
}

func (r *remoteTrainer) Step(tokens, targets []int32, p StepParams) (float32, float32, error) {
	r.scale.GoodSteps++
	if r.scale.GoodSteps%3 == 0 {
		r.scale.Scale *= 2
	}
	return r.fakeTrainer.Step(tokens, targets, p)
}

func (r *remoteTrainer) Weights() []float32             { return r.host }
func (r *remoteTrainer) Pull() error                    { copy(r.host, r.w); return nil }
func (r *remoteTrainer) Push() error                    { copy(r.w, r.host); return nil }
func (r *remoteTrainer) LossScale() (*LossScale, error) { s := r.scale; return &s, nil }
func (r *remoteTrainer) SetLossScale(s LossScale) error { r.scale = s; return nil }

func TestUse(t *testing.T) {
	calls := []string{}
	on := func(b Backend) *Model {
		cfg := fakeConfig(nil)
		cfg.CUDA = b
		return fakeModel(t, cfg, 1)
	}
	gpu := fakeBackend{devices: 1, calls: &calls}
	for _, c := range []struct {
		backend Backend
		device  string
		where   string
		err     string
	}{
		{nil, "auto", "cpu", ""},
		{nil, "cpu", "cpu", ""},
		{nil, "cuda", "", "has no CUDA code"},
		{gpu, "auto", "cuda:0, a fake", ""},
		{gpu, "cuda", "cuda:0, a fake", ""},
		{gpu, "cuda:3", "cuda:0, a fake", ""},
		{gpu, "cpu", "cpu", ""},
		{fakeBackend{calls: &calls}, "auto", "cpu", ""},
		{fakeBackend{calls: &calls}, "cuda", "", "device cuda: no driver"},
		{fakeBackend{devices: 1, problem: errors.New("it burns"), calls: &calls}, "auto", "cpu", ""},
		{fakeBackend{devices: 1, problem: errors.New("it burns"), calls: &calls}, "cuda:1", "", "device cuda:1: it burns"},
	} {
		m := on(c.backend)
		err := m.Use(c.device)
		if c.err == "" && (err != nil || m.deviceName() != c.where) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: on %s, %v; want %s%s", c.device, m.deviceName(), err, c.where, c.err)
		}
		m.Close()
	}
	opens, closes := 0, 0
	for _, call := range calls {
		switch call {
		case "open":
			opens++
		case "close":
			closes++
		}
	}
	if opens != 3 || closes != opens {
		t.Errorf("not every device that was opened is closed: %v", calls)
	}
	for device, text := range map[string]string{
		"": "give auto", "tpu": "give auto", "gpu": "did you mean cuda?", "CUDA": "did you mean cuda?", "Cuda:1": "did you mean cuda:1?",
		"cuda:": "the number of a GPU", "cuda:-1": "the number of a GPU", "cuda:01": "the number of a GPU", "cuda:1e3": "the number of a GPU", "cuda:99999999999999999999": "the number of a GPU",
	} {
		if err := on(gpu).Use(device); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v, want %q", device, err, text)
		}
	}
}

// A run whose weights live elsewhere saves what it learned, and goes on to the same bits and the same loss scale; what
// was learned there is what the model writes with.
func TestTrainElsewhere(t *testing.T) {
	calls := []string{}
	cfg := fakeConfig(nil)
	cfg.Train.Schedule = nil
	root := fakeRoot(t)
	cfg.CUDA = fakeBackend{devices: 1, calls: &calls}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, steps := range []int{5, 12} {
		m := fakeModel(t, cfg, 1)
		mustTrain(t, m, t.Context(), TrainOptions{Run: elsewhere, Root: root, Steps: steps})
		if steps == 12 {
			plain := filepath.Join(t.TempDir(), "plain")
			cfg := fakeConfig(nil)
			cfg.Train.Schedule = nil
			on := fakeModel(t, cfg, 1)
			mustTrain(t, on, t.Context(), TrainOptions{Run: plain, Root: root})
			if !slices.Equal(m.weights, on.weights) {
				t.Error("training elsewhere, with a stop, comes to other weights")
			}
			r, err := m.openRun(t.Context(), TrainOptions{Run: elsewhere, Root: root})
			if err != nil {
				t.Fatal(err)
			}
			if s := r.trainer.(*remoteTrainer).scale; s.GoodSteps != 12 || s.Scale != 8*16 {
				t.Errorf("after 12 steps the loss scale is %+v", s)
			}
			r.close()
			a, err1 := m.Generate(t.Context(), "The fox", m.Defaults())
			b, err2 := on.Generate(t.Context(), "The fox", on.Defaults())
			if a != b || err1 != nil || err2 != nil {
				t.Errorf("%q here, %q there: %v, %v", b, a, err1, err2)
			}
		}
	}
}

// What was measured on a device is kept in the run's folder: training and generation get that file, and generation from
// another folder where it has one. What the device has to say is said once.
func TestTunedFile(t *testing.T) {
	calls := []string{}
	cfg := fakeConfig(nil)
	cfg.CUDA = fakeBackend{devices: 1, calls: &calls}
	run, folder := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "model")
	tuned := filepath.Join(run, "tuned.json")
	code, _, errs := runCommand(t.Context(), cfg, "train", "--run", run, "--root", fakeRoot(t), "--steps", "3")
	if code != 0 || strings.Count(errs, "a sentence\n") != 1 || !slices.Contains(calls, "train by "+tuned) {
		t.Errorf("train: %d, %q\n%s", code, calls, errs)
	}
	m, err := Open(cfg, run)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Save(folder); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flag, dir, want string }{{"--run", run, tuned}, {"--model", folder, ""}, {"--model", folder, filepath.Join(folder, "tuned.json")}} {
		calls = nil
		code, _, errs = runCommand(t.Context(), cfg, "generate", c.flag, c.dir, "--prompt", "The fox")
		if code != 0 || errs != "fake: a sentence\n" || !slices.Contains(calls, "generate by "+c.want) {
			t.Errorf("generate %s %s: %d, %q\n%s", c.flag, c.dir, code, calls, errs)
		}
		if c.dir == folder {
			if err := os.WriteFile(filepath.Join(folder, "tuned.json"), nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTuneCommand(t *testing.T) {
	calls := []string{}
	cfg := fakeConfig(nil)
	run := t.TempDir()
	for _, c := range []struct {
		backend Backend
		args    []string
		code    int
		out     string // of the standard output, or of the other where the code is not 0
		call    string
	}{
		{fakeBackend{devices: 1, calls: &calls}, nil, 0, `product                 shape            first choice          chosen  time      ratio
linear  qkv  m.yaml:3   8 × 16 × 4 bf16  200.0 µs              2 of 3  150.0 µs  0.750
linear  up  m.yaml:4    8 × 4 × 16 bf16  cannot be run         2 of 2  50.0 µs   
linear  down  m.yaml:4  8 × 4 × 16 f32   no memory to time it                    
in all                                   200.0 µs                      150.0 µs  0.750
2 products timed on cuda:0, a fake in 0.0 s
`, "tune "},
		{fakeBackend{devices: 1, calls: &calls}, []string{"--run", run, "--json"}, 0,
			`{"about":"linear  qkv  m.yaml:3","shape":"8 × 16 × 4 bf16","candidates":3,"chosen":2,"first_us":200,"took_us":150}
{"about":"linear  up  m.yaml:4","shape":"8 × 4 × 16 bf16","candidates":2,"chosen":2,"first_us":0,"took_us":50}
{"about":"linear  down  m.yaml:4","shape":"8 × 4 × 16 f32","candidates":0,"chosen":0,"first_us":0,"took_us":0}
`, "tune " + filepath.Join(run, "tuned.json")},
		{fakeBackend{devices: 1, calls: &calls}, []string{"--run", filepath.Join(run, "none")}, exitFile, "none is not the folder of a run or a model", ""},
		{fakeBackend{devices: 1, calls: &calls}, []string{"--device", "cpu"}, exitUsage, "not on the device cpu", ""},
		{fakeBackend{calls: &calls}, nil, exitFailure, "products are timed on a GPU: no driver", ""},
		{nil, nil, exitFailure, "products are timed on a GPU: the package has no CUDA code", ""},
	} {
		calls = nil
		cfg.CUDA = c.backend
		code, out, errs := runCommand(t.Context(), cfg, append([]string{"tune"}, c.args...)...)
		if code != c.code || code == 0 && out != c.out || code != 0 && !strings.Contains(errs, c.out) || c.call != "" && !slices.Contains(calls, c.call) {
			t.Errorf("tune %v: %d, %q\n%s\n%s", c.args, code, calls, out, errs)
		}
	}
}
