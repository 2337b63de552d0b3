package lm

import (
	"context"
	"fmt"
	"math"

	"github.com/tfc-dev/tfc/runtime/data"
)

// WeightsResult is what a text says of the weights that generation reads: how far its logits are from those of the weights
// as they were trained, and how much worse it predicts.
type WeightsResult struct {
	Weights    string     // the type that generation reads: bf16, int8 or int4; f32 where it is that of training
	Tokens     int64      // predicted
	Trained    EvalResult // by the weights in f32
	Generation EvalResult // token by token, as generation goes
	LogitError float64    // root mean square of the differences of logits, over that of the logits in f32
}

// String says it in three lines.
func (r WeightsResult) String() string {
	return fmt.Sprintf("f32: loss %.4f, perplexity %.4g, over %d tokens\n%s: loss %.4f, perplexity %.4g\nlogits differ by %.2g of their size",
		r.Trained.Loss, r.Trained.Perplexity, r.Tokens, r.Weights, r.Generation.Loss, r.Generation.Perplexity, r.LogitError)
}

// EvaluateWeights puts held-out text through the generation code token by token, and through the model with its weights in
// f32, on the CPU.
func (m *Model) EvaluateWeights(ctx context.Context, o EvalOptions) (r WeightsResult, err error) {
	release, err := m.acquire()
	if err != nil {
		return r, err
	}
	defer release()
	text, err := m.evalText(ctx, o)
	if err != nil {
		return r, err
	}
	batches, err := m.heldOut(ctx, text, "")
	if err != nil {
		return r, err
	}
	g, err := m.generation()
	if err != nil {
		return r, err
	}
	if m.device != nil {
		return r, inputError("the weights of generation are compared with those in f32 on the CPU, not on %s: give --device cpu", m.device)
	}
	r.Weights = m.cfg.Generate.Weights
	if r.Weights == "" {
		r.Weights = "f32"
	}
	c := comparison{m: m, g: g}
	n := 0
	for tokens, targets := range batches {
		if n++; o.Batches > 0 && n > o.Batches {
			break
		}
		for at := 0; at < len(tokens); at += m.cfg.Train.Context {
			if err := ctx.Err(); err != nil {
				return r, err
			}
			if err := c.sequence(tokens[at:at+m.cfg.Train.Context], targets[at:at+m.cfg.Train.Context]); err != nil {
				return r, err
			}
		}
	}
	if c.count == 0 {
		return r, errNothingToPredict()
	}
	r.Tokens = int64(c.count)
	r.Trained, r.Generation = evalResult(c.exact, c.count), evalResult(c.narrow, c.count)
	r.LogitError = math.Sqrt(c.differences / c.squares)
	if math.IsNaN(c.exact+c.narrow) || math.IsInf(c.exact+c.narrow, 0) {
		return r, errEval
	}
	return r, nil
}

func evalResult(sum float64, count int) EvalResult {
	loss := sum / float64(count)
	return EvalResult{Loss: loss, Perplexity: math.Exp(loss), Tokens: int64(count)}
}

// comparison sums up over sequences.
type comparison struct {
	m *Model
	g Generator

	exact, narrow        float64 // losses
	count                int
	differences, squares float64 // of logits
	logits               []float32
}

// sequence adds one. What must come in one piece, a prefix, does; then token follows token.
func (c *comparison) sequence(tokens, targets []int32) error {
	exact, err := c.g.Logits(tokens)
	if err != nil {
		return err
	}
	c.logits = append(c.logits[:0], exact...)
	v := c.m.cfg.VocabSize
	first := c.m.cfg.LossFrom
	for i := range tokens {
		var narrow []float32
		switch {
		case i < first:
			continue
		case i == first:
			narrow, err = c.g.Prefill(tokens[:i+1], 0, 0)
		default:
			narrow, err = c.g.Decode(tokens[i:i+1], []int32{int32(i)}, []int32{0})
		}
		if err != nil {
			return err
		}
		if targets[i] < 0 {
			continue
		}
		row := c.logits[i*v:][:v]
		for k, x := range row {
			d := float64(narrow[k]) - float64(x)
			c.differences += d * d
			c.squares += float64(x) * float64(x)
		}
		c.exact += crossEntropy(row, targets[i])
		c.narrow += crossEntropy(narrow, targets[i])
		c.count++
	}
	return nil
}

// crossEntropy is -ln of the target's probability.
func crossEntropy(logits []float32, target int32) float64 {
	top := math.Inf(-1)
	for _, x := range logits {
		top = max(top, float64(x))
	}
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x) - top)
	}
	return top + math.Log(sum) - float64(logits[target])
}

// evalText is the text that a model is evaluated on.
func (m *Model) evalText(ctx context.Context, o EvalOptions) (text *data.Text, err error) {
	if o.Batches < 0 {
		return nil, inputError("the number of batches is %d; it must not be negative (0: all)", o.Batches)
	}
	if m.tokenizer == nil {
		return nil, errNoTokenizer()
	}
	if len(o.Data) > 0 {
		text, err = data.Files(ctx, o.Root, o.Data, nil)
		return text, textError(ctx, err)
	}
	if _, text, err = texts(ctx, m.cfg.Data, o.Root, nil); err == nil && text == nil {
		err = inputError("the spec holds out no text (data.eval): say which text to evaluate on")
	}
	return text, err
}
