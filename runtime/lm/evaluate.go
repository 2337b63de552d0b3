package lm

import (
	"context"
	"errors"
	"math"
)

// EvalOptions says what a model is evaluated on. The zero value means all of the text that the spec holds out.
type EvalOptions struct {
	Root    string   // folder that the data's paths start from; the current one when empty
	Data    []string // patterns of text files, instead of the text held out
	Batches int      // micro-batches, at most; 0: all
}

// EvalResult is how well a model predicts a text.
type EvalResult struct {
	Loss       float64 // mean of -ln(probability) over the tokens
	Perplexity float64 // e^Loss
	Tokens     int64   // predicted
}

// Evaluate returns the loss of the model on held-out text. The sums have a fixed order: the same weights and text give
// the same bits.
func (m *Model) Evaluate(ctx context.Context, o EvalOptions) (EvalResult, error) {
	release, err := m.acquire()
	if err != nil {
		return EvalResult{}, err
	}
	defer release()
	text, err := m.evalText(ctx, o)
	if err != nil {
		return EvalResult{}, err
	}
	batches, err := m.heldOut(ctx, text, "")
	if err != nil {
		return EvalResult{}, err
	}
	t, err := m.newTrainer("")
	if err != nil {
		return EvalResult{}, err
	}
	defer t.Close()
	return evaluate(ctx, t, batches, o.Batches)
}

var errEval = errors.New("the loss is not finite: the model's weights are damaged, or its training diverged")

// evaluate sums the loss over the first micro-batches, or all where limit is 0.
func evaluate(ctx context.Context, t Trainer, batches evaluation, limit int) (EvalResult, error) {
	sum, count, n := 0.0, 0, 0
	for tokens, targets := range batches {
		if limit > 0 && n == limit {
			break
		}
		n++
		if err := ctx.Err(); err != nil {
			return EvalResult{}, err
		}
		s, c, err := t.Loss(tokens, targets)
		if err != nil {
			return EvalResult{}, err
		}
		sum += s
		count += c
	}
	if count == 0 {
		return EvalResult{}, errNothingToPredict()
	}
	r := evalResult(sum, count)
	if math.IsNaN(r.Loss) || math.IsInf(r.Loss, 0) {
		return EvalResult{}, errEval
	}
	return r, nil
}

func errNothingToPredict() error {
	return fileError("the text held out has no token to predict: hold out more (data.eval)")
}
