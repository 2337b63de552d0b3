package lm

import (
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/rng"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// The program of these tests is a bigram model: a token's logits are head · embedding of the token before it. Training
// is Adam with dropout on the embedding; generation adds a bump that depends on all tokens of the slot and their
// positions, so that a wrong cache shows.
const (
	fakeVocab   = 300
	fakeHidden  = 4
	fakeContext = 40
	fakeChunk   = 5 // of Prefill
	fakeFloats  = 2 * fakeVocab * fakeHidden
)

// hook sees a step before its update, and may change what it came to.
type hook func(step int, loss, norm float32) (float32, float32)

// at returns a hook that calls do at a step.
func at(step int, do func()) hook {
	return func(s int, loss, norm float32) (float32, float32) {
		if s == step {
			do()
		}
		return loss, norm
	}
}

type fakeTrainer struct {
	w, g, m, v []float32
	logits     []float64
	hook       hook
}

func newFakeTrainer(w []float32) *fakeTrainer {
	return &fakeTrainer{
		w: w, g: make([]float32, len(w)), m: make([]float32, len(w)), v: make([]float32, len(w)), logits: make([]float64, fakeVocab),
	}
}

// loss returns -ln p(target | token); with a mask it also adds the gradient.
func (f *fakeTrainer) loss(token, target int32, mask *[fakeHidden]float32) float64 {
	h := f.w[token*fakeHidden:][:fakeHidden]
	head := f.w[fakeVocab*fakeHidden:]
	highest := math.Inf(-1)
	for v := range f.logits {
		sum := 0.0
		for j, x := range h {
			if mask != nil {
				x *= mask[j]
			}
			sum += float64(x) * float64(head[v*fakeHidden+j])
		}
		f.logits[v] = sum
		highest = max(highest, sum)
	}
	total := 0.0
	for _, l := range f.logits {
		total += math.Exp(l - highest)
	}
	if mask != nil {
		g, ghead := f.g[token*fakeHidden:], f.g[fakeVocab*fakeHidden:]
		for v, l := range f.logits {
			d := float32(math.Exp(l-highest) / total)
			if v == int(target) {
				d--
			}
			for j := range fakeHidden {
				ghead[v*fakeHidden+j] += d * h[j] * mask[j]
				g[j] += d * head[v*fakeHidden+j] * mask[j]
			}
		}
	}
	return highest + math.Log(total) - f.logits[target]
}

func (f *fakeTrainer) Step(tokens, targets []int32, p StepParams) (loss, norm float32, err error) {
	clear(f.g)
	sum, count := 0.0, 0
	for i, token := range tokens {
		if targets[i] < 0 {
			continue
		}
		var mask [fakeHidden]float32
		for j := range mask {
			if (rng.Key{Seed: p.Seed, Step: uint32(p.Step)}).Keep(uint64(i*fakeHidden+j), 0.1) {
				mask[j] = 1 / 0.9
			}
		}
		sum += f.loss(token, targets[i], &mask)
		count++
	}
	squares := 0.0
	for i := range f.g {
		f.g[i] /= float32(count)
		squares += float64(f.g[i]) * float64(f.g[i])
	}
	loss, norm = float32(sum/float64(count)), float32(math.Sqrt(squares))
	if f.hook != nil {
		loss, norm = f.hook(p.Step, loss, norm)
	}
	if !finite(loss) || !finite(norm) {
		return loss, norm, nil
	}
	b1 := float32(1 - math.Pow(0.9, float64(p.Step)))
	b2 := float32(1 - math.Pow(0.95, float64(p.Step)))
	for i, g := range f.g {
		f.m[i] = 0.9*f.m[i] + 0.1*g
		f.v[i] = 0.95*f.v[i] + 0.05*g*g
		f.w[i] -= p.LR * (f.m[i] / b1 / (float32(math.Sqrt(float64(f.v[i]/b2))) + 1e-8))
	}
	return loss, norm, nil
}

func (f *fakeTrainer) Loss(tokens, targets []int32) (sum float64, count int, err error) {
	for i, token := range tokens {
		if targets[i] >= 0 {
			sum += f.loss(token, targets[i], nil)
			count++
		}
	}
	return sum, count, nil
}

func (f *fakeTrainer) Weights() []float32        { return f.w }
func (f *fakeTrainer) Gradients() []float32      { return f.g }
func (f *fakeTrainer) Moments() (a, b []float32) { return f.m, f.v }
func (f *fakeTrainer) Pull() error               { return nil }
func (f *fakeTrainer) Push() error               { return nil }
func (f *fakeTrainer) Close()                    {}

// aheadTrainer is a fakeTrainer as a GPU has one: what Start is given has run when it returns, and the result waits for
// Finish. finishing, if not nil, is called by Finish with the step.
type aheadTrainer struct {
	*fakeTrainer
	t         testing.TB
	finishing func(step int)

	underWay []aheadStep
	diverged bool
	overlaps int // steps started while another one was under way
}

type aheadStep struct {
	step       int
	loss, norm float32
}

func (a *aheadTrainer) Start(tokens, targets []int32, p StepParams) error {
	if len(a.underWay) == 2 {
		a.t.Error("three steps are under way")
	}
	a.overlaps += len(a.underWay)
	before := a.hook
	if a.diverged {
		a.hook = func(int, float32, float32) (float32, float32) { return 1, float32(math.NaN()) } // leaves the step out
	}
	loss, norm, err := a.fakeTrainer.Step(tokens, targets, p)
	a.hook = before
	a.diverged = a.diverged || !finite(loss) || !finite(norm)
	a.underWay = append(a.underWay, aheadStep{p.Step, loss, norm})
	clear(tokens) // they may change now
	clear(targets)
	return err
}

func (a *aheadTrainer) Finish() (loss, norm float32, err error) {
	s := a.underWay[0]
	a.underWay = append(a.underWay[:0], a.underWay[1:]...)
	if a.finishing != nil {
		a.finishing(s.step)
	}
	return s.loss, s.norm, nil
}

func (a *aheadTrainer) Step([]int32, []int32, StepParams) (loss, norm float32, err error) {
	a.t.Error("a trainer that can run ahead is asked for single steps")
	return 0, 0, nil
}

func (a *aheadTrainer) Loss(tokens, targets []int32) (sum float64, count int, err error) {
	a.idle("Loss")
	return a.fakeTrainer.Loss(tokens, targets)
}

func (a *aheadTrainer) Pull() error {
	if !a.diverged {
		a.idle("Pull")
	}
	return nil
}

func (a *aheadTrainer) idle(what string) {
	if len(a.underWay) > 0 {
		a.t.Errorf("%s while step %d is under way", what, a.underWay[0].step)
	}
}

type fakeGenerator struct {
	w      []float32
	cache  [][]int32 // tokens by slot and position
	logits []float32
	calls  []string // Prefill and Decode, with their sizes
}

func newFakeGenerator(w []float32, slots int) *fakeGenerator {
	g := &fakeGenerator{w: w, logits: make([]float32, slots*fakeVocab)}
	for range slots {
		g.cache = append(g.cache, make([]int32, fakeContext))
	}
	return g
}

// row writes the logits after position n-1 of a slot.
func (g *fakeGenerator) row(dst []float32, slot, n int) []float32 {
	tokens := g.cache[slot][:n]
	h, head := g.w[tokens[n-1]*fakeHidden:][:fakeHidden], g.w[fakeVocab*fakeHidden:]
	for v := range dst {
		dst[v] = 0
		for j, x := range h {
			dst[v] += x * head[v*fakeHidden+j]
		}
	}
	sum := fnv.New64a()
	fmt.Fprint(sum, tokens)
	dst[sum.Sum64()%fakeVocab] += 3
	return dst
}

func (g *fakeGenerator) Prefill(tokens []int32, start, slot int) ([]float32, error) {
	if len(tokens) == 0 || len(tokens) > fakeChunk {
		panic(fmt.Sprintf("a chunk of %d tokens", len(tokens)))
	}
	g.calls = append(g.calls, fmt.Sprintf("prefill %d at %d", len(tokens), start))
	copy(g.cache[slot][start:start+len(tokens)], tokens)
	return g.row(g.logits[:fakeVocab], slot, start+len(tokens)), nil
}

func (g *fakeGenerator) Decode(tokens, positions, slots []int32) ([]float32, error) {
	g.calls = append(g.calls, fmt.Sprintf("decode %d", len(tokens)))
	for i, t := range tokens {
		g.cache[slots[i]][positions[i]] = t
		g.row(g.logits[i*fakeVocab:][:fakeVocab], int(slots[i]), int(positions[i])+1)
	}
	return g.logits[:len(tokens)*fakeVocab], nil
}

func (g *fakeGenerator) Logits(tokens []int32) ([]float32, error) {
	copy(g.cache[0], tokens)
	out := make([]float32, len(tokens)*fakeVocab)
	for i := range tokens {
		g.row(out[i*fakeVocab:][:fakeVocab], 0, i+1)
	}
	return out, nil
}

func (g *fakeGenerator) MaxPrefill() int { return fakeChunk }
func (g *fakeGenerator) Slots() int      { return len(g.cache) }
func (g *fakeGenerator) Close()          {}

// fakeConfig is a model over the fake program.
func fakeConfig(h hook) Config {
	return Config{
		Name: "fake", SpecHash: "spec-1",
		Settings:  []Setting{{"model.hidden_size", "4"}, {"model.dropout.embedding", "0.1"}, {"train.batch", "4"}},
		VocabSize: fakeVocab, Context: fakeContext,
		Weights: []weights.Info{
			{Name: "embed.weight", Shape: []int{fakeVocab, fakeHidden}, Decay: true, Init: weights.Init{Kind: "normal", Scale: 0.5}, File: "embed.weight"},
			{Name: "head.weight", Shape: []int{fakeVocab, fakeHidden}, Offset: fakeVocab * fakeHidden, Decay: true, Init: weights.Init{Kind: "normal", Scale: 0.5}, File: "head.weight"},
		},
		WeightFloats: fakeFloats,
		HFConfig:     `{"model_type": "fake", "vocab_size": 300}`,
		Data:         Data{Files: []string{"text/*.txt"}, EvalShare: 0.2},
		Train: Train{
			Steps: 12, Batch: 4, MicroBatch: 2, Context: 16, LR: 0.05,
			Schedule: []Phase{{Kind: "warmup", Steps: 2}, {Kind: "cosine", To: 0.1}},
			Save:     Save{Every: 5, Keep: 2, Best: true}, Eval: Eval{Every: 4, Batches: 3}, LogEvery: 3, Seed: 1,
		},
		Generate: Generate{Options: GenerateOptions{MaxNewTokens: 8, Temperature: 0.8, Seed: 1}, Batch: 2, Prompts: []string{"The fox", "A bird"}},
		NewTrainer: func(w []float32, _ int) Trainer {
			t := newFakeTrainer(w)
			t.hook = h
			return t
		},
		NewGenerator: func(w []float32, slots, _ int) Generator { return newFakeGenerator(w, slots) },
	}
}

// fakeRoot is a folder with text to learn from.
func fakeRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	writeText(t, root, "one")
	return root
}

func writeText(t *testing.T, root, word string) {
	t.Helper()
	var b strings.Builder
	who := []string{"fox", "bird", "crêpe", "old 猫", word}
	for i := range 60 {
		fmt.Fprintf(&b, "The %s saw a %s and the %s ran off.\n\nThen a %s sang.\n\n", who[i%5], who[i/5%5], who[i*7%5], who[i*3%5])
	}
	if err := os.MkdirAll(filepath.Join(root, "text"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "text", "a.txt"), []byte(b.String()), 0o666); err != nil {
		t.Fatal(err)
	}
}

func fakeModel(t *testing.T, cfg Config, seed uint64) *Model {
	t.Helper()
	m, err := New(cfg, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	m.values()
	return m
}
