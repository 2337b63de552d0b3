package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const byteLevel = `{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}`

// small returns a tokenizer.json of the 256 bytes, "he", and what is to be replaced in it.
func small(replace ...string) string {
	var b strings.Builder
	b.WriteString(`{"added_tokens": [{"id": 257, "content": "<|endoftext|>", "special": true, "normalized": false}], "normalizer": null, ` +
		`"pre_tokenizer": ` + byteLevel + `, "decoder": {"type": "ByteLevel"}, ` +
		`"model": {"type": "BPE", "dropout": null, "ignore_merges": false, "vocab": {`)
	for i, c := range byteRunes {
		name, _ := json.Marshal(string(c))
		b.Write(name)
		b.WriteString(": " + string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10)) + ", ")
	}
	b.WriteString(`"he": 256}, "merges": ["h e"]}}`)
	text := strings.NewReplacer(`": 00`, `": `, `": 0`, `": `).Replace(b.String())
	for i := 0; i < len(replace); i += 2 {
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	return text
}

func TestReadSmall(t *testing.T) {
	for _, text := range []string{
		small(), small(`"h e"`, `["h", "e"]`), small(`"type": "BPE", `, ``),
		small(`"pre_tokenizer": `+byteLevel, `"pre_tokenizer": {"type": "Sequence", "pretokenizers": [`+byteLevel+`]}`),
	} {
		tok, err := Read(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode("hehe<|endoftext|>"); got[0] != 256 || got[1] != 256 || len(got) != 15 {
			t.Errorf("Encode: %v", got)
		}
		if got := tok.EncodeSpecial("hehe<|endoftext|>"); !slices.Equal(got, []int32{256, 256, 257}) {
			t.Errorf("EncodeSpecial: %v", got)
		}
		if id, ok := tok.ID("he"); !ok || id != 256 || tok.Token(id) != "he" || tok.VocabSize() != 258 {
			t.Error(id, ok, tok.VocabSize())
		}
		if _, ok := tok.ID("hehe"); ok || tok.Token(-1) != "" || tok.Token(258) != "" || tok.Decode([]int32{-1, 256, 258}) != "he" {
			t.Error("tokens that are none")
		}
	}
}

func TestReadRefuses(t *testing.T) {
	split := func(pattern, rest string) string {
		return `{"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": ` + pattern + `, ` + rest + `}, ` + byteLevel + `]}`
	}
	known, _ := json.Marshal(gpt2Pattern)
	cases := []struct{ text, want string }{
		{``, "the text ends"},
		{`{}`, "model is missing"},
		{`[]`, "'{' is expected"},
		{small() + `x`, "more text after the end"},
		{small(`"decoder"`, `"model": {}, "x"`), "lacks vocab"},
		{small(`"decoder"`, `"x"`), "decoder is missing"},
		{small(`"pre_tokenizer"`, `"x"`), "pre_tokenizer is missing"},
		{small(`"BPE"`, `"Unigram"`), `"Unigram" is not supported`},
		{small(`"vocab": {`, `"vocab": [], "x": {`), "only BPE"},
		{small(`"dropout": null`, `"dropout": 0.1`), "model.dropout 0.1 is not supported"},
		{small(`"dropout": null`, `"end_of_word_suffix": "</w>"`), "model.end_of_word_suffix"},
		{small(`"normalizer": null`, `"normalizer": {"type": "Lowercase"}`), `normalizer of type "Lowercase"`},
		{small(`"decoder": {"type": "ByteLevel"}`, `"decoder": {"type": "WordPiece"}`), `decoder of type "WordPiece"`},
		{small(`"decoder": {"type": "ByteLevel"}`, `"decoder": null`), "'{' is expected"},
		{small(byteLevel, `null`), "not byte-level BPE"},
		{small(byteLevel, `{"type": "Whitespace"}`), `pre_tokenizer of type "Whitespace"`},
		{small(byteLevel, `{}`), "without a type"},
		{small(byteLevel, `{"type": "Sequence", "pretokenizers": []}`), "does not end in ByteLevel"},
		{small(byteLevel, `{"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": []}]}`), "a Sequence in a Sequence"},
		{small(byteLevel, `{"type": "Sequence", "pretokenizers": [`+byteLevel+`, `+byteLevel+`]}`), "after ByteLevel"},
		{small(byteLevel, split(`{"Regex": "(a+)+$"}`, `"behavior": "Isolated", "invert": false`)), `pattern "(a+)+$" is not supported`},
		{small(byteLevel, split(`{"String": " "}`, `"behavior": "Isolated", "invert": false`)), "a Split by a String"},
		{small(byteLevel, split(`{"Regex": `+string(known)+`}`, `"behavior": "Removed", "invert": false`)), `behavior "Removed"`},
		{small(`"he": 256`, `"he": 255`), "have the same id 255"},
		{small(`"he": 256`, `"he": 258`), "no token has id 256"},
		{small(`"he": 256`, `"he": 4294967296`), "out of range"},
		{small(`"he": 256`, `"he": -1`), "whole number"},
		{small(`"he": 256`, `"he": 256, "he": 258`), `"he" is given twice`},
		{small(`"h": 104, `, ``), `no token has id 104`},
		{small(`"h": 104, `, `"hh": 104, `), `no token for byte 0x68`},
		{small(`"h e"`, `"h x"`), `merge 0, of "h" and "x"`},
		{small(`"h e"`, `"hh e"`), `merge 0`},
		{small(`"h e"`, `"he"`), "does not have two parts"},
		{small(`"h e"`, `["h", "e", "e"]`), "more than two parts"},
		{small(`"h e"`, `["h"]`), "does not have two parts"},
		{small(`"content": "<|endoftext|>"`, `"content": "he"`), `"he" has id 257, and 256 elsewhere`},
		{small(`"content": "<|endoftext|>"`, `"content": ""`), "without id or content"},
		{small(`"content": "<|endoftext|>"`, `"content": "`+strings.Repeat("x", 513)+`"`), "has 513 bytes"},
		{small(`"special": true`, `"special": 1`), "true or false"},
	}
	for _, c := range cases {
		if _, err := Read(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.json")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte(small(`"h e"`, `"h x"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+": merge 0") {
		t.Error(err)
	}
}

// Whatever is read gives a tokenizer that works, or an error.
func FuzzRead(f *testing.F) {
	f.Add(small(), "he said")
	f.Add(small(`"normalizer": null`, `"normalizer": {"type": "NFC"}`), "e\u0301he")
	f.Add(small(`"special": true`, `"lstrip": true, "rstrip": true, "single_word": true`), "he <|endoftext|> he")
	f.Add(small(`"h e"`, `"h x"`), "")
	f.Add(small(`"ignore_merges": false`, `"ignore_merges": true`), "he")
	f.Add(small(byteLevel, `{"type": "ByteLevel", "use_regex": false}`), "he\xff")
	f.Fuzz(func(t *testing.T, file, text string) {
		tok, err := Read(strings.NewReader(file))
		if err != nil {
			return
		}
		for _, ids := range [][]int32{tok.Encode(text), tok.EncodeSpecial(text)} {
			for _, id := range ids {
				if id < 0 || int(id) >= tok.VocabSize() {
					t.Fatalf("id %d of %d", id, tok.VocabSize())
				}
			}
			tok.Decode(ids)
		}
	})
}
