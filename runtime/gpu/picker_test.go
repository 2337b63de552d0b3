package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/tokenizer"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// withSampling adds the compiler's kernels of sampling, under the names it gives them, for rows of f32 logits.
func withSampling(t *testing.T, files map[string][]byte, vocab int) map[string][]byte {
	t.Helper()
	for _, name := range []string{"sample.cuh", "rng.cuh", "state.cuh", "device.cuh"} {
		text, err := os.ReadFile(filepath.Join("../../codegen/cuda/kernels", name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = text
	}
	const source = `#include "sample.cuh"
struct Config {
    using T = float;
    static constexpr int vocab = %[1]d, stride = %[1]d, vec = 1, parts = 1, part = 2048, threads = 512;
};
extern "C" __global__ void __launch_bounds__(512) sample_tokens(int *tokens, int *positions, const float *logits, const SampleOptions *options, int rows) {
    sample<Config>(rows, tokens, positions, logits, options, nullptr);
}
`
	files["sample_tokens.cu"] = fmt.Appendf(nil, source, vocab)
	return files
}

// pickJob launches kernel k, sample_tokens.
func pickJob(k int) Job {
	return Job{Enqueue: func(r *Run) Ptr {
		r.Launch(k, Grid{r.Blocks(1), 1, 1}, r.Tokens, r.Positions, r.Logits, r.Options, Int(r.Rows))
		return r.Tokens
	}}
}

// A model whose logits after a token depend on it, its position and all tokens that its slot of the cache holds before
// it. After token 13, which is never picked, they are not finite.
const (
	pickVocab   = 300
	pickContext = 40
	remember    = `#include "sim.h"
extern "C" __global__ void remember(int *cache, const int *tokens, const int *positions, const int *slots, int rows) {
    for (int i = threadIdx.x; i < rows; i += 32) cache[slots[i] * 40 + positions[i]] = tokens[i];
}
`
	speak = `#include "sim.h"
extern "C" __global__ void speak(float *logits, const int *cache, const int *positions, const int *slots, int first) {
    const int row = first + blockIdx.x, *held = cache + slots[row] * 40;
    unsigned state = 1;
    for (int i = 0; i <= positions[row]; i++) state = (state ^ held[i] ^ i << 9) * 2654435761u;
    for (int v = threadIdx.x; v < 300; v += 32) {
        unsigned h = (state ^ v) * 2246822519u;
        h = (h ^ h >> 15) * 3266489917u;
        float x = (h >> 8) / 4194304.0f + (v > 270 ? 9 : 0); // what is no token is likely
        if (v == 13) x = -1.0f / 0.0f;
        if (held[positions[row]] == 13) x = 0.0f / 0.0f;
        logits[blockIdx.x * 300 + v] = x;
    }
}
`
)

// speaker is a program of that model, which decodes two rows at once and takes prompts five tokens at a time.
func speaker(t *testing.T) *Program {
	t.Helper()
	files := withSampling(t, map[string][]byte{"remember.cu": []byte(remember), "speak.cu": []byte(speak)}, pickVocab)
	say := func(rows func(r *Run) int) Job {
		return Job{Arena: 4 * pickVocab * pickContext, Enqueue: func(r *Run) Ptr {
			n := rows(r)
			r.Launch(0, Grid{1, 1, 1}, r.Keys[0], r.Tokens, r.Positions, r.Slots, Int(r.Rows))
			r.Launch(1, Grid{n, 1, 1}, r.Arena, r.Keys[0], r.Positions, r.Slots, Int(r.Rows-n))
			return r.Arena
		}}
	}
	all := func(r *Run) int { return r.Rows }
	return &Program{
		Files: fstest.MapFS{"kernels/kernels.fatbin": {Data: cudatest.File(t, files, 3)}}, Element: F32, WeightFloats: 32,
		Context: pickContext, VocabSize: pickVocab, MaxPositions: pickContext, MaxPrefill: 5, MaxDecode: 2, CacheWidths: []int{1},
		Kernels: []Kernel{{Entry: "remember", Threads: 32}, {Entry: "speak", Threads: 32}, {Entry: "sample_tokens", Threads: 512}},
		Logits:  say(all), Decode: say(all), Prefill: say(func(*Run) int { return 1 }), Pick: pickJob(2),
	}
}

// onHost is a program whose tokens are picked on the host.
func onHost(p *Program) *Program {
	q := *p
	q.Pick = Job{}
	return &q
}

// model opens the model on the device, with a tokenizer of fewer tokens than the vocabulary has, or none.
func model(t *testing.T, p *Program, slots int, tokens bool) *lm.Model {
	t.Helper()
	dir := t.TempDir()
	cfg := lm.Config{
		Name: "speaker", VocabSize: pickVocab, Context: pickContext, WeightFloats: 32, HFConfig: `{"vocab_size": 300}`,
		Weights:  []weights.Info{{Name: "w", Shape: []int{32}, File: "w"}},
		Generate: lm.Generate{Batch: slots}, CUDA: Backend(p),
	}
	if err := weights.Save(dir, cfg.Weights, make([]float32, 32), []byte(cfg.HFConfig)); err != nil {
		t.Fatal(err)
	}
	if tokens {
		tok, err := tokenizer.Train(t.Context(), slices.Values([]string{"a b a b"}), tokenizer.Options{VocabSize: 258})
		if err == nil {
			err = tok.Save(filepath.Join(dir, "tokenizer.json"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := lm.Open(cfg, dir)
	if err == nil {
		t.Cleanup(m.Close)
		err = m.Use("cuda")
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var pickPrompts = [][]int32{{1}, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 20}, {1}, {200, 100}, {5, 5, 5, 5, 5}, {0, 0, 9}}

// TestPicksOnTheDevice: a text goes on as the host's sampler has it from the same logits, token by token, whatever the
// options and however many go on at once.
func TestPicksOnTheDevice(t *testing.T) {
	cudatest.New(t)
	p := speaker(t)
	for _, tokens := range []bool{false, true} {
		host := model(t, onHost(p), 1, tokens)
		for _, slots := range []int{1, 2, 5} {
			m := model(t, p, slots, tokens)
			for _, o := range []lm.GenerateOptions{
				{}, {Temperature: 1}, {Temperature: 0.7, Seed: 1 << 40}, {Temperature: 2, TopK: 7, Seed: 3}, {Temperature: 5, TopP: 0.4, Seed: 4},
				{Temperature: 9, TopK: 60, TopP: 0.9, Seed: 5, Sequence: 100, MaxNewTokens: 3}, {Temperature: 300, TopK: 1 << 40, TopP: 1, Seed: 6},
			} {
				want, err := host.GenerateTokens(t.Context(), pickPrompts, o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := m.GenerateTokens(t.Context(), pickPrompts, o)
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%+v, %d at once: %v on the device, %v on the host, %v", o, slots, got, want, err)
				}
			}
		}
	}
}

// TestLogitsThatAreNotFinite end a text, with what was written before them.
func TestLogitsThatAreNotFinite(t *testing.T) {
	cudatest.New(t)
	p := speaker(t)
	for _, o := range []lm.GenerateOptions{{}, {Temperature: 1, TopP: 0.9}} {
		for _, prompt := range [][]int32{{13}, {1, 2, 3, 4, 5, 6, 13}} {
			if _, err := model(t, p, 1, false).GenerateTokens(t.Context(), [][]int32{prompt}, o); err == nil || !strings.Contains(err.Error(), "logits are not finite") {
				t.Errorf("%+v after %v: %v", o, prompt, err)
			}
		}
	}
	d, err := Backend(p).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g, err := d.NewGenerator(make([]float32, 32), 3, "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for range 2 { // the rows beside it, and what comes after it, are as ever
		got, err := g.(lm.Picker).DecodeAndPick([]int32{1, 13, 2}, []int32{0, 0, 0}, []int32{0, 1, 2}, make([]lm.PickOptions, 3))
		if err != nil || got[0] < 0 || got[1] != -1 || got[2] < 0 {
			t.Errorf("picked %v, %v", got, err)
		}
	}
}

// TestSlotAlone: a step that differs from the one before in its slot alone reads that slot.
func TestSlotAlone(t *testing.T) {
	cudatest.New(t)
	d, err := Backend(speaker(t)).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g, err := d.NewGenerator(make([]float32, 32), 2, "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var logits [4][]float32
	for slot := range 2 {
		if _, err := g.Prefill([]int32{int32(slot)}, 0, slot); err != nil {
			t.Fatal(err)
		}
	}
	for i := range logits {
		row, err := g.Decode([]int32{7}, []int32{1}, []int32{int32(i % 2)})
		if err != nil {
			t.Fatal(err)
		}
		logits[i] = slices.Clone(row)
	}
	if slices.Equal(logits[0], logits[1]) || !slices.Equal(logits[0], logits[2]) || !slices.Equal(logits[1], logits[3]) {
		t.Errorf("first logits by slot 0, 1, 0, 1: %v, %v, %v, %v", logits[0][0], logits[1][0], logits[2][0], logits[3][0])
	}
}

// TestMoreRowsThanPositions: a step may have more sequences than one of them has positions.
func TestMoreRowsThanPositions(t *testing.T) {
	cudatest.New(t)
	p := speaker(t)
	p.MaxDecode = pickContext + 5
	p.Decode.Arena = 4 * pickVocab * p.MaxDecode
	d, err := Backend(p).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	n := p.MaxDecode
	g, err := d.NewGenerator(make([]float32, 32), n, "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	tokens, positions, slots, options := make([]int32, n), make([]int32, n), make([]int32, n), make([]lm.PickOptions, n)
	for i := range n {
		tokens[i], slots[i], options[i] = int32(100+i), int32(n-1-i), lm.PickOptions{Temperature: 1, Sequence: i}
	}
	picked, err := g.(lm.Picker).DecodeAndPick(tokens, positions, slots, options)
	picked = slices.Clone(picked)
	for i := range picked {
		one, err := g.(lm.Picker).DecodeAndPick(tokens[i:i+1], positions[i:i+1], slots[i:i+1], options[i:i+1])
		if err != nil || one[0] != picked[i] {
			t.Errorf("row %d is token %d among others and %d alone, %v", i, picked[i], one, err)
		}
	}
	if err != nil || len(picked) != n {
		t.Errorf("%d tokens of %d rows, %v", len(picked), n, err)
	}
}

// TestStepsStayOnTheDevice: a text that goes on alone is told its tokens and options once; from each step on four bytes come
// back, and nothing goes there.
func TestStepsStayOnTheDevice(t *testing.T) {
	fake := cudatest.New(t)
	m := model(t, speaker(t), 1, false)
	write := func() []string {
		t.Helper()
		fake.Record()
		before := len(fake.Calls())
		out, err := m.GenerateTokens(t.Context(), [][]int32{{1, 2}}, lm.GenerateOptions{Temperature: 1, MaxNewTokens: 12, Seed: 8})
		if err != nil || len(out[0].Tokens) != 12 {
			t.Fatalf("%v, %v", out, err)
		}
		return fake.Calls()[before:]
	}
	write()
	count := map[string]int{}
	for _, call := range write() {
		name, _, _ := strings.Cut(call, "(")
		name, _, _ = strings.Cut(name, " ")
		count[name]++
	}
	// Tokens, positions and slots go for the prompt and for the first step; the options are there since the first text.
	if count["cuGraphLaunch"] != 11 || count["cuMemcpyHtoDAsync_v2"] != 6 || count["cuMemcpyDtoHAsync_v2"] != 1 {
		t.Errorf("calls of 12 tokens: %v", count)
	}
}
