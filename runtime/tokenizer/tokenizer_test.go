package tokenizer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// corpus is a text of so many sentences.
func corpus(n int) []string {
	who := []string{"The old fox", "A bird", "Zoë", "the 12 mice", "猫"}
	did := []string{"sang", "couldn't sing", "ran to the river", "was running, running", "said: \"Hello!\""}
	var docs []string
	for i := range n {
		docs = append(docs, fmt.Sprintf("%s %s and %s %s.\n", who[i%5], did[i/5%5], who[i*7%5], did[i*3%5]))
	}
	return docs
}

func mustTrain(t testing.TB, docs []string, o Options) *Tokenizer {
	t.Helper()
	tok, err := Train(context.Background(), slices.Values(docs), o)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTrainSaveLoad(t *testing.T) {
	docs := corpus(200)
	tok := mustTrain(t, docs, Options{VocabSize: 300})
	if tok.VocabSize() != 300 {
		t.Errorf("%d tokens", tok.VocabSize())
	}
	if id, ok := tok.EndOfText(); !ok || id != 0 {
		t.Errorf("end of text: %d, %t", id, ok)
	}
	again := mustTrain(t, docs, Options{VocabSize: 300})
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := tok.Save(path); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if again.Hash() != tok.Hash() || loaded.Hash() != tok.Hash() || len(tok.Hash()) != 64 {
		t.Error("hashes differ", again.Hash(), loaded.Hash(), tok.Hash())
	}
	for _, text := range append(docs, "unseen text: xyz <|endoftext|>\n", "", "\x00\xff") {
		ids := tok.Encode(text)
		if !slices.Equal(ids, loaded.Encode(text)) {
			t.Errorf("%q: the loaded tokenizer gives other ids", text)
		}
		if utf8.ValidString(text) && loaded.Decode(ids) != text {
			t.Errorf("%q comes back as %q", text, loaded.Decode(ids))
		}
	}
}

// Of " ab ab ab abc", the pairs "ab" and " a" are seen 4 times each. Ids are in the order of the characters that spell
// the bytes, and the space is spelled Ġ, so "ab" has the lower ids and goes first.
func TestTrainByHand(t *testing.T) {
	tok := mustTrain(t, []string{" ab ab ab abc"}, Options{VocabSize: 300, Special: []string{"<s>", "</s>"}})
	want := []string{"<s>", "</s>", "!"}
	for id, name := range want {
		if tok.Token(int32(id)) != name {
			t.Errorf("token %d is %q, want %q", id, tok.Token(int32(id)), name)
		}
	}
	// "abc" is seen once only, so two merges are all.
	if tok.VocabSize() != 260 || tok.Token(258) != "ab" || tok.Token(259) != "Ġab" {
		t.Errorf("%d tokens, the last %q and %q", tok.VocabSize(), tok.Token(258), tok.Token(259))
	}
	if id, ok := tok.EndOfText(); !ok || tok.Token(id) != "</s>" {
		t.Errorf("end of text: %d, %t", id, ok)
	}
	all := mustTrain(t, []string{" ab ab ab abc"}, Options{VocabSize: 300, MinFrequency: 1})
	if all.VocabSize() != 260 || all.Token(259) != "Ġabc" {
		t.Errorf("%d tokens, the last %q", all.VocabSize(), all.Token(259))
	}
}

// naiveMerges learns as the paper says: count all pairs anew for each merge.
func naiveMerges(words map[string]int, n int) (merges []string) {
	ids := map[string]int{}
	for _, c := range slices.Sorted(slices.Values(byteRunes[:])) {
		ids[string(c)] = len(ids)
	}
	split := map[string][]string{}
	for w := range words {
		for i := range len(w) {
			split[w] = append(split[w], spell(w[i:i+1]))
		}
	}
	for range n {
		counts := map[[2]string]int{}
		for w, parts := range split {
			for i := range len(parts) - 1 {
				counts[[2]string{parts[i], parts[i+1]}] += words[w]
			}
		}
		var best [2]string
		for p, c := range counts {
			switch b := counts[best]; {
			case c < 2 || c < b:
			case c > b, ids[p[0]] < ids[best[0]], ids[p[0]] == ids[best[0]] && ids[p[1]] < ids[best[1]]:
				best = p
			}
		}
		if best[0] == "" {
			break
		}
		for w, parts := range split {
			var out []string
			for i := 0; i < len(parts); i++ {
				if i+1 < len(parts) && parts[i] == best[0] && parts[i+1] == best[1] {
					out = append(out, best[0]+best[1])
					i++
				} else {
					out = append(out, parts[i])
				}
			}
			split[w] = out
		}
		merges = append(merges, best[0]+" "+best[1])
		if _, ok := ids[best[0]+best[1]]; !ok {
			ids[best[0]+best[1]] = len(ids)
		}
	}
	return merges
}

func TestTrainIsNaiveTraining(t *testing.T) {
	docs := append(corpus(40), "aaaaaaa aaaa aaaaaaaaaaa ababab bababa abbaabba")
	words := map[string]int{}
	for _, doc := range docs {
		for doc != "" {
			n := splitGPT2(doc)
			words[doc[:n]]++
			doc = doc[n:]
		}
	}
	want := naiveMerges(words, 60)
	tok := mustTrain(t, docs, Options{VocabSize: 257 + 60})
	for i, m := range want {
		if got, _ := tok.ID(strings.Replace(m, " ", "", 1)); got != int32(257+i) {
			t.Errorf("merge %d, %s: its token has id %d", i, m, got)
		}
	}
}

func TestTrainRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		"it takes 257":        {VocabSize: 256},
		"to 1048576":          {VocabSize: 1 << 21},
		`"x" is how a single`: {VocabSize: 300, Special: []string{"x"}},
		"given twice":         {VocabSize: 300, Special: []string{"<s>", "<s>"}},
		"must be valid text":  {VocabSize: 300, Special: []string{""}},
	} {
		if _, err := Train(t.Context(), slices.Values([]string{"text"}), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Train(ctx, slices.Values([]string{"text"}), Options{VocabSize: 300}); err != context.Canceled {
		t.Errorf("after a cancel: %v", err)
	}
	if tok := mustTrain(t, nil, Options{VocabSize: 300}); tok.VocabSize() != 257 {
		t.Errorf("no text gives %d tokens", tok.VocabSize())
	}
}

// Nothing takes time that grows with the square of the text.
func TestLongWords(t *testing.T) {
	const soon = time.Minute // the square of a mebibyte takes ten and more; a machine that has much else to do, seconds
	var toks []*Tokenizer
	for _, pattern := range []string{"", "llama3", "o200k", "nfc"} {
		toks = append(toks, variant(t, pattern))
	}
	for _, unit := range []string{"a", " ", "ab", "\n", " \n", "中", "A中", "'", "\u0301", "\u0323\u0301", "e\u0323\u0301", "<", "1", "\xf0\x9f"} {
		text := strings.Repeat(unit, 1<<20/len(unit))
		for i, tok := range toks {
			start := time.Now()
			ids := tok.Encode(text)
			if d := time.Since(start); d > soon {
				t.Errorf("tokenizer %d: %q * 1 MiB takes %v", i, unit, d)
			}
			if i == 0 && utf8.ValidString(text) && tok.Decode(ids) != text {
				t.Errorf("%q does not come back", unit)
			}
		}
	}
	long := strings.Repeat("ab", 1<<18)
	start := time.Now()
	mustTrain(t, []string{long, long + "a"}, Options{VocabSize: 1000})
	if d := time.Since(start); d > soon {
		t.Errorf("learning from a word of 512 KiB takes %v", d)
	}
}

// variant reads a tokenizer of testdata/variants.json, or, for "", the GPT-2 fixture.
func variant(t testing.TB, name string) *Tokenizer {
	t.Helper()
	var err error
	var tok *Tokenizer
	switch name {
	case "":
		tok, err = Load("testdata/gpt2_bpe/tokenizer.json")
	case "llama3":
		tok, err = Load("testdata/llama3_bpe/tokenizer.json")
	default:
		var variants []struct {
			Name, Base string
			Change     map[string]json.RawMessage
		}
		readJSON(t, "testdata/variants.json", &variants)
		for _, v := range variants {
			if v.Name == name {
				tok, err = Read(strings.NewReader(changed(t, v.Base, v.Change)))
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestDecoder(t *testing.T) {
	tok := mustTrain(t, nil, Options{VocabSize: 257})
	push := func(d *Decoder, text string) (out []string) {
		for _, id := range tok.Encode(text) {
			out = append(out, d.Push(id))
		}
		return append(out, d.Flush())
	}
	d := tok.NewDecoder()
	for text, want := range map[string][]string{
		"aé猫😀":                     {"a", "", "é", "", "", "猫", "", "", "", "😀", ""},
		"\xf0\x9f\x98":             {"", "", "", "\uFFFD"},
		"\xf0\x9fa":                {"", "", "\uFFFDa", ""},
		"\xff\x80":                 {"\uFFFD", "\uFFFD", ""},
		"\xed\xa0\x80":             {"", "\uFFFD\uFFFD", "\uFFFD", ""}, // a surrogate
		"\xe0\x80":                 {"", "\uFFFD\uFFFD", ""},           // overlong
		"\xf4\x90\xc3":             {"", "\uFFFD\uFFFD", "", "\uFFFD"}, // beyond U+10FFFF
		"\xc3\xc3\xa9":             {"", "\uFFFD", "é", ""},
		"\xe2\x82\xe2\x82\xac\x80": {"", "", "\uFFFD", "", "€", "\uFFFD", ""},
	} {
		if got := push(d, text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if got := tok.Decode(tok.Encode(text)); got != strings.Join(want, "") {
			t.Errorf("%q: Decode gives %q", text, got)
		}
	}
}

func TestConcurrent(t *testing.T) {
	tok := mustTrain(t, corpus(50), Options{VocabSize: 300})
	want := tok.Encode(strings.Join(corpus(50), ""))
	tok = mustTrain(t, corpus(50), Options{VocabSize: 300}) // nothing cached
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := tok.Encode(strings.Join(corpus(50), "")); !slices.Equal(got, want) {
				t.Error("other ids")
			}
		})
	}
	wg.Wait()
}

func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"", "It's 12 o'clock.\r\n\n  Zoë\t", "a\u0301\u0323 猫😀 <|endoftext|>", "\xff\xc3", "ſ'ſ'LL"} {
		f.Add(s)
	}
	var toks []*Tokenizer
	for _, name := range []string{"", "llama3", "o200k"} {
		toks = append(toks, variant(f, name))
	}
	f.Fuzz(func(t *testing.T, text string) {
		want := strings.ToValidUTF8(text, "\uFFFD")
		for _, tok := range toks {
			got := tok.Decode(tok.Encode(text))
			if utf8.ValidString(text) && got != want || !utf8.ValidString(got) {
				t.Errorf("%q comes back as %q", text, got)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Join(corpus(2000), "")
	tok := mustTrain(b, corpus(2000), Options{VocabSize: 400})
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text)
	}
}

func TestSaveFails(t *testing.T) {
	tok := mustTrain(t, nil, Options{VocabSize: 257})
	dir := t.TempDir()
	if err := tok.Save(filepath.Join(dir, "missing", "t.json")); err == nil {
		t.Error("saved into a folder that is not there")
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Error("leftovers", names)
	}
}
