package data

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tfc-dev/tfc/runtime/tokenizer"
)

var _ Tokenizer = (*tokenizer.Tokenizer)(nil)

// letters is a tokenizer whose tokens are bytes, moved up by shift.
type letters struct {
	shift, vocab int
	noEnd        bool
	name         string
	calls        atomic.Int64
}

func (l *letters) Encode(text string) []int32 {
	l.calls.Add(1)
	ids := make([]int32, len(text))
	for i, c := range []byte(text) {
		ids[i] = int32(int(c) + l.shift)
	}
	return ids
}
func (l *letters) EndOfText() (int32, bool) { return int32(l.vocab - 1), !l.noEnd }
func (l *letters) VocabSize() int           { return l.vocab }
func (l *letters) Hash() string             { return l.name }

func mustTokenise(t testing.TB, text *Text, tok Tokenizer, path string) []int32 {
	t.Helper()
	tokens, err := Tokenise(t.Context(), text, tok, path)
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, tokens.Len())
	tokens.copy(ids, 0)
	return ids
}

func TestTokenise(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "xy<|endoftext|>z", "b": "é"}), "*")
	for _, c := range []struct {
		tok   *letters
		width int
	}{
		{&letters{vocab: 257}, 2}, {&letters{vocab: 1 << 16, shift: 1<<16 - 257}, 2}, {&letters{vocab: 1<<16 + 1, shift: 1<<16 - 256}, 4},
		{&letters{vocab: 1 << 30, shift: 1 << 29}, 4}, {&letters{vocab: 256, noEnd: true}, 2},
	} {
		path := filepath.Join(t.TempDir(), "tokens", "cache")
		for _, path := range []string{"", path, path} {
			var want []int32
			for _, doc := range []string{"xy", "z", "é"} {
				want = append(want, c.tok.Encode(doc)...)
				if end, ok := c.tok.EndOfText(); ok {
					want = append(want, end)
				}
			}
			if got := mustTokenise(t, text, c.tok, path); !slices.Equal(got, want) {
				t.Errorf("vocabulary of %d: %v, want %v", c.tok.vocab, got, want)
			}
		}
		ids := 5
		if !c.tok.noEnd {
			ids += 3
		}
		if info, err := os.Stat(path); err != nil || int(info.Size()) != ids*c.width+64 {
			t.Errorf("vocabulary of %d: the cache is %v, %v", c.tok.vocab, info, err)
		}
	}
}

func TestTokenOutsideOfTheVocabulary(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "xyz"}), "*")
	path := filepath.Join(t.TempDir(), "cache")
	for _, tok := range []*letters{{vocab: 'z'}, {vocab: 1 << 17, shift: -200}} {
		for _, p := range []string{"", path} {
			if _, err := Tokenise(t.Context(), text, tok, p); err == nil || !strings.Contains(err.Error(), "the tokenizer gave token") {
				t.Errorf("%v", err)
			}
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cache is left: %v", err)
	}
}

// A cache is used for the same text and tokenizer, and for nothing else.
func TestCacheIsUsedAndRenewed(t *testing.T) {
	root := folder(t, map[string]string{"a": "one\ntwo\n", "b": "three"})
	path := filepath.Join(t.TempDir(), "cache")
	text := mustFiles(t, root, "*")
	train, eval, err := text.HoldOut(t.Context(), 0.5)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		text *Text
		tok  *letters
		made bool
	}{
		{text, &letters{vocab: 300, name: "x"}, true},
		{text, &letters{vocab: 300, name: "x"}, false},
		{mustFiles(t, root, "a", "b"), &letters{vocab: 300, name: "x"}, false},
		{text, &letters{vocab: 300, name: "y"}, true},
		{text, &letters{vocab: 301, name: "y"}, true},
		{text, &letters{vocab: 70000, name: "y"}, true},
		{train, &letters{vocab: 300, name: "x"}, true},
		{eval, &letters{vocab: 300, name: "x"}, true},
		{eval, &letters{vocab: 300, name: "x"}, false},
		{mustFiles(t, root, "a"), &letters{vocab: 300, name: "x"}, true},
	} {
		got := mustTokenise(t, c.text, c.tok, path)
		if made := c.tok.calls.Load() > 0; made != c.made {
			t.Errorf("case %d: made anew %v, want %v", i, made, c.made)
		}
		if want := mustTokenise(t, c.text, c.tok, ""); !slices.Equal(got, want) {
			t.Errorf("case %d: %v, want %v", i, got, want)
		}
	}
}

// Whatever byte of the cache is wrong or missing, or too many, it is made anew, and sound again.
func TestCacheDamage(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "one two three", "b": "four"}), "*")
	path := filepath.Join(t.TempDir(), "cache")
	want := mustTokenise(t, text, &letters{vocab: 257}, path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{
		"longer": append(slices.Clone(good), 0, 0),
		"zeros":  make([]byte, len(good)),
		"twice":  append(slices.Clone(good), good...),
		"moved":  append(slices.Clone(good[2:]), 0, 0),
	}
	renew := map[string]bool{"longer": true, "zeros": true, "twice": true, "moved": true} // the others only read: a sync takes long
	for _, i := range []int{0, 31, 32, len(good) - 33, len(good) - 32, len(good) - 1} {
		renew[fmt.Sprintf("byte %d flipped", i)] = true
		renew[fmt.Sprintf("cut to %d bytes", i)] = true
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		damaged[fmt.Sprintf("byte %d flipped", i)] = bad
		damaged[fmt.Sprintf("cut to %d bytes", i)] = good[:i]
	}
	for what, bad := range damaged {
		if err := os.WriteFile(path, bad, 0o666); err != nil {
			t.Fatal(err)
		}
		tok := &letters{vocab: 257}
		if _, err := readCache(path, cacheKey(text, tok)); err == nil {
			t.Errorf("%s: taken for sound", what)
		}
		if !renew[what] {
			continue
		}
		if got := mustTokenise(t, text, tok, path); !slices.Equal(got, want) || tok.calls.Load() == 0 {
			t.Errorf("%s: %v", what, got)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(good) {
			t.Errorf("%s: the cache stays damaged: %v", what, err)
		}
	}
}

func TestCacheThatIsNoFile(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "one"}), "*")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "cache", "full"), 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := Tokenise(t.Context(), text, &letters{vocab: 257}, filepath.Join(dir, "cache"))
	if err == nil || !strings.Contains(err.Error(), "keep the tokens") {
		t.Errorf("%v", err)
	}
	if _, err = Tokenise(t.Context(), text, &letters{vocab: 257}, filepath.Join(dir, "cache", "full", "x")); err != nil {
		t.Error(err)
	}
}

// Interrupted, nothing is left behind.
func TestTokeniseInterrupted(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": strings.Repeat("some words ", 1<<18)}), "*")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	for _, path := range []string{"", filepath.Join(dir, "cache")} {
		if _, err := Tokenise(ctx, text, &letters{vocab: 257}, path); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Long texts are encoded in pieces, in parallel: the ids are those of the whole, in order.
func TestTokeniseLongText(t *testing.T) {
	var doc strings.Builder
	for i := range 1 << 18 {
		fmt.Fprintf(&doc, "word%d and\n so on ", i)
	}
	files := map[string]string{}
	var want []int32
	for i := range 9 {
		size := []int{1, 1000, doc.Len()}[i%3]
		files[fmt.Sprint(i)] = doc.String()[i*20 : i*20+size-min(i*20, size-1)]
		want = append(want, (&letters{}).Encode(files[fmt.Sprint(i)])...)
		want = append(want, 256)
	}
	tok := &letters{vocab: 257}
	got := mustTokenise(t, mustFiles(t, folder(t, files), "*"), tok, filepath.Join(t.TempDir(), "cache"))
	if !slices.Equal(got, want) || tok.calls.Load() < 20 {
		t.Errorf("%d tokens from %d pieces, want %d", len(got), tok.calls.Load(), len(want))
	}
}

// The pieces of a document give the tokens of the whole with a real tokenizer, wherever they are cut.
func TestPiecesGiveTheTokensOfTheWhole(t *testing.T) {
	text := "Once upon a time, Zoë's  dog\tran.\n\n  It  didn't stop 1234 times ... “Oh!” said she \r\n\r\n and e\u0301 e\u0301 猫 猫が 3 am  \n" +
		"They'll go home now, they 'll see   what's   there ?!  Yes . \u00a0 x \u2003 y "
	text = strings.Repeat(text, 3)
	tok, err := tokenizer.Train(t.Context(), slices.Values([]string{text, strings.ToUpper(text)}),
		tokenizer.Options{VocabSize: 400, Special: []string{tokenizer.EndOfText}})
	if err != nil {
		t.Fatal(err)
	}
	want := tok.Encode(text)
	for size := 1; size < 200; size++ {
		var got []int32
		pieces := 0
		if err := cut(strings.NewReader(text), size, func(piece []byte, _ bool) error {
			pieces++
			got = append(got, tok.Encode(string(piece))...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || pieces < 3 {
			t.Errorf("pieces of %d: %d tokens from %d pieces, the whole has %d", size, len(got), pieces, len(want))
		}
	}
}
