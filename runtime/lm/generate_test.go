package lm

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tfc-dev/tfc/runtime/tokenizer"
)

// trained returns a model that has learned a little, and so has a tokenizer.
func trained(t *testing.T, cfg Config) *Model {
	t.Helper()
	m := fakeModel(t, cfg, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: fakeRoot(t), Steps: 2})
	return m
}

func calls(m *Model) []string { return m.generator.(*hostPicker).Generator.(*fakeGenerator).calls }

func TestStreamIsGenerate(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	multi := 0
	for seed := range uint64(60) {
		// A model that knows little writes bytes of any kind.
		o := GenerateOptions{Temperature: 3, Seed: seed, MaxNewTokens: int(seed%4) * 5}
		batch, err := m.GenerateBatch(t.Context(), []string{"The 猫"}, o)
		if err != nil {
			t.Fatal(err)
		}
		want := m.Tokenizer().Decode(batch[0].Tokens)
		if batch[0].Text != want {
			t.Errorf("seed %d: tokens of %q came as %q", seed, want, batch[0].Text)
		}
		var got strings.Builder
		for piece, err := range m.Stream(t.Context(), "The 猫", o) {
			if err != nil {
				t.Fatal(err)
			}
			if piece == "" || !utf8.ValidString(piece) {
				t.Errorf("piece %q", piece)
			}
			if strings.ContainsAny(piece, "猫ê") {
				multi++
			}
			got.WriteString(piece)
		}
		if got.String() != want || want == "" {
			t.Errorf("seed %d: streamed %q, generated %q", seed, got.String(), want)
		}
	}
	if multi == 0 {
		t.Error("no character of several bytes came: the test tests little")
	}
}

// Prompt i of a batch goes on as it would alone, whatever the number of slots.
func TestBatchIsSingle(t *testing.T) {
	prompts := []string{"The fox", "A bird saw the crêpe and the old 猫 ran off", "", "x", "The", "The", "Then a bird sang. The"}
	for _, o := range []GenerateOptions{
		{Temperature: 1, Seed: 5}, {}, {Temperature: 2, MaxNewTokens: 3}, {Temperature: 1, TopK: 20, TopP: 0.9, Sequence: 100},
	} {
		var want []Completion
		for slots := 1; slots <= 9; slots++ {
			cfg := fakeConfig(nil)
			cfg.Generate.Batch = slots
			m := trained(t, cfg)
			got, err := m.GenerateBatch(t.Context(), prompts, o)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				for i, p := range prompts {
					single := o
					single.Sequence += i
					text, err := m.Generate(t.Context(), p, single)
					if err != nil || text != got[i].Text {
						t.Errorf("%+v: prompt %d alone gives %q, %v; in a batch %q", o, i, text, err, got[i].Text)
					}
				}
				want = got
				if o.Temperature > 0 && want[4].Text == want[5].Text {
					t.Errorf("%+v: two sequences of one prompt are the same: %q", o, want[4].Text)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v: with %d slots %+v, with one %+v", o, slots, got, want)
			}
			if slots == 4 && !slices.Contains(calls(m), "decode 4") {
				t.Errorf("four slots are never decoded together: %v", calls(m))
			}
		}
	}
}

func TestWhyItStops(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	prompt := make([]int32, 12)
	for i := range prompt {
		prompt[i] = int32(i)
	}
	generate := func(prompt []int32, o GenerateOptions) Completion {
		t.Helper()
		out, err := m.GenerateTokens(t.Context(), [][]int32{prompt}, o)
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	end, ok := m.Tokenizer().EndOfText()
	if !ok {
		t.Fatal("no end of text")
	}
	for seed := range uint64(200) {
		o := GenerateOptions{Temperature: 2, Seed: seed}
		c := generate(prompt, o)
		switch c.Stop {
		case StopContext:
			if len(c.Tokens) != fakeContext-len(prompt) {
				t.Errorf("the context was full after %d tokens", len(c.Tokens))
			}
		case StopEnd:
			if len(c.Tokens) >= fakeContext-len(prompt) {
				t.Errorf("the text ended after %d tokens", len(c.Tokens))
			}
		default:
			t.Errorf("stopped for %q", c.Stop)
		}
		if slices.Contains(c.Tokens, end) {
			t.Errorf("the end of the text is in %v", c.Tokens)
		}
		o.MaxNewTokens = 5
		if short := generate(prompt, o); !slices.Equal(short.Tokens, c.Tokens[:min(5, len(c.Tokens))]) ||
			len(c.Tokens) >= 5 && short.Stop != StopLength {
			t.Errorf("at most 5 tokens: %+v of %+v", short, c)
		}
	}
	// As many as fit is what was asked for.
	if c := generate(prompt, GenerateOptions{MaxNewTokens: fakeContext - len(prompt)}); c.Stop != StopLength && c.Stop != StopEnd {
		t.Errorf("%+v", c)
	}
	onlyWrites(m, end)
	if c := generate(prompt, GenerateOptions{}); c.Stop != StopEnd || len(c.Tokens) != 0 || c.Text != "" {
		t.Errorf("%+v", c)
	}
}

// onlyWrites makes a model that always writes one token.
func onlyWrites(m *Model, token int32) {
	for i := range m.weights {
		m.weights[i] = 0
		if i < fakeVocab*fakeHidden {
			m.weights[i] = 1
		}
	}
	for j := range fakeHidden {
		m.weights[(fakeVocab+int(token))*fakeHidden+j] = 100
	}
}

// An answer that ends within a character says so.
func TestHalfACharacter(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	half := m.Tokenizer().Encode("\xe7\x8c") // of 猫
	onlyWrites(m, half[0])
	o := GenerateOptions{MaxNewTokens: 1}
	text, err := m.Generate(t.Context(), "The", o)
	if err != nil || text != "\uFFFD" {
		t.Errorf("%q, %v", text, err)
	}
	for piece, err := range m.Stream(t.Context(), "The", o) {
		if err != nil || piece != "\uFFFD" {
			t.Errorf("%q, %v", piece, err)
		}
	}
}

// A vocabulary may have rows behind the tokenizer's last token; they are never picked.
func TestRowsThatAreNoTokens(t *testing.T) {
	small, err := tokenizer.Train(t.Context(), slices.Values([]string{"a b a b"}), tokenizer.Options{VocabSize: 258})
	if err != nil {
		t.Fatal(err)
	}
	root := fakeRoot(t)
	if err := small.Save(filepath.Join(root, "small.json")); err != nil {
		t.Fatal(err)
	}
	cfg := fakeConfig(nil)
	cfg.Tokenizer.File = "small.json"
	m := fakeModel(t, cfg, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root, Steps: 1})
	for seed := range uint64(5) {
		out, err := m.GenerateBatch(t.Context(), []string{"a"}, GenerateOptions{Temperature: 100, Seed: seed})
		if err != nil || int(slices.Max(out[0].Tokens)) >= small.VocabSize() {
			t.Errorf("tokens %v of %d, %v", out[0].Tokens, small.VocabSize(), err)
		}
	}
}

func TestLongPromptsGoInChunks(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	prompt := make([]int32, 13)
	if _, err := m.GenerateTokens(t.Context(), [][]int32{prompt}, GenerateOptions{MaxNewTokens: 2, Temperature: 1e9}); err != nil {
		t.Fatal(err)
	}
	want := []string{"prefill 5 at 0", "prefill 5 at 5", "prefill 3 at 10", "decode 1"}
	if got := calls(m); !slices.Equal(got[:3], want[:3]) {
		t.Errorf("calls %v, want %v", got, want)
	}
}

func TestPromptErrors(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	long := strings.Repeat("xyz", fakeContext)
	n := len(m.Tokenizer().Encode(long))
	_, err := m.Generate(t.Context(), long, GenerateOptions{})
	if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "40") || n < fakeContext {
		t.Errorf("a prompt of %d tokens: %v", n, err)
	}
	fits := make([]int32, fakeContext-1)
	if out, err := m.GenerateTokens(t.Context(), [][]int32{fits}, GenerateOptions{}); err != nil || len(out[0].Tokens) > 1 {
		t.Errorf("a prompt with room for one token: %+v, %v", out, err)
	}
	for _, tokens := range [][]int32{{}, {-1}, {fakeVocab}, make([]int32, fakeContext)} {
		if _, err := m.GenerateTokens(t.Context(), [][]int32{{1}, tokens}, GenerateOptions{}); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "prompt 2") {
			t.Errorf("tokens %v: %v", tokens, err)
		}
	}
	for _, tokens := range [][]int32{{}, {-1}, {fakeVocab}, make([]int32, fakeContext+1)} {
		if _, err := m.Logits(tokens); !errors.Is(err, ErrInput) {
			t.Errorf("logits of %v: %v", tokens, err)
		}
	}
	nan, inf := math.NaN(), math.Inf(1)
	for _, o := range []GenerateOptions{
		{MaxNewTokens: -1}, {Temperature: -0.1}, {Temperature: nan}, {Temperature: inf}, {TopK: -1}, {TopP: -0.1}, {TopP: 1.1},
		{TopP: nan}, {TopP: inf}, {Sequence: -1}, {Sequence: math.MaxInt},
	} {
		if _, err := m.Generate(t.Context(), "x", o); !errors.Is(err, ErrInput) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if out, err := m.GenerateBatch(t.Context(), nil, GenerateOptions{}); err != nil || len(out) != 0 {
		t.Errorf("no prompts: %v, %v", out, err)
	}
	fresh := fakeModel(t, fakeConfig(nil), 1)
	if _, err := fresh.Generate(t.Context(), "x", GenerateOptions{}); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "no tokenizer") {
		t.Errorf("a model without tokenizer: %v", err)
	}
	if out, err := fresh.GenerateTokens(t.Context(), [][]int32{{1, 2}}, GenerateOptions{MaxNewTokens: 3}); err != nil || len(out[0].Tokens) != 3 || out[0].Text != "" {
		t.Errorf("tokens without a tokenizer: %+v, %v", out, err)
	}
	if _, err := fresh.Evaluate(t.Context(), EvalOptions{}); !errors.Is(err, ErrInput) {
		t.Errorf("evaluating without tokenizer: %v", err)
	}
	m.weights[fakeVocab*fakeHidden] = float32(nan)
	if _, err := m.Generate(t.Context(), "x", GenerateOptions{}); err == nil || !strings.Contains(err.Error(), "not finite") {
		t.Errorf("damaged weights: %v", err)
	}
	if _, err := m.Evaluate(t.Context(), EvalOptions{Root: fakeRoot(t)}); err == nil || !strings.Contains(err.Error(), "not finite") {
		t.Errorf("evaluating damaged weights: %v", err)
	}
}

func TestLogits(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	got, err := m.Logits([]int32{3, 1, 4})
	if err != nil || len(got) != 3*fakeVocab {
		t.Fatalf("%d logits, %v", len(got), err)
	}
	keep := slices.Clone(got)
	out, err := m.GenerateTokens(t.Context(), [][]int32{{3, 1, 4}}, GenerateOptions{MaxNewTokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	row := got[2*fakeVocab:][:m.Tokenizer().VocabSize()]
	if c := out[0]; c.Stop == StopLength && row[c.Tokens[0]] != slices.Max(row) {
		t.Errorf("greedy took %d", c.Tokens[0])
	}
	if !slices.Equal(got, keep) {
		t.Error("a later call changed the logits")
	}
}

func TestCancelledGenerationKeepsItsText(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	o := GenerateOptions{Temperature: 1, Seed: 3}
	whole, err := m.Generate(t.Context(), "The", o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pieces []string
	var last error
	for piece, err := range m.Stream(ctx, "The", o) {
		if last = err; err != nil {
			break
		}
		if pieces = append(pieces, piece); len(pieces) == 3 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) || !strings.HasPrefix(whole, strings.Join(pieces, "")) {
		t.Errorf("%q of %q, %v", pieces, whole, last)
	}
	if text, err := m.Generate(ctx, "The", o); !errors.Is(err, context.Canceled) || !strings.HasPrefix(whole, text) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestOneCallAtATime(t *testing.T) {
	m := trained(t, fakeConfig(nil))
	o := GenerateOptions{MaxNewTokens: 4, Temperature: 1}
	n := 0
	for _, err := range m.Stream(t.Context(), "The", o) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Generate(t.Context(), "A", o); err != ErrBusy {
			t.Errorf("generating in a stream: %v", err)
		}
		if _, err := m.Train(t.Context(), TrainOptions{}); err != ErrBusy {
			t.Errorf("training in a stream: %v", err)
		}
		for _, err := range m.Stream(t.Context(), "A", o) {
			if err != ErrBusy {
				t.Errorf("a stream in a stream: %v", err)
			}
		}
		n++
		break
	}
	if n != 1 {
		t.Fatal("nothing came")
	}
	if _, err := m.Generate(t.Context(), "A", o); err != nil {
		t.Errorf("after a stream left early: %v", err)
	}
	m.Close()
	m.Close()
	for _, err := range m.Stream(t.Context(), "A", o) {
		if err != ErrClosed {
			t.Errorf("a closed model: %v", err)
		}
	}
}

func TestSaveAndOpen(t *testing.T) {
	cfg := fakeConfig(nil)
	m := trained(t, cfg)
	dir := filepath.Join(t.TempDir(), "new", "model")
	for range 2 { // over itself too
		if err := m.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	o, err := Open(cfg, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if !slices.Equal(o.weights, m.weights) {
		t.Error("other weights came back")
	}
	a, err1 := m.Generate(t.Context(), "The", m.Defaults())
	b, err2 := o.Generate(t.Context(), "The", o.Defaults())
	if err := errors.Join(err1, err2); err != nil || a != b {
		t.Errorf("%q and %q, %v", a, b, err)
	}
	end, _ := m.Tokenizer().EndOfText()
	for name, want := range map[string]map[string]any{
		"config.json":            {"model_type": "fake", "vocab_size": 300.0},
		"generation_config.json": {"do_sample": true, "temperature": 0.8, "top_k": 0.0, "max_new_tokens": 8.0, "eos_token_id": float64(end)},
		"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40.0, "eos_token": "<|endoftext|>",
			"clean_up_tokenization_spaces": false},
	} {
		var got map[string]any
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, %v; want %v", name, got, err, want)
		}
	}
	if err := m.Save(filepath.Join(dir, "config.json", "x")); err == nil {
		t.Error("saved below a file")
	}
}

func TestOpenErrors(t *testing.T) {
	cfg := fakeConfig(nil)
	m := trained(t, cfg)
	dir := filepath.Join(t.TempDir(), "model")
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	bigger, small, reshaped := cfg, cfg, cfg
	bigger.HFConfig = `{"model_type": "fake", "vocab_size": 301}`
	small.VocabSize = 10
	reshaped.Weights = slices.Clone(cfg.Weights)
	reshaped.Weights[1].File = "other.weight"
	for _, c := range []struct {
		cfg  Config
		dir  string
		want string
	}{
		{cfg, filepath.Join(dir, "none"), "none"},
		{cfg, t.TempDir(), "neither"},
		{bigger, dir, "vocab_size"},
		{small, dir, "the model's vocabulary has 10"},
		{reshaped, dir, "other.weight"},
	} {
		if _, err := Open(c.cfg, c.dir); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, tokenizerFile)); err != nil {
		t.Fatal(err)
	}
	if m, err := Open(cfg, dir); err != nil || m.Tokenizer() != nil {
		t.Errorf("a folder without tokenizer: %v", err)
	}

	run := filepath.Join(t.TempDir(), "run")
	mustTrain(t, fakeModel(t, cfg, 7), t.Context(), TrainOptions{Run: run, Root: fakeRoot(t), Steps: 1})
	other := cfg
	other.Settings = []Setting{{"model.hidden_size", "8"}, {"model.dropout.embedding", "0.3"}}
	if _, err := Open(other, run); !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), "model.hidden_size: 4 in the run, 8 in the program") ||
		strings.Contains(err.Error(), "dropout") || strings.Contains(err.Error(), "train.") {
		t.Errorf("another model: %v", err)
	}
	if m, err := Open(cfg, run); err != nil || m.seed != 7 {
		t.Errorf("the seed of a run: %v", err)
	}
}
