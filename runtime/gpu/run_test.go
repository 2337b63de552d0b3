package gpu

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/telemetry"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// twin computes on the CPU what the program does on a device.
type twin struct{ w, g, m, v []float32 }

func (f *twin) Step(tokens, targets []int32, p lm.StepParams) (loss, norm float32, err error) {
	for i := range f.w {
		f.w[i] += p.LR * float32(p.Step)
		f.m[i] += float32(targets[1])
	}
	return float32(tokens[0]) + float32(p.Step), 2, nil
}

func (f *twin) Loss([]int32, []int32) (sum float64, count int, err error) {
	for _, w := range f.w {
		sum += float64(w) * float64(w)
	}
	return float64(float32(sum)), int(f.w[0]), nil
}

func (f *twin) Weights() []float32        { return f.w }
func (f *twin) Gradients() []float32      { return f.g }
func (f *twin) Moments() (a, b []float32) { return f.m, f.v }
func (f *twin) Pull() error               { return nil }
func (f *twin) Push() error               { return nil }
func (f *twin) Close()                    {}

// TestRun trains on a device as package lm does, with steps under way ahead of time, evaluations, saves and a stop in between:
// log and weights are those of the same program on the CPU.
func TestRun(t *testing.T) {
	fake := cudatest.New(t)
	p := program(t)
	p.MicroBatches = 2
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "text.txt"), []byte(strings.Repeat("The fox ran off.\n\nA bird sang of 12 things.\n\nThey saw it.\n\n", 30)), 0o666); err != nil {
		t.Fatal(err)
	}
	cfg := lm.Config{
		Name: "twin", SpecHash: "1", VocabSize: 280, Context: 8,
		Weights:      []weights.Info{{Name: "w", Shape: []int{32}, Init: weights.Init{Kind: "constant", Scale: 1}, File: "w"}},
		WeightFloats: 32, HFConfig: `{"model_type": "twin"}`, Data: lm.Data{Files: []string{"*.txt"}, EvalShare: 0.2},
		Train: lm.Train{
			Steps: 11, Batch: 4, MicroBatch: 2, Context: 4, LR: 0.5,
			Save: lm.Save{Every: 5, Keep: 2}, Eval: lm.Eval{Every: 4, Batches: 2}, LogEvery: 3, Seed: 1,
		},
		NewTrainer: func(w []float32, _ int) lm.Trainer {
			return &twin{w, make([]float32, 32), make([]float32, 32), make([]float32, 32)}
		},
		CUDA: Backend(p),
	}
	type outcome struct {
		log     []telemetry.Record
		moments []weights.Named
		saved   []float32
	}
	train := func(device string, steps ...int) (o outcome) {
		run := filepath.Join(t.TempDir(), "run")
		for _, n := range steps {
			m, err := lm.New(cfg, 1)
			if err == nil {
				err = m.Use(device)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Train(t.Context(), lm.TrainOptions{Run: run, Root: root, Steps: n}); err != nil {
				t.Fatal(err)
			}
			m.Close()
		}
		var err error
		if o.log, err = telemetry.ReadLog(filepath.Join(run, "log.jsonl")); err != nil {
			t.Fatal(err)
		}
		for i := range o.log {
			if gpu := o.log[i].GPU; (gpu != nil) != (device == "cuda") || gpu != nil && (gpu.Capability == "" || gpu.MemoryUsed == 0) {
				t.Errorf("%s: the GPU of line %d is %+v", device, i, gpu)
			}
			o.log[i].GPU, o.log[i].Elapsed, o.log[i].TokensPerSecond = nil, 0, 0
		}
		save := filepath.Join(run, "checkpoint-11")
		if o.moments, err = weights.ReadTensors(filepath.Join(save, "moments.safetensors")); err != nil {
			t.Fatal(err)
		}
		o.saved = make([]float32, 32)
		if err := weights.Load(save, cfg.Weights, o.saved); err != nil {
			t.Fatal(err)
		}
		return o
	}
	want := train("cpu", 11)
	if len(want.log) < 6 || !slices.ContainsFunc(want.log, func(r telemetry.Record) bool { return r.EvalLoss != nil }) {
		t.Fatalf("%+v", want.log)
	}
	if got := train("cuda", 11); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	stopped := train("cuda", 7, 11)
	if !reflect.DeepEqual(stopped.saved, want.saved) || !reflect.DeepEqual(stopped.moments, want.moments) || !reflect.DeepEqual(stopped.log[len(stopped.log)-1], want.log[len(want.log)-1]) {
		t.Errorf("stopped after step 7: %+v\nwant %+v", stopped, want)
	}
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
}
