package gpu

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// Two kernels beside that of sampling: learn adds the learning rate to weights, and gives a loss and a norm; give writes a
// row of logits for each token.
const learn = `#include "sim.h"
struct State { unsigned long long seed; unsigned step; float lr; };
extern "C" __global__ void learn(float *w, float *scalars, const int *tokens, const State *state) {
    w[threadIdx.x] += state->lr;
    if (threadIdx.x == 0) { scalars[0] = tokens[0] + state->step; scalars[1] = 2; }
}
`

const give = `#include "sim.h"
extern "C" __global__ void give(float *logits, const int *tokens, const int *positions, int rows) {
    for (int i = threadIdx.x; i < rows * 3; i += 32) logits[i] = tokens[i / 3] * 10 + positions[i / 3] + i % 3;
}
`

// program is a model of 32 weights over a vocabulary of 3: eval is a product that cuBLASLt makes.
func program(t *testing.T) *Program {
	file := cudatest.File(t, withSampling(t, map[string][]byte{"learn.cu": []byte(learn), "give.cu": []byte(give)}, 3), 3)
	return programOf(fstest.MapFS{"kernels/kernels.fatbin": {Data: file}})
}

func programOf(files fstest.MapFS) *Program {
	give := func(r *Run) Ptr {
		r.Launch(1, Grid{1, 1, 1}, r.Arena, r.Tokens, r.Positions, Int(r.Rows))
		return r.Arena
	}
	return &Program{
		Files: files, Element: F32, WeightFloats: 32, MicroBatches: 1, MicroBatch: 2, Context: 4, VocabSize: 3, MaxPositions: 8, MaxPrefill: 4, MaxDecode: 2,
		CacheWidths: []int{4},
		Kernels:     []Kernel{{Entry: "learn", Threads: 32, About: "a step  m.yaml:3"}, {Entry: "give", Threads: 32}, {Entry: "sample_tokens", Threads: 512}},
		Products:    []Product{{M: 1, N: 1, K: 32, A: F32, B: F32, D: F32, Align: 64, About: "eval  m.yaml:5"}},
		Tables:      []RotaryTable{{Freqs: []float32{1, 0.5}, Scale: 1, Max: 8}},
		Train: Job{Arena: 256, Scalars: 2, Results: []int{0, 1}, Enqueue: func(r *Run) Ptr {
			r.Clear(r.Gradients, 4*32)
			r.Launch(0, Grid{1, 1, 1}, r.Weights, r.Scalar(0), r.Tokens, r.State)
			return 0
		}},
		Eval: Job{Arena: 256, Scalars: 2, Results: []int{1, 0}, Enqueue: func(r *Run) Ptr {
			r.Copy(r.Scalar(0), r.Weights, 4)
			r.Multiply(0, r.Arena, r.Weights, r.Weights, 0, 0, 0)
			r.Copy(r.Scalar(1), r.Arena, 4)
			return 0
		}},
		Logits:  Job{Arena: 4 * 3 * 8, Enqueue: give},
		Prefill: Job{Arena: 4 * 3 * 8, Enqueue: give},
		Decode:  Job{Arena: 4 * 3 * 8, Enqueue: give},
		Pick:    pickJob(2),
	}
}

// session does all that a program does on a device, and returns what was wrong.
func session(p *Program) (err error) {
	b := Backend(p)
	index, err := b.Find()
	if err != nil {
		return err
	}
	d, err := b.Open(index)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	weights := make([]float32, 32)
	for i := range weights {
		weights[i] = 1
	}
	t, err := d.NewTrainer(weights, "")
	if err != nil {
		return err
	}
	defer t.Close()
	tokens := []int32{5, 0, 0, 0, 0, 0, 0, 0}
	for step := 1; step <= 3; step++ {
		loss, norm, err := t.Step(tokens, tokens, lm.StepParams{LR: 2, Step: step})
		if err != nil {
			return err
		}
		if loss != float32(5+step) || norm != 2 {
			return errors.New("a step gives another loss or norm")
		}
	}
	sum, n, err := t.Loss(tokens, tokens)
	if err != nil {
		return err
	}
	if sum != 32*7*7 || n != 7 {
		return errors.New("eval gives another sum")
	}
	if err := t.Pull(); err != nil {
		return err
	}
	if weights[31] != 7 {
		return errors.New("the weights are others")
	}
	weights[31] = 8
	if err := t.Push(); err != nil {
		return err
	}
	g, err := d.NewGenerator(weights, 3, "")
	if err != nil {
		return err
	}
	defer g.Close()
	logits, err := g.Prefill([]int32{4, 6}, 1, 0)
	if err != nil {
		return err
	}
	if logits[0] != 41 {
		return errors.New("a prefill gives other logits")
	}
	for range 2 { // three rows, two at a time, captured and replayed
		if logits, err = g.Decode([]int32{1, 2, 3}, []int32{5, 6, 7}, []int32{0, 1, 2}); err != nil {
			return err
		}
		if logits[0] != 15 || logits[3] != 26 || logits[8] != 39 {
			return errors.New("a decode gives other logits")
		}
	}
	token, err := g.(lm.Picker).PrefillAndPick([]int32{4, 6}, 1, 0, lm.PickOptions{})
	if err != nil {
		return err
	}
	if token != 2 {
		return errors.New("after a prefill another token is picked")
	}
	for range 2 {
		picked, err := g.(lm.Picker).DecodeAndPick([]int32{1, 2, 0}, []int32{5, 6, 7}, []int32{0, 1, 2}, []lm.PickOptions{{}, {Tokens: 2}, {Temperature: 1, TopK: 1}})
		if err != nil {
			return err
		}
		if picked[0] != 2 || picked[1] != 1 || picked[2] != 2 {
			return errors.New("a decode picks other tokens")
		}
	}
	if logits, err = g.Logits([]int32{1, 2, 0}); err != nil {
		return err
	}
	if logits[5] != 23 {
		return errors.New("a sequence gives other logits")
	}
	return nil
}

func TestSession(t *testing.T) {
	fake := cudatest.New(t)
	if err := session(program(t)); err != nil {
		t.Fatal(err)
	}
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
}

// TestEveryCallFails lets each call of each function of the driver and of cuBLASLt fail in turn: the error is handed on,
// and everything is given back.
func TestEveryCallFails(t *testing.T) {
	p := program(t)
	counts := everyCallFails(t, func() error { return session(p) })
	if counts["cuLaunchKernel"] == 0 || counts["cublasLtMatmul"] == 0 || counts["cuGraphLaunch"] != 8 {
		t.Errorf("calls: %v", counts)
	}
}

// everyCallFails returns how often a session calls each function.
func everyCallFails(t *testing.T, session func() error) map[string]int {
	fake := cudatest.New(t)
	fake.Record()
	if err := session(); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, call := range fake.Calls() {
		name, _, _ := strings.Cut(call, "(")
		name, _, _ = strings.Cut(name, " ")
		if strings.HasPrefix(name, "cu") {
			counts[name]++
		}
	}
	if counts["cuLaunchKernel"] == 0 || counts["cublasLtMatmul"] == 0 || counts["cuGraphLaunch"] != 12 {
		t.Fatalf("calls: %v", counts)
	}
	failed := 0
	for name, n := range counts {
		if strings.Contains(name, "Destroy") || strings.Contains(name, "Free") || strings.Contains(name, "Release") || strings.Contains(name, "Unload") ||
			strings.HasPrefix(name, "cuGetError") || strings.HasPrefix(name, "cuFuncGetParamInfo") || strings.HasPrefix(name, "cuDeviceGetPCIBusId") || name == "cuDriverGetVersion" || name == "cuInit" {
			continue // what gives back, what may fail unheard, and what a process asks once
		}
		if name == "cuCtxSetCurrent" { // what gives back calls it, too
			n = 4
		}
		for nth := 1; nth <= n; nth++ {
			fake.Reset()
			fake.Quiet()
			fake.FailNth(name, nth, 999)
			err := session()
			if err == nil {
				t.Errorf("%s fails the %d. time, and nobody hears of it", name, nth)
			}
			if leaks := fake.Leaks(); len(leaks) > 0 {
				t.Errorf("%s fails the %d. time: left behind %v; %v", name, nth, leaks, err)
			}
			failed++
		}
	}
	t.Logf("%d failures of %d functions", failed, len(counts))
	return counts
}

func TestErrors(t *testing.T) {
	fake := cudatest.New(t)
	p := program(t)
	wants := func(err error, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
	}
	fake.Set("memory", 1<<20)
	err := session(p)
	var full *cuda.OutOfMemoryError
	if !errors.As(err, &full) {
		t.Errorf("no memory: %v", err)
	}
	fake.Reset()
	none := programOf(fstest.MapFS{"kernels/learn.cu": {}})
	_, err = Backend(none).Find()
	wants(err, "built without nvcc", "run tfc build again")
	damaged := programOf(fstest.MapFS{"kernels/kernels.fatbin": {Data: []byte("no such thing")}})
	_, err = Backend(damaged).Find()
	wants(err, "no file of kernels")
	other := *p
	other.Kernels = append(other.Kernels[:1:1], Kernel{Entry: "more", Threads: 32})
	wants(session(&other), "no more", "tfc build")
	fake.Reset()
	fake.Quiet()
	fake.FailNth("cuLaunchKernel", 1, 701)
	wants(session(p), "learn", "a step  m.yaml:3", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
}

// TestConversions: every value of 16 bits comes back, and what lies halfway between two goes to the even one.
func TestConversions(t *testing.T) {
	for _, d := range []DType{BF16, F16} {
		var bytes [2]byte
		var x [2]float32
		for h := range 1 << 16 {
			bytes[0], bytes[1] = byte(h), byte(h>>8)
			decode(x[:1], bytes[:], d)
			if x[0] != x[0] {
				continue // NaN
			}
			var back [4]byte
			encode(back[:], x[:1], d)
			if back[0] != bytes[0] || back[1] != bytes[1] {
				t.Fatalf("%v: %#x is %g, and that is %#x", d, h, x[0], back)
			}
			next := [2]byte{byte(h + 1), byte((h + 1) >> 8)}
			decode(x[1:], next[:], d)
			if h&0x7fff == 0x7fff || x[1]-x[0] != x[1]-x[0] || x[1] != x[1] || x[1]-x[1] != 0 || x[0]-x[0] != 0 {
				continue
			}
			middle := []float32{x[0] + (x[1]-x[0])/2}
			encode(back[:], middle, d)
			if even := h + h&1; int(back[0])|int(back[1])<<8 != even {
				t.Fatalf("%v: %g, between %#x and the next, is %#x", d, middle[0], h, back)
			}
		}
	}
}
