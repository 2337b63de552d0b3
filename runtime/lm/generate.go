package lm

import (
	"context"
	"errors"
	"iter"

	"github.com/tfc-dev/tfc/runtime/tokenizer"
)

// Stop says why a continuation ended.
type Stop string

// The reasons to stop.
const (
	StopEnd     Stop = "end_of_text"    // the model ended the text; its end-of-text token is not part of the answer
	StopLength  Stop = "max_new_tokens" // as many tokens as asked for
	StopContext Stop = "context"        // prompt and answer fill the model's context
)

// Completion is how a prompt goes on.
type Completion struct {
	Text   string  // without the prompt; empty where the model has no tokenizer
	Tokens []int32 // the new tokens
	Stop   Stop
}

// Defaults returns the options of generation that the spec gives.
func (m *Model) Defaults() GenerateOptions { return m.cfg.Generate.Options }

// Generate returns how a prompt goes on. It stops at the model's end of text, after MaxNewTokens, or where the context is
// full, none of which is an error; GenerateBatch tells which it was. An empty prompt begins a new text. On an error or
// where ctx ends, what was written so far comes with the error.
func (m *Model) Generate(ctx context.Context, prompt string, o GenerateOptions) (string, error) {
	out, err := m.GenerateBatch(ctx, []string{prompt}, o)
	if len(out) == 0 {
		return "", err
	}
	return out[0].Text, err
}

// GenerateBatch continues several prompts, as many at once as the spec's generate.batch says. Prompt i goes on as it
// would alone with Sequence o.Sequence+i: no answer depends on what else is written. On an error, what was written so
// far comes with it.
func (m *Model) GenerateBatch(ctx context.Context, prompts []string, o GenerateOptions) ([]Completion, error) {
	release, err := m.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	tokens := make([][]int32, len(prompts))
	for i, p := range prompts {
		if tokens[i], err = m.encode(p); err != nil {
			return nil, err
		}
	}
	return m.write(ctx, tokens, o, nil)
}

// GenerateTokens is GenerateBatch for prompts of tokens, of which each needs one at least.
func (m *Model) GenerateTokens(ctx context.Context, prompts [][]int32, o GenerateOptions) ([]Completion, error) {
	release, err := m.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	return m.write(ctx, prompts, o, nil)
}

// Stream is Generate piece by piece, as the model writes. Pieces are whole UTF-8 characters and together make up
// Generate's text; bytes that are no UTF-8 come as U+FFFD. An error is the last thing that comes. Breaking out of the
// loop ends the writing; until then the model can do nothing else.
func (m *Model) Stream(ctx context.Context, prompt string, o GenerateOptions) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		release, err := m.acquire()
		if err != nil {
			yield("", err)
			return
		}
		defer release()
		tokens, err := m.encode(prompt)
		if err == nil {
			stopped := false
			_, err = m.write(ctx, [][]int32{tokens}, o, func(piece string) bool {
				stopped = !yield(piece, nil)
				return !stopped
			})
			if stopped {
				return
			}
		}
		if err != nil {
			yield("", err)
		}
	}
}

// Logits returns the model's logits after each token of a sequence, [len(tokens), vocabulary].
func (m *Model) Logits(tokens []int32) ([]float32, error) {
	release, err := m.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	if len(tokens) > m.cfg.Context {
		return nil, inputError("the sequence has %d tokens; the model's context holds %d", len(tokens), m.cfg.Context)
	}
	if err := m.checkTokens(tokens); err != nil {
		return nil, err
	}
	g, err := m.generation()
	if err != nil {
		return nil, err
	}
	logits, err := g.Logits(tokens)
	return append([]float32(nil), logits...), err
}

// encode turns a prompt into tokens. An empty one becomes the token that ends a text and so begins the next.
func (m *Model) encode(prompt string) ([]int32, error) {
	if m.tokenizer == nil {
		return nil, errNoTokenizer()
	}
	tokens := m.tokenizer.Encode(prompt)
	if len(tokens) == 0 {
		end, ok := m.tokenizer.EndOfText()
		if !ok {
			return nil, inputError("the prompt is empty, and the tokenizer has no end-of-text token to begin from: give a prompt")
		}
		tokens = []int32{end}
	}
	return tokens, nil
}

func errNoTokenizer() error {
	return inputError("the model has no tokenizer yet: train it, or open a folder that holds a %s", tokenizerFile)
}

func (m *Model) checkTokens(tokens []int32) error {
	if len(tokens) == 0 {
		return inputError("the sequence is empty; it needs a token at least")
	}
	for i, id := range tokens {
		if id < 0 || int(id) >= m.cfg.VocabSize {
			return inputError("token %d of the sequence is %d; the vocabulary has ids 0 to %d", i, id, m.cfg.VocabSize-1)
		}
	}
	return nil
}

func (m *Model) checkPrompt(tokens []int32) error {
	if len(tokens) >= m.cfg.Context {
		return inputError("the prompt has %d tokens; the model's context holds %d and needs room for one more: shorten the prompt",
			len(tokens), m.cfg.Context)
	}
	return m.checkTokens(tokens)
}

// writer is one sequence that is being written.
type writer struct {
	index    int // of its prompt
	slot     int
	position int   // of the token that comes next
	token    int32 // the newest, not in the cache yet
	left     int   // tokens it may still write
	options  PickOptions
	decoder  *tokenizer.Decoder
	text     []byte
	out      *Completion
}

// write continues prompts; emit, if not nil, gets the pieces of text and ends the writing where it returns false.
func (m *Model) write(ctx context.Context, prompts [][]int32, o GenerateOptions, emit func(piece string) bool) (out []Completion, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	for i, p := range prompts {
		if err := m.checkPrompt(p); err != nil {
			if len(prompts) > 1 {
				err = inputError("prompt %d: %w", i+1, err)
			}
			return nil, err
		}
	}
	g, err := m.generation()
	if err != nil {
		return nil, err
	}
	out = make([]Completion, len(prompts))
	active := make([]*writer, 0, g.Slots())
	free := make([]int, g.Slots())
	for i := range free {
		free[i] = i
	}
	tokens, positions, slots := make([]int32, g.Slots()), make([]int32, g.Slots()), make([]int32, g.Slots())
	options := make([]PickOptions, g.Slots())
	defer func() { // an error leaves what was written
		for _, w := range active {
			w.out.Text = string(w.text)
		}
	}()
	for next := 0; ; {
		for next < len(prompts) && len(active) < g.Slots() {
			w := m.newWriter(next, free[len(active)], prompts[next], o, &out[next])
			next++
			active = append(active, w)
			token, err := m.prefill(ctx, g, prompts[w.index], w)
			if err != nil {
				return out, err
			}
			if more, err := m.advance(w, token, o, emit); !more {
				return out, err
			}
			active = retire(active, free)
		}
		if len(active) == 0 {
			return out, nil
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		for i, w := range active {
			tokens[i], positions[i], slots[i], options[i] = w.token, int32(w.position-1), int32(w.slot), w.options
		}
		n := len(active)
		picked, err := g.DecodeAndPick(tokens[:n], positions[:n], slots[:n], options[:n])
		if err != nil {
			return out, err
		}
		for i, w := range active {
			if more, err := m.advance(w, picked[i], o, emit); !more {
				return out, err
			}
		}
		active = retire(active, free)
	}
}

func (m *Model) newWriter(index, slot int, prompt []int32, o GenerateOptions, out *Completion) *writer {
	w := &writer{index: index, slot: slot, position: len(prompt), left: m.cfg.Context - len(prompt), out: out}
	w.options = PickOptions{Temperature: o.Temperature, TopP: o.TopP, TopK: o.TopK, Seed: o.Seed, Sequence: o.Sequence + index}
	if o.MaxNewTokens > 0 {
		w.left = min(w.left, o.MaxNewTokens)
	}
	w.out.Tokens = make([]int32, 0, w.left)
	if m.tokenizer != nil {
		w.decoder = m.tokenizer.NewDecoder()
		w.options.Tokens = m.tokenizer.VocabSize() // the vocabulary may be padded with rows that are no tokens
	}
	return w
}

// retire drops the writers that have stopped. The slots of those that go on stand first in the list of slots, in their
// order, and the free ones behind.
func retire(active []*writer, slots []int) []*writer {
	kept := 0
	for i, w := range active {
		if w.out.Stop != "" {
			w.out.Text = string(w.text)
			continue
		}
		active[kept] = w
		slots[kept], slots[i] = slots[i], slots[kept]
		kept++
	}
	return active[:kept]
}

// prefill brings a prompt into the cache, in chunks where it is long, and returns the token picked after it.
func (m *Model) prefill(ctx context.Context, g Picker, prompt []int32, w *writer) (token int32, err error) {
	for start := 0; start < len(prompt); start += g.MaxPrefill() {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if token, err = g.PrefillAndPick(prompt[start:min(start+g.MaxPrefill(), len(prompt))], start, w.slot, w.options); err != nil {
			return 0, err
		}
	}
	return token, nil
}

var errLogits = errors.New("the model's logits are not finite: its weights are damaged, or its training diverged")

// advance appends the token that was picked to a sequence. It reports whether the writing goes on: false after an error, and where
// emit wants no more.
func (m *Model) advance(w *writer, token int32, o GenerateOptions, emit func(string) bool) (bool, error) {
	end, ends := int32(0), false
	if m.tokenizer != nil {
		end, ends = m.tokenizer.EndOfText()
	}
	if token == noToken {
		return false, errLogits
	}
	piece := ""
	if ends && token == end {
		w.out.Stop = StopEnd
	} else {
		w.out.Tokens = append(w.out.Tokens, token)
		w.token = token
		w.position++
		w.left--
		if w.decoder != nil {
			piece = w.decoder.Push(token)
		}
		switch {
		case w.left > 0:
		case w.position == m.cfg.Context && len(w.out.Tokens) != o.MaxNewTokens:
			w.out.Stop = StopContext
		default:
			w.out.Stop = StopLength
		}
	}
	if w.out.Stop != "" && w.decoder != nil {
		piece += w.decoder.Flush()
	}
	w.text = append(w.text, piece...)
	return emit == nil || piece == "" || emit(piece), nil
}
