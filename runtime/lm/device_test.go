package lm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tfc-dev/tfc/runtime/telemetry"
	"github.com/tfc-dev/tfc/runtime/weights"
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
	amax  uint32 // the largest magnitude of the newest step
}

func (r *remoteTrainer) Step(tokens, targets []int32, p StepParams) (float32, float32, error) {
	r.scale.GoodSteps++
	if r.scale.GoodSteps%3 == 0 {
		r.scale.Scale *= 2
	}
	r.amax = r.amax*3 + 1
	return r.fakeTrainer.Step(tokens, targets, p)
}

func (r *remoteTrainer) Weights() []float32             { return r.host }
func (r *remoteTrainer) Pull() error                    { copy(r.host, r.w); return nil }
func (r *remoteTrainer) Push() error                    { copy(r.w, r.host); return nil }
func (r *remoteTrainer) LossScale() (*LossScale, error) { s := r.scale; return &s, nil }
func (r *remoteTrainer) SetLossScale(s LossScale) error { r.scale = s; return nil }
func (r *remoteTrainer) Amax() ([]uint32, error)        { return []uint32{0x7fc00000, r.amax}, nil } // NaN, too, is saved
func (r *remoteTrainer) SetAmax(a []uint32) error {
	if len(a) == 2 && a[0] == 0x7fc00000 {
		r.amax = a[1]
	}
	return nil
}

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
			if a := r.trainer.(*remoteTrainer).amax; a != (531441-1)/2 {
				t.Errorf("after 12 steps the largest magnitude is %d", a)
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

// monitoredDevice is a fakeDevice that tells how warm it is: a degree more each time.
type monitoredDevice struct {
	fakeDevice
	asked *int
}

func (d monitoredDevice) Figures() telemetry.GPU {
	*d.asked++
	warm := 30 + *d.asked
	return telemetry.GPU{Name: "a fake", Capability: "9.0", MemoryUsed: 1, MemoryTotal: 2, Temperature: &warm, Throttle: []string{}}
}

type monitoredBackend struct{ fakeBackend }

func (b monitoredBackend) Open(i int) (Device, error) {
	d, err := b.fakeBackend.Open(i)
	if err != nil {
		return nil, err
	}
	return monitoredDevice{d.(fakeDevice), new(int)}, nil
}

// TestMonitored: each line of the log says how the device does, where it tells.
func TestMonitored(t *testing.T) {
	root := fakeRoot(t)
	calls := []string{}
	for _, monitored := range []bool{true, false} {
		cfg := fakeConfig(nil)
		cfg.CUDA = fakeBackend{devices: 1, calls: &calls}
		if monitored {
			cfg.CUDA = monitoredBackend{fakeBackend{devices: 1, calls: &calls}}
		}
		run := filepath.Join(t.TempDir(), "run")
		var out bytes.Buffer
		mustTrain(t, fakeModel(t, cfg, 1), t.Context(), TrainOptions{Run: run, Root: root, Progress: &out})
		if !strings.Contains(out.String(), "device: cuda:0, a fake") {
			t.Errorf("no device:\n%s", &out)
		}
		text, err := os.ReadFile(filepath.Join(run, logFile))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for i, line := range lines {
			want := fmt.Sprintf(`,"gpu":{"name":"a fake","compute_capability":"9.0","memory_used":1,"memory_total":2,"temperature_celsius":%d,"throttle":[]}}`, 31+i)
			if strings.HasSuffix(line, want) != monitored || strings.Contains(line, "gpu") != monitored {
				t.Errorf("line %d is %s", i, line)
			}
		}
		if records, err := telemetry.ReadLog(filepath.Join(run, logFile)); err != nil || len(records) != len(lines) {
			t.Errorf("%d of %d lines are read: %v", len(records), len(lines), err)
		}
	}
}

// drawnDevice is a fakeDevice whose trainers draw a fresh model's weights themselves, in parts.
type drawnDevice struct {
	fakeDevice
	host *[]float32 // the buffer that it was given
}

func (d drawnDevice) NewDrawnTrainer(w []float32, draw func(dst []float32, from int), tuned string) (Trainer, error) {
	there := make([]float32, len(w))
	for from := 0; from < len(w); from += 999 {
		draw(there[from:min(from+999, len(w))], from)
	}
	*d.host = w
	return &remoteTrainer{fakeTrainer: newFakeTrainer(there), host: w, scale: LossScale{Scale: 8}}, nil
}

type drawnBackend struct {
	fakeBackend
	host *[]float32
}

func (b drawnBackend) Open(i int) (Device, error) {
	d, err := b.fakeBackend.Open(i)
	if err != nil {
		return nil, err
	}
	return drawnDevice{d.(fakeDevice), b.host}, nil
}

// stopAt is a Progress that calls stop when a text shows.
type stopAt struct {
	text string
	stop func()
}

func (s stopAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), s.text) {
		s.stop()
	}
	return len(p), nil
}

// TestDrawnOnTheDevice: a fresh model's host holds no weights until they are read back, and a run is the same.
func TestDrawnOnTheDevice(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	calls, host := []string{}, []float32(nil)
	cfg := fakeConfig(nil)
	cfg.CUDA = drawnBackend{fakeBackend{devices: 1, calls: &calls}, &host}
	fresh := func() *Model {
		t.Helper()
		m, err := New(cfg, 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		return m
	}
	m := fresh()
	trainer, err := m.newTrainer("")
	if err != nil || slices.ContainsFunc(host, func(v float32) bool { return v != 0 }) {
		t.Fatalf("the host has weights already, or %v", err)
	}
	trainer.Close()
	if first := fakeModel(t, fakeConfig(nil), 1).weights; !slices.Equal(m.values(), first) {
		t.Error("a trainer that nothing was read back from leaves other weights")
	}
	ctx, cancel := context.WithCancel(t.Context())
	m = fresh()
	run := filepath.Join(t.TempDir(), "run")
	if res := mustTrain(t, m, ctx, TrainOptions{Run: run, Root: root, Progress: stopAt{"device:", cancel}}); !res.Interrupted || res.Step != 0 || m.first == nil {
		t.Errorf("stopped before the first step: %+v, and the weights were read back: %v", res, m.first == nil)
	}
	for _, steps := range []int{0, 14} { // 14: on from the save, whose weights are the host's
		m := fresh()
		mustTrain(t, m, t.Context(), TrainOptions{Run: run, Root: root, Steps: steps})
		if steps == 0 {
			if got := outcomeOf(t, m, run); !slices.Equal(got.weights, want.weights) || !reflect.DeepEqual(got.moments, want.moments) || !reflect.DeepEqual(got.log, want.log) {
				t.Errorf("log %v, want %v", got.log, want.log)
			}
		}
	}
	cpu := filepath.Join(t.TempDir(), "run")
	var last *Model
	for _, steps := range []int{0, 14} {
		last = fakeModel(t, fakeConfig(nil), 1)
		mustTrain(t, last, t.Context(), TrainOptions{Run: cpu, Root: root, Steps: steps})
	}
	opened, err := Open(cfg, run)
	if err != nil || !slices.Equal(opened.weights, last.weights) {
		t.Errorf("a run that went on has other weights, or %v", err)
	}
}

// TestFreshWeights: whatever a fresh model does first, its weights are drawn by then.
func TestFreshWeights(t *testing.T) {
	const floats = 1 << 21
	cfg := fakeConfig(nil)
	cfg.WeightFloats = floats
	cfg.Weights = []weights.Info{{Name: "w", Shape: []int{floats}, Init: weights.Init{Kind: "normal", Scale: 1}, File: "w"}}
	want := make([]float32, floats)
	if err := weights.Initialise(cfg.Weights, want, 3); err != nil {
		t.Fatal(err)
	}
	var got []float32
	cfg.NewTrainer = func(w []float32, _ int) Trainer { got = slices.Clone(w); return newFakeTrainer(w) }
	cfg.NewGenerator = func(w []float32, slots, _ int) Generator { got = slices.Clone(w); return newFakeGenerator(w, slots) }
	dir := filepath.Join(t.TempDir(), "model")
	for name, use := range map[string]func(m *Model) error{
		"training":   func(m *Model) error { _, err := m.newTrainer(""); return err },
		"generation": func(m *Model) error { _, err := m.generation(); return err },
		"saving": func(m *Model) error {
			if err := m.Save(dir); err != nil {
				return err
			}
			got = make([]float32, floats)
			return weights.Load(dir, cfg.Weights, got)
		},
	} {
		m, err := New(cfg, 3)
		if err != nil {
			t.Fatal(err)
		}
		if err := use(m); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: other weights, or %v", name, err)
		}
		m.Close()
	}
	cfg.Weights[0].Init.Kind = "other"
	if _, err := New(cfg, 3); err == nil || !strings.Contains(err.Error(), "draw the first weights: weight w") {
		t.Errorf("an unknown kind: %v", err)
	}
}
