package numeric_test

import (
	"math/rand/v2"
	"testing"

	"github.com/tfc-dev/tfc/golden/gen/everything"
	"github.com/tfc-dev/tfc/golden/gen/tiny"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// generated are programs small enough to train here.
var generated = []struct {
	name          string
	newTrainer    func([]float32, int) lm.Trainer
	floats, vocab int
	tokens        int // of a step
}{
	{"tiny", tiny.NewTrainer, tiny.WeightFloats, tiny.VocabSize, tiny.MicroBatches * tiny.MicroBatch * tiny.Context},
	{"everything", everything.NewTrainer, everything.WeightFloats, everything.VocabSize, everything.MicroBatches * everything.MicroBatch * everything.Context},
}

// stepper returns a function that takes one optimizer step on random tokens.
func stepper(tb testing.TB, newTrainer func([]float32, int) lm.Trainer, floats, vocab, n int) func() {
	weights := make([]float32, floats)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range weights {
		weights[i] = float32(r.NormFloat64() * 0.02)
	}
	tokens, targets := make([]int32, n), make([]int32, n)
	for i := range tokens {
		tokens[i], targets[i] = int32(r.IntN(vocab)), int32(r.IntN(vocab))
	}
	t := newTrainer(weights, 0)
	tb.Cleanup(t.Close)
	step := 0
	return func() {
		step++
		if _, _, err := t.Step(tokens, targets, lm.StepParams{LR: 1e-3, Step: step, Seed: 1}); err != nil {
			tb.Error(err)
		}
	}
}

// A step of a generated program allocates nothing, dropout, checkpointing and all.
func TestGeneratedStepAllocatesNothing(t *testing.T) {
	for _, g := range generated {
		step := stepper(t, g.newTrainer, g.floats, g.vocab, g.tokens)
		step() // workers make their scratch space
		if n := testing.AllocsPerRun(2, step); n != 0 {
			t.Errorf("%s: %v allocations a step", g.name, n)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	for _, g := range generated {
		b.Run(g.name, func(b *testing.B) {
			step := stepper(b, g.newTrainer, g.floats, g.vocab, g.tokens)
			step()
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
			b.ReportMetric(float64(g.tokens)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
