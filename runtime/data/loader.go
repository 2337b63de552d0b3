package data

import (
	"fmt"
	"iter"
	"math"
)

// Ignored is the target of a position that is not learned.
const Ignored = -100

// Shape says what batches look like.
type Shape struct {
	Batch    int // sequences: of an optimizer step in training, of a micro-batch in evaluation
	Context  int // tokens of a sequence
	LossFrom int // first position whose target is learned; above 0 where tokens see what comes after them
}

func (s Shape) check() error {
	if s.Batch < 1 || s.Context < 1 || s.LossFrom < 0 || s.LossFrom >= s.Context {
		return fmt.Errorf("batches of %d sequences of %d tokens, learned from position %d on: sizes must be positive, "+
			"and the position within the sequence", s.Batch, s.Context, s.LossFrom)
	}
	return nil
}

// Loader makes the batches of training for next-token prediction: windows of the stream of tokens, which may cross from
// one document to the next, as in the training of GPT-2. It has no state: what a batch holds depends on the tokens, the
// shape, the seed and its number, so that a run goes on exactly from any step. Any number of goroutines may use it.
//
// Every epoch lays a grid of windows over the stream, which is closed to a ring so that each epoch has as many, from a
// random offset, and visits each window once in a random order.
type Loader struct {
	tokens *Tokens
	shape  Shape
	seed   uint64
}

// NewLoader returns a loader. The tokens must fill at least one window: Context tokens and the one that follows.
func NewLoader(tokens *Tokens, shape Shape, seed uint64) (*Loader, error) {
	if err := shape.check(); err != nil {
		return nil, err
	}
	if need := shape.Context + 1; tokens.Len() < need {
		return nil, fmt.Errorf("the training text has %d tokens, one sequence takes %d (the context of %d and the token that follows): "+
			"give more text, or a shorter context", tokens.Len(), need, shape.Context)
	}
	return &Loader{tokens, shape, seed}, nil
}

// Windows returns the number of sequences in an epoch.
func (l *Loader) Windows() int { return l.tokens.Len() / l.shape.Context }

// Steps returns the optimizer steps that go over the text so many times: the last one may begin the next epoch. It is at
// least 1 and at most MaxInt32.
func (l *Loader) Steps(epochs float64) int {
	steps := math.Ceil(epochs * float64(l.Windows()) / float64(l.shape.Batch))
	return int(min(max(steps, 1), math.MaxInt32))
}

// Batch writes micro-batch micro, counted from 0, of optimizer step step, counted from 1: tokens and the targets that
// follow them, each [sequences, Context], where the length of the slices says how many sequences a micro-batch has. All
// micro-batches of a step are the step's batch in parts. Batch allocates nothing.
func (l *Loader) Batch(step, micro int, tokens, targets []int32) {
	t := l.shape.Context
	rows := len(tokens) / t
	first := uint64(step-1)*uint64(l.shape.Batch) + uint64(micro)*uint64(rows)
	for row := range rows {
		l.sequence(first+uint64(row), tokens[row*t:][:t], targets[row*t:][:t])
	}
}

// sequence writes one sequence of the endless order.
func (l *Loader) sequence(number uint64, tokens, targets []int32) {
	n, windows := uint64(l.tokens.Len()), uint64(l.Windows())
	e := epoch{l.seed, uint32(number / windows)}
	start := int((e.offset(n) + e.permute(number%windows, windows)*uint64(l.shape.Context)) % n)
	l.ring(tokens, start)
	l.ring(targets, (start+1)%int(n))
	ignore(targets[:l.shape.LossFrom])
}

// ring copies tokens from a position on, from the start again after the end.
func (l *Loader) ring(dst []int32, from int) {
	n := min(len(dst), l.tokens.Len()-from)
	l.tokens.copy(dst[:n], from)
	l.tokens.copy(dst[n:], 0)
}

func ignore(targets []int32) {
	for i := range targets {
		targets[i] = Ignored
	}
}

// EvalBatches yields the micro-batches of evaluation, tokens and targets [Batch, Context]: windows that cover the stream
// one after the other, always the same, so that every token but the first is a target once (of those from LossFrom on).
// Past the end of the stream, tokens are 0 and targets Ignored. The slices are valid until the next ones.
func EvalBatches(t *Tokens, shape Shape) (iter.Seq2[[]int32, []int32], error) {
	if err := shape.check(); err != nil {
		return nil, err
	}
	return func(yield func([]int32, []int32) bool) {
		tokens := make([]int32, shape.Batch*shape.Context)
		targets := make([]int32, len(tokens))
		for from := 0; from < t.Len()-1; from += len(tokens) {
			n := min(len(tokens), t.Len()-1-from)
			t.copy(tokens[:n], from)
			t.copy(targets[:n], from+1)
			clear(tokens[n:])
			ignore(targets[n:])
			for row := range shape.Batch {
				ignore(targets[row*shape.Context:][:shape.LossFrom])
			}
			if !yield(tokens, targets) {
				return
			}
		}
	}, nil
}
