package gpu

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// Two kernels beside that of sampling: learn takes a step as the optimizer does, one that diverges where the first token is
// negative, and gives a loss and a norm; give writes a row of logits for each token.
const learn = `#include "sim.h"
struct State { unsigned long long seed; unsigned step; float lr, scale; unsigned good, hysteresis, skipped, diverged; };
extern "C" __global__ void learn(float *w, float *m, float *scalars, const int *tokens, const int *targets, State *state) {
    const bool diverges = tokens[0] < 0;
    if (!diverges && state->diverged == 0) {
        w[threadIdx.x] += state->lr * state->step;
        m[threadIdx.x] += targets[1];
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    scalars[0] = diverges ? 0.0f / 0.0f : tokens[0] + state->step;
    scalars[1] = tokens[0] == 99 ? 1.0f / 0.0f : 2; // the gradients overflow
    if (diverges && state->diverged == 0) state->diverged = state->step;
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
			r.Launch(0, Grid{1, 1, 1}, r.Weights, r.First, r.Scalar(0), r.Tokens, r.Targets, r.State)
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
	tokens := []int32{5, 1, 0, 0, 0, 0, 0, 0}
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
	if sum != 32*13*13 || n != 13 {
		return errors.New("eval gives another sum")
	}
	ahead := t.(lm.Pipelined)
	for step := 4; step <= 5; step++ {
		tokens[0] = int32(step * step)
		if err := ahead.Start(tokens, tokens, lm.StepParams{LR: float32(13 - 3*step), Step: step}); err != nil {
			return err
		}
	}
	for step := 4; step <= 5; step++ {
		loss, norm, err := ahead.Finish()
		if err != nil {
			return err
		}
		if loss != float32(step*step+step) || norm != 2 {
			return errors.New("a step under way gives another loss or norm")
		}
	}
	if err := t.Pull(); err != nil {
		return err
	}
	if weights[31] != 7 {
		return errors.New("the weights are others")
	}
	first, second := t.Moments()
	if first[31] != 5 || second[31] != 0 || t.Gradients()[0] != 0 {
		return errors.New("the moments or gradients are others")
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
	// Five steps and an evaluation; twice two steps of decoding, and as many that pick.
	if counts["cuLaunchKernel"] == 0 || counts["cublasLtMatmul"] == 0 || counts["cuGraphLaunch"] != 14 {
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
	if len(counts) < 20 {
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

// newTrainer returns a trainer of the program on the fake device, and its weights.
func newTrainer(t *testing.T, p *Program) (*trainer, []float32) {
	t.Helper()
	d, err := Backend(p).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	weights := make([]float32, p.WeightFloats)
	made, err := d.NewTrainer(weights, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		made.Close()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return made.(*trainer), weights
}

// TestDivergedStep: of a step that diverges, and of the one that is under way behind it, nothing is kept.
func TestDivergedStep(t *testing.T) {
	cudatest.New(t)
	tr, weights := newTrainer(t, program(t))
	start := func(step int, token int32) {
		t.Helper()
		batch := []int32{token, 1, 0, 0, 0, 0, 0, 0}
		if err := tr.Start(batch, batch, lm.StepParams{LR: 1, Step: step}); err != nil {
			t.Fatal(err)
		}
	}
	start(1, 3)
	start(2, -1)
	if err := tr.Start(make([]int32, 8), make([]int32, 8), lm.StepParams{}); err == nil {
		t.Error("a third step is under way")
	}
	if loss, _, err := tr.Finish(); loss != 4 || err != nil {
		t.Errorf("the step before: %v, %v", loss, err)
	}
	start(3, 3)
	for _, err := range []error{tr.idle(), tr.Push()} {
		if err == nil || !strings.Contains(err.Error(), "Finish comes first") {
			t.Errorf("while steps are under way: %v", err)
		}
	}
	if loss, _, err := tr.Finish(); loss == loss || err != nil {
		t.Errorf("the loss of a step that diverges is %v, %v", loss, err)
	}
	if err := tr.Pull(); err != nil { // while step 3 is under way
		t.Fatal(err)
	}
	if first, _ := tr.Moments(); weights[0] != 1 || first[0] != 1 {
		t.Errorf("weights %v, moments %v: not as after step 1", weights[0], first[0])
	}
	if _, _, err := tr.Finish(); err == nil {
		t.Error("a step is finished that nobody started")
	}
}

// TestOverflow: in f16 a gradient that overflows is a step left out; elsewhere, and once the run has diverged, it is told.
func TestOverflow(t *testing.T) {
	cudatest.New(t)
	infinite := float32(math.Inf(1))
	for _, c := range []struct {
		element DType
		tokens  []int32 // the first of each step
		norms   []float32
	}{
		{F16, []int32{99, 1, -1, 99}, []float32{0, 2, 2, infinite}},
		{BF16, []int32{99, 1}, []float32{infinite, 2}},
	} {
		p := *program(t)
		p.Element = c.element
		tr, _ := newTrainer(t, &p)
		start := func(step int) {
			if step < len(c.tokens) {
				batch := []int32{c.tokens[step], 1, 0, 0, 0, 0, 0, 0}
				if err := tr.Start(batch, batch, lm.StepParams{LR: 1, Step: step + 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		start(0)
		for step, want := range c.norms {
			start(step + 1)
			if _, norm, err := tr.Finish(); norm != want || err != nil {
				t.Errorf("%v: the norm of step %d is %v, want %v; %v", c.element, step+1, norm, want, err)
			}
		}
	}
}

// TestAmax: a trainer gives and takes the largest magnitudes of the newest step; a fresh one has none, and those of another program leave
// it as it is.
func TestAmax(t *testing.T) {
	cudatest.New(t)
	p := *program(t)
	if tr, _ := newTrainer(t, &p); tr.SetAmax([]uint32{1, 2}) != nil {
		t.Error("a trainer without histories does not leave them out")
	} else if amax, err := tr.Amax(); amax != nil || err != nil {
		t.Errorf("a trainer without histories has %v, %v", amax, err)
	}
	p.Histories = 3
	tr, _ := newTrainer(t, &p)
	expect := func(want []uint32, pairs ...uint32) {
		t.Helper()
		if amax, err := tr.Amax(); !slices.Equal(amax, want) || err != nil {
			t.Errorf("largest magnitudes %v, want %v; %v", amax, want, err)
		}
		held := make([]uint32, 6)
		if err := tr.d.ctx.Download(cuda.Bytes(held), tr.run.History); err != nil || !slices.Equal(held, pairs) {
			t.Errorf("the device holds %v, want %v; %v", held, pairs, err)
		}
	}
	expect([]uint32{0, 0, 0}, 0, 0, 0, 0, 0, 0)
	for _, amax := range [][]uint32{{7, 8, 9}, {1, 2}, nil} {
		if err := tr.SetAmax(amax); err != nil {
			t.Fatal(err)
		}
		expect([]uint32{7, 8, 9}, 0, 7, 0, 8, 0, 9)
	}
}

// TestMeasures: the first steps measure, and so do those behind histories of another program; those that go on with histories do not.
func TestMeasures(t *testing.T) {
	cudatest.New(t)
	p := *program(t)
	enqueue := p.Train.Enqueue
	var captured []bool
	p.Train.Enqueue = func(r *Run) Ptr {
		if !r.dry {
			captured = append(captured, r.Measures())
		}
		if (r.Found(r.Arena) != 0) != r.Measures() {
			t.Error("what was found is there where nothing was, or the other way about")
		}
		return enqueue(r)
	}
	batch := make([]int32, 8)
	for _, c := range []struct {
		histories  int
		from       int // the first step
		amax       []uint32
		measured   int // steps that do
		wantGraphs []bool
	}{
		{0, 1, nil, 0, []bool{false}},
		{3, 1, nil, 3, []bool{true, false}},
		{3, 40, []uint32{1, 2, 3}, 0, []bool{false}},
		{3, 2, []uint32{1, 2, 3}, 2, []bool{true, false}}, // as without the break
		{3, 40, []uint32{1, 2}, 3, []bool{true, false}},
		{3, 40, []uint32{0, 0, 0}, 3, []bool{true, false}},
	} {
		p.Histories, captured = c.histories, nil
		tr, _ := newTrainer(t, &p)
		if err := tr.SetAmax(c.amax); err != nil {
			t.Fatal(err)
		}
		measured := 0
		for i := range 5 {
			if _, _, err := tr.Step(batch, batch, lm.StepParams{LR: 1, Step: c.from + i}); err != nil {
				t.Fatal(err)
			}
			if tr.run.measures {
				measured++
			}
		}
		if measured != c.measured || !slices.Equal(captured, c.wantGraphs) {
			t.Errorf("%d histories from step %d on, with %v: %d steps measured, want %d; the graphs are %v, want %v", c.histories, c.from, c.amax, measured, c.measured,
				captured, c.wantGraphs)
		}
	}
}

// TestMomentsOnTheHost: a fresh trainer keeps no copies of gradients and moments, and takes those it is given.
func TestMomentsOnTheHost(t *testing.T) {
	cudatest.New(t)
	tr, _ := newTrainer(t, program(t))
	if tr.gradients != nil || tr.first != nil || tr.second != nil {
		t.Error("a fresh trainer has copies of zeros")
	}
	first, second := tr.Moments()
	first[7], second[7] = 4, 5
	if err := tr.Push(); err != nil {
		t.Fatal(err)
	}
	batch := []int32{3, 1, 0, 0, 0, 0, 0, 0}
	if _, _, err := tr.Step(batch, batch, lm.StepParams{Step: 1}); err != nil {
		t.Fatal(err)
	}
	if err := tr.Pull(); err != nil {
		t.Fatal(err)
	}
	if first, second = tr.Moments(); first[7] != 5 || first[8] != 1 || second[7] != 5 || second[8] != 0 {
		t.Errorf("moments %v and %v, %v and %v", first[7], first[8], second[7], second[8])
	}
}

// TestDrawnTrainer: weights that are drawn on their way are the device's, their copies too, and the host's once they are
// pulled, with or without a step before.
func TestDrawnTrainer(t *testing.T) {
	cudatest.New(t)
	p := *program(t)
	p.Element = BF16
	draw := func(dst []float32, from int) {
		for i := range dst {
			dst[i] = float32(from+i) + 1
		}
	}
	for steps := range 2 {
		tr, weights := newTrainer(t, &p)
		made, err := tr.d.NewDrawnTrainer(weights, draw, "")
		if err != nil {
			t.Fatal(err)
		}
		drawn := made.(*trainer)
		if weights[31] != 0 {
			t.Error("the host's weights are there already")
		}
		got, want := make([]byte, 2*32), make([]byte, 2*32)
		if err := tr.d.ctx.Download(got, drawn.run.Copies); err != nil {
			t.Fatal(err)
		}
		first := make([]float32, 32)
		draw(first, 0)
		if encode(want, first, BF16); !slices.Equal(got, want) {
			t.Errorf("the copies are %v, want %v", got, want)
		}
		for range steps {
			batch := []int32{3, 1, 0, 0, 0, 0, 0, 0}
			if _, _, err := drawn.Step(batch, batch, lm.StepParams{Step: 1, LR: 2}); err != nil {
				t.Fatal(err)
			}
		}
		if err := drawn.Pull(); err != nil || weights[31] != float32(32+2*steps) || weights[0] != float32(1+2*steps) {
			t.Errorf("after %d steps the weights are %v, %v", steps, weights, err)
		}
		weights[0] = 50
		if err := errors.Join(drawn.Push(), drawn.Pull()); err != nil || weights[0] != 50 {
			t.Errorf("a weight that was set is %v, %v", weights[0], err)
		}
		drawn.Close()
	}
}

// TestTransfer: what is longer than both buffers, and no multiple of one, arrives, as what it is to be.
func TestTransfer(t *testing.T) {
	cudatest.New(t)
	tr, _ := newTrainer(t, program(t))
	x := make([]float32, 4*transferFloats+5)
	for i := range x {
		x[i] = float32(i%4097) - 2000.5
	}
	d := tr.d
	at, err := d.ctx.Alloc(6 * len(x))
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.newTransfer(len(x))
	if err != nil {
		t.Fatal(err)
	}
	halves := at.At(4 * len(x))
	m.up(len(x), held(x), at, halves, BF16)
	if err := m.stream.Sync(); err != nil {
		t.Fatal(err)
	}
	back := make([]float32, len(x))
	if err := m.down(back, at); err != nil {
		t.Fatal(err)
	}
	got, want := make([]byte, 2*len(x)), make([]byte, 2*len(x))
	if err := d.ctx.Download(got, halves); err != nil {
		t.Fatal(err)
	}
	encode(want, x, BF16)
	if !slices.Equal(back, x) || !slices.Equal(got, want) {
		t.Error("other numbers come back")
	}
	if err := errors.Join(m.close(), d.ctx.Free(at)); err != nil {
		t.Error(err)
	}
}

// TestStepAllocatesNothing, ahead or not.
func TestStepAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	cudatest.New(t)
	tr, _ := newTrainer(t, program(t))
	batch := []int32{3, 1, 0, 0, 0, 0, 0, 0}
	step := func() {
		if _, _, err := tr.Step(batch, batch, lm.StepParams{Step: 1}); err != nil {
			t.Error(err)
		}
	}
	step()
	if n := testing.AllocsPerRun(50, step); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if err := tr.Start(batch, batch, lm.StepParams{Step: 1}); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(50, func() {
		if err := tr.Start(batch, batch, lm.StepParams{Step: 1}); err != nil {
			t.Error(err)
		}
		if _, _, err := tr.Finish(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a step that starts ahead", n)
	}
}

// TestStepsAhead: the host puts a whole step on the device without waiting for anything, its batch by a stream of its own while the step
// before it runs, and then waits for the older one alone.
func TestStepsAhead(t *testing.T) {
	fake := cudatest.New(t)
	tr, _ := newTrainer(t, program(t))
	batch := []int32{3, 1, 0, 0, 0, 0, 0, 0}
	start := func(step int) {
		t.Helper()
		if err := tr.Start(batch, batch, lm.StepParams{Step: step}); err != nil {
			t.Fatal(err)
		}
	}
	finish := func() {
		t.Helper()
		if _, _, err := tr.Finish(); err != nil {
			t.Fatal(err)
		}
	}
	calls := func(do func()) (all string) {
		fake.Record()
		do()
		for _, call := range fake.Calls() {
			name, _, _ := strings.Cut(call, " ")
			name, _, _ = strings.Cut(name, "(")
			if strings.HasPrefix(name, "cu") && name != "cuCtxSetCurrent" {
				all += " " + name
			}
		}
		return all
	}
	start(1)
	const enqueue = " cuMemcpyHtoDAsync_v2 cuEventRecord cuStreamWaitEvent cuMemcpyDtoDAsync_v2 cuGraphLaunch cuMemcpyDtoHAsync_v2 cuEventRecord"
	if got := calls(func() { start(2) }); got != enqueue {
		t.Errorf("a step behind another is put on the device by%s", got)
	}
	if got := calls(finish); got != " cuEventSynchronize" {
		t.Errorf("a step is waited for by%s", got)
	}
	if got := calls(func() { start(3) }); got != enqueue {
		t.Errorf("a step behind another is put on the device by%s", got)
	}
	finish()
	finish()
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
			var three [6]byte
			encode(three[:], []float32{x[0], x[0], x[0]}, d)
			if [2]byte(three[2:4]) != bytes || [2]byte(three[4:]) != bytes {
				t.Fatalf("%v: three times %g is %#x", d, x[0], three)
			}
			middle := []float32{x[0] + (x[1]-x[0])/2}
			encode(back[:], middle, d)
			if even := h + h&1; int(back[0])|int(back[1])<<8 != even {
				t.Fatalf("%v: %g, between %#x and the next, is %#x", d, middle[0], h, back)
			}
		}
	}
}

// BenchmarkEncode is what the host does to weights on their way to the device, on all cores.
func BenchmarkEncode(b *testing.B) {
	x := make([]float32, transferFloats)
	for i := range x {
		x[i] = float32(i%4097) - 2000.5
	}
	dst := make([]byte, 4*len(x))
	for _, d := range []DType{BF16, F16} {
		b.Run(d.String(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				inParallel(len(x), func(from, end int) { encode(dst[from*d.Size():], x[from:end], d) })
			}
		})
	}
}
