package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The cases under testdata are answers of Hugging Face's tokenizers library, 0.23.

type libraryCase struct {
	Text    string
	IDs     []int32 // special tokens are text
	Special []int32 // special tokens are parsed; nil where this makes no difference
	Decoded string  // of Special
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, tok *Tokenizer, cases []libraryCase) {
	t.Helper()
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range cases {
		if c.Special == nil {
			c.Special = c.IDs
		}
		if got := tok.Encode(c.Text); !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%q): got %v, want %v", c.Text, got, c.IDs)
		}
		if got := tok.EncodeSpecial(c.Text); !slices.Equal(got, c.Special) {
			t.Errorf("EncodeSpecial(%q): got %v, want %v", c.Text, got, c.Special)
		}
		if got := tok.Decode(c.Special); got != c.Decoded {
			t.Errorf("Decode(%v): got %q, want %q", c.Special, got, c.Decoded)
		}
		d, pieces := tok.NewDecoder(), ""
		for _, id := range c.Special {
			pieces += d.Push(id)
		}
		if pieces += d.Flush(); pieces != c.Decoded {
			t.Errorf("piece by piece, %v: got %q, want %q", c.Special, pieces, c.Decoded)
		}
	}
}

func TestFixtures(t *testing.T) {
	for name, want := range map[string]struct {
		vocab int
		end   string
	}{"gpt2_bpe": {2000, "<|endoftext|>"}, "llama3_bpe": {3000, "<|end_of_text|>"}} {
		t.Run(name, func(t *testing.T) {
			tok, err := Load(filepath.Join("testdata", name, "tokenizer.json"))
			if err != nil {
				t.Fatal(err)
			}
			// These cases have special tokens parsed.
			var cases []libraryCase
			readJSON(t, filepath.Join("testdata", name, "cases.json"), &cases)
			for i, c := range cases {
				cases[i].Special = c.IDs
				if strings.Contains(c.Text, "<|") {
					cases[i].IDs = tok.Encode(c.Text)
					if tok.Decode(cases[i].IDs) != c.Text {
						t.Errorf("Encode(%q): got %v", c.Text, cases[i].IDs)
					}
				}
			}
			check(t, tok, cases)
			if tok.VocabSize() != want.vocab {
				t.Errorf("%d tokens", tok.VocabSize())
			}
			if id, ok := tok.EndOfText(); !ok || tok.Token(id) != want.end {
				t.Errorf("end of text: %d, %t", id, ok)
			}
		})
	}
}

// The fixtures with other normalizers, pre-tokenizers and added tokens.
func TestVariants(t *testing.T) {
	var variants []struct {
		Name   string
		Base   string
		Change map[string]json.RawMessage
		Cases  []libraryCase
	}
	readJSON(t, "testdata/variants.json", &variants)
	for _, v := range variants {
		t.Run(v.Name, func(t *testing.T) {
			tok, err := Read(strings.NewReader(changed(t, v.Base, v.Change)))
			if err != nil {
				t.Fatal(err)
			}
			check(t, tok, v.Cases)
		})
	}
}

// changed returns a fixture with some of its parts replaced.
func changed(t testing.TB, base string, change map[string]json.RawMessage) string {
	t.Helper()
	file := map[string]json.RawMessage{}
	readJSON(t, filepath.Join("testdata", base, "tokenizer.json"), &file)
	for name, part := range change {
		file[name] = part
	}
	out, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
