package lm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"iter"
	"path/filepath"

	"github.com/tfc-dev/tfc/runtime/data"
	"github.com/tfc-dev/tfc/runtime/tokenizer"
)

// texts opens the text to learn from and the text held out, which is nil where none is. Patterns given here stand in for
// the spec's text to learn from; what is held out of it, or beside it, is as the spec says.
func texts(ctx context.Context, d Data, root string, patterns []string) (train, eval *data.Text, err error) {
	if len(patterns) == 0 {
		patterns = d.Files
	}
	if len(patterns) == 0 {
		train, err = data.Stories(ctx, d.Stories.Seed, d.Stories.Count)
	} else {
		train, err = data.Files(ctx, root, patterns, d.EvalFiles)
	}
	if err == nil && len(d.EvalFiles) > 0 {
		eval, err = data.Files(ctx, root, d.EvalFiles, nil)
	} else if err == nil && d.EvalShare > 0 {
		train, eval, err = train.HoldOut(ctx, d.EvalShare)
	}
	return train, eval, textError(ctx, err)
}

// textError tells a text that cannot be used from a caller that wants no more of it.
func textError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fileError("%w", err)
}

// makeTokenizer reads the tokenizer that the spec names, or trains one on the text to learn from.
func (m *Model) makeTokenizer(ctx context.Context, root string, text *data.Text) (*tokenizer.Tokenizer, error) {
	if file := m.cfg.Tokenizer.File; file != "" {
		return readTokenizer(m.cfg, filepath.Join(root, file))
	}
	pieces, failed := text.Pieces(ctx)
	t, err := tokenizer.Train(ctx, pieces, tokenizer.Options{VocabSize: m.cfg.VocabSize})
	if ferr := failed(); ferr != nil {
		err = ferr
	}
	return t, textError(ctx, err)
}

// evaluation yields micro-batches of tokens and targets, always the same.
type evaluation = iter.Seq2[[]int32, []int32]

// heldOut tokenises a text for evaluation; the tokens are kept in the file cache, if given.
func (m *Model) heldOut(ctx context.Context, text *data.Text, cache string) (evaluation, error) {
	tokens, err := data.Tokenise(ctx, text, m.tokenizer, cache)
	if err != nil {
		return nil, textError(ctx, err)
	}
	t := &m.cfg.Train
	batches, err := data.EvalBatches(tokens, data.Shape{Batch: t.MicroBatch, Context: t.Context, LossFrom: m.cfg.LossFrom})
	return batches, textError(ctx, err)
}

// openText opens the text of the run, makes the tokenizer where the model has none, tokenises, and counts the steps.
func (r *run) openText(ctx context.Context, o TrainOptions) error {
	m, t := r.m, &r.m.cfg.Train
	train, eval, err := texts(ctx, m.cfg.Data, o.Root, o.Data)
	if err != nil {
		return err
	}
	sum := sha256.New()
	io.WriteString(sum, train.Hash())
	r.say("text: %d documents of %d bytes to learn from", train.Documents(), train.Bytes())
	if eval != nil {
		io.WriteString(sum, " "+eval.Hash())
		r.say("text: %d documents of %d bytes held out for evaluation", eval.Documents(), eval.Bytes())
	}
	r.dataHash = hex.EncodeToString(sum.Sum(nil))
	if m.tokenizer == nil {
		if m.tokenizer, err = m.makeTokenizer(ctx, o.Root, train); err != nil {
			return err
		}
		r.say("tokenizer: %d tokens", m.tokenizer.VocabSize())
	}
	cache := filepath.Join(r.dir, cacheFolder)
	tokens, err := data.Tokenise(ctx, train, m.tokenizer, filepath.Join(cache, "train.tokens"))
	if err != nil {
		return textError(ctx, err)
	}
	r.say("tokens: %d to learn from, %d a step", tokens.Len(), r.tokensPerStep())
	if r.loader, err = data.NewLoader(tokens, data.Shape{Batch: t.Batch, Context: t.Context, LossFrom: m.cfg.LossFrom}, m.seed); err != nil {
		return textError(ctx, err)
	}
	if eval != nil {
		if r.eval, err = m.heldOut(ctx, eval, filepath.Join(cache, "eval.tokens")); err != nil {
			return err
		}
	}
	switch {
	case o.Steps > 0:
		r.total = o.Steps
	case t.Steps > 0:
		r.total = t.Steps
	default:
		r.total = r.loader.Steps(t.Epochs)
	}
	return nil
}
