package parser

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"order, quotes and spaces", `
# the head of the file

train: {steps: 10,
   batch: 4}
model:
      # how wide
      hidden_size:   64  # the stream
      vocab_size: '1000'
      norm: rmsnorm(eps:1e-6)
      num_layers: 2
      attention: "[causal,causal&(window( 4 )|global(1))]"
      num_heads: (4)
      intermediate_size: ((8*hidden_size)/(3-1))*2
# the end
`, `# the head of the file

model:
  vocab_size: 1000
  # how wide
  hidden_size: 64 # the stream
  num_layers: 2
  num_heads: 4
  intermediate_size: 8 * hidden_size / (3 - 1) * 2
  norm: "rmsnorm(eps: 1e-6)"
  attention: "[causal, causal & (window(4) | global(1))]"
train: {steps: 10, batch: 4}

# the end
`},
		{"texts stay", `
generate:
  prompts:
  - "a:  b"
  - |
    two
    lines
  - '4*3'
data:
  eval: [ "x*.txt" , 'b#.txt' ]
model: {num_layers: 1, positions: [ rope(theta:5,fraction: 0.5) , 'none' ]}
`, `model: {num_layers: 1, positions: ["rope(theta: 5, fraction: 0.5)", none]}
data:
  eval: [x*.txt, "b#.txt"]
generate:
  prompts:
    - "a:  b"
    - "two\nlines\n"
    - 4*3
`},
	} {
		got, err := Format([]byte(strings.TrimPrefix(c.text, "\n")))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if _, err := Format([]byte("a: [b")); err == nil {
		t.Error("formatted a text that is not YAML")
	}
}

// TestExamplesAreFormatted keeps what people start from in the canonical layout.
func TestExamplesAreFormatted(t *testing.T) {
	files, _ := filepath.Glob("../examples/specs/*.yaml")
	more, _ := filepath.Glob("../spec/presets/*.yaml")
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Format(text)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		} else if diff := cmp.Diff(string(text), string(got)); diff != "" && !strings.Contains(file, "presets") {
			t.Errorf("%s (-is +formatted):\n%s", file, diff)
		}
	}
}

// checkFormat formats a text and checks that it means the same and stays.
func checkFormat(t *testing.T, text string) {
	t.Helper()
	out, err := Format([]byte(text))
	if err != nil {
		return
	}
	if again, err := Format(out); err != nil || string(again) != string(out) {
		t.Fatalf("not stable: %v\n%s\nthen\n%s\nthen\n%s", err, text, out, again)
	}
	before, errBefore := Parse("m.yaml", []byte(text))
	after, errAfter := Parse("m.yaml", out)
	if (errBefore == nil) != (errAfter == nil) {
		t.Fatalf("errors before: %v\nafter: %v\n%s\nthen\n%s", errBefore, errAfter, text, out)
	}
	before.Source, after.Source = nil, nil
	if diff := cmp.Diff(before, after); diff != "" {
		t.Fatalf("formatting changed the meaning of\n%s\nto\n%s\n%s", text, out, diff)
	}
}

func TestFormatKeepsMeaning(t *testing.T) {
	files, _ := filepath.Glob("../examples/specs/*.yaml")
	more, _ := filepath.Glob("../golden/errors/*.yaml")
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		checkFormat(t, string(text))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		checkFormat(t, randomSpec(r))
	}
}

// randomSpec writes a spec with random keys in random order, styles, spaces and comments.
func randomSpec(r *rand.Rand) string {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	quote := func(s string) string {
		switch r.IntN(3) {
		case 0:
			return "'" + s + "'"
		case 1:
			return `"` + s + `"`
		}
		return s
	}
	model := []string{"vocab_size: " + quote("1000"), "hidden_size: " + pick("64", "4*16", "'64'", "round_up( 60,64 )"), "num_layers: 2", "num_heads: " + pick("4", "[4, 4]", `"[4]*2"`)}
	model = append(model, pick("norm: rmsnorm", "norm: layernorm(eps: 1e-6,bias:  false)", "norm: \"rmsnorm( 1e-6 )\""))
	model = append(model, pick("attention: causal&window(4)", "attention: 'causal & ( window(4)|global(2) )'", "attention: [causal, causal & window(2, block: 2)]"))
	model = append(model, pick("dropout: .1", "dropout: {attention: 0.1,residual: 0}", "preset: gpt2", "positions: alibi"))
	sections := []string{}
	shuffled := func(keys []string, flow bool) string {
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		if flow {
			return " {" + strings.Join(keys, ", ") + "}\n"
		}
		b, pad := pick("\n", " # about it\n"), pick("  ", "    ")
		for _, k := range keys {
			if r.IntN(4) == 0 {
				b += pad + fmt.Sprintf("# head %d\n", r.IntN(100))
			}
			b += pad + k + pick("", "", " # note", "   #x") + "\n"
			if r.IntN(6) == 0 {
				b += "\n"
			}
		}
		return b
	}
	sections = append(sections, "model:"+shuffled(model, false))
	sections = append(sections, "train:"+shuffled([]string{pick("steps: 5", "epochs: 1.5"), pick("batch: 8", "batch: tokens(4096)"), "context: 64", pick("clip: 1", "optimizer: adamw(lr: 1e-3)")}, r.IntN(2) == 0))
	sections = append(sections, pick("name: x\n", "generate: {prompts: [a b, \"c, d\"]}\n", "data: {train: [a.txt, b.txt], eval: 5%}\n", "target:\n  devices:\n  - cpu\n"))
	r.Shuffle(len(sections), func(i, j int) { sections[i], sections[j] = sections[j], sections[i] })
	return pick("", "# top\n", "# top\n\n") + strings.Join(sections, pick("", "\n", "# between\n")) + pick("", "# end\n")
}

func TestScalar(t *testing.T) {
	for text, want := range map[string]string{
		"": `""`, "a": "a", "null": `"null"`, "~": `"~"`, " a": `" a"`, "a: b": `"a: b"`, "a #b": `"a #b"`, "-": `"-"`, "-1": "-1", "- a": `"- a"`,
		"*.txt": `"*.txt"`, "é": "é", "\u200b": `"\u200B"`, "\U0001F600\x01": `"😀\u0001"`, `a"b\`: `a"b\`, `"a\`: `"\"a\\"`, "---": `"---"`,
	} {
		if got := scalar(text, false); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
