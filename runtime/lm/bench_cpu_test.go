package lm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cpu"
)

// pooledTrainer is a fakeTrainer with kernels on a pool.
type pooledTrainer struct {
	*fakeTrainer
	pool *cpu.Pool
}

func (t pooledTrainer) Pool() *cpu.Pool { return t.pool }
func (t pooledTrainer) Close()          { t.pool.Close() }

func (t pooledTrainer) work(layers int) {
	x, w := cpu.NewMat(make([]float32, 64*32), 64, 32), cpu.NewMat(make([]float32, 32*32), 32, 32)
	for range layers {
		cpu.Linear(t.pool, x, cpu.NewMat(make([]float32, 64*32), 64, 32), w, cpu.Epilogue{})
		cpu.Add(t.pool, x, x, x)
	}
}

func (t pooledTrainer) Step(tokens, targets []int32, p StepParams) (loss, norm float32, err error) {
	t.work(3)
	return t.fakeTrainer.Step(tokens, targets, p)
}

func (t pooledTrainer) Loss(tokens, targets []int32) (sum float64, count int, err error) {
	t.work(1)
	return t.fakeTrainer.Loss(tokens, targets)
}

func TestBenchCPU(t *testing.T) {
	cfg := fakeConfig(nil)
	cfg.NewTrainer = func(w []float32, workers int) Trainer { return pooledTrainer{newFakeTrainer(w), cpu.NewPool(2)} }
	path := filepath.Join(t.TempDir(), "step.json")
	code, out, errs := runCommand(t.Context(), cfg, "bench", "cpu", "--steps", "3", "--trace", path)
	for _, want := range []string{"GFLOP/s of f32 multiply-adds", "GB/s read from 32 KiB", "GB/s read from 128.0 MiB", "train   cpu: ", "Linear 64×32×32  bench_cpu_test.go:", "Add  bench_cpu_test.go:", "µs in 6 kernels", "µs floor, "} {
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("exit code %d, no %q in\n%s\n%s", code, want, out, errs)
		}
	}
	code, out, errs = runCommand(t.Context(), cfg, "bench", "cpu", "--steps", "3", "--json")
	got := lines(t, out)
	if code != 0 || len(got["machine"]) != 1 || len(got["train"]) != 1 || len(got["kernel"]) != 2 || len(got["step"]) != 1 || got["step"][0]["launches"] != 6.0 || got["step"][0]["mfu"].(float64) <= 0 {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	for _, k := range got["kernel"] {
		if k["calls"] != 3.0 || k["floor_us"].(float64) <= 0 || k["us_per_call"].(float64) <= 0 {
			t.Errorf("%v", k)
		}
	}
	data, err := os.ReadFile(path)
	if text := string(data); err != nil || !json.Valid(data) || !strings.Contains(text, `"worker 0"`) || strings.Count(text, `"ph":"X"`) < 6 {
		t.Errorf("%v\n%s", err, text)
	}
	// bench train tells the same of the CPU, less the machine.
	if code, out, errs := runCommand(t.Context(), cfg, "bench", "train", "--steps", "1"); code != 0 || !strings.Contains(out, "µs in 6 kernels") || strings.Contains(out, "read from") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
	for args, want := range map[string]string{
		"bench cpu --device cuda":                          "bench cpu works on the CPU",
		"bench cpu --steps 0":                              "--steps is 0",
		"bench cpu train":                                  `fake bench cpu takes no argument "train"`,
		"bench cpu --steps 1 --trace " + os.DevNull + "/x": "is not a folder; name another file",
	} {
		if code, _, errs := runCommand(t.Context(), cfg, strings.Fields(args)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit code %d\n%s", args, code, errs)
		}
	}
}

func TestTraceIsRefusedBeforeMeasuring(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(folder, "missing", "step.json"): "there is no folder " + filepath.Join(folder, "missing") + "; make it",
		filepath.Join(file, "step.json"):              file + " is not a folder",
		folder:                                        "is a folder; name a file in it",
	} {
		code, out, errs := runCommand(t.Context(), fakeConfig(nil), "bench", "train", "--trace", path)
		if code != exitUsage || out != "" || !strings.Contains(errs, want) {
			t.Errorf("--trace %s: exit %d, %q, %q", path, code, out, errs)
		}
	}
}
