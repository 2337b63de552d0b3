package parser

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tfc-dev/tfc/spec"
)

// nasty are texts that have broken parsers before.
var nasty = map[string]string{
	"lists in lists":     "model: " + strings.Repeat("[", 100_000),
	"mappings deep":      "model: " + strings.Repeat("{a: ", 20_000),
	"dashes deep":        strings.Repeat("- ", 20_000),
	"keys deep":          deepKeys(300),
	"laughs":             "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\nmodel: *d\n",
	"itself":             "model: &m\n  norm: *m\n",
	"merge":              "a: &a {b: 1}\nmodel: {<<: *a}\n",
	"infinite":           "model: {vocab_size: .inf, hidden_size: .nan, num_layers: 1e999, num_heads: -.inf}\n",
	"huge integers":      "model: {vocab_size: 4611686018427387904, hidden_size: 4611686018427387904, num_layers: 4611686018427387904, num_heads: 1}\n",
	"huge digits":        "model: {vocab_size: " + strings.Repeat("9", 4000) + "}\n",
	"huge exponent":      "model: {vocab_size: 1e999999999999, hidden_size: 1e-999999999999}\n",
	"huge list":          "model: {num_layers: 9, attention: \"[causal] * 4611686018427387904\"}\n",
	"huge lists":         "model: {num_layers: 9, attention: \"" + strings.Repeat("[causal] * 9999 + ", 200) + "[causal]\"}\n",
	"lists of lists":     "model: {num_heads: \"[[[[4] * 9999] * 9999] * 9999] * 9999\"}\n",
	"powers":             "model: {vocab_size: " + strings.Repeat("1e300 * ", 500) + "1}\n",
	"sums":               "model: {vocab_size: " + strings.Repeat("1/3 + ", 600) + "1}\n",
	"minuses":            "model: {vocab_size: " + strings.Repeat("-", 3000) + "1}\n",
	"brackets":           "model: {vocab_size: \"" + strings.Repeat("(", 2000) + strings.Repeat(")", 2000) + "\"}\n",
	"calls in calls":     "model: {norm: \"" + strings.Repeat("rmsnorm(", 500) + strings.Repeat(")", 500) + "\"}\n",
	"patterns":           "model: {attention: \"" + strings.Repeat("causal & ", 400) + "causal\"}\n",
	"cycle":              "model: {vocab_size: hidden_size, hidden_size: num_layers, num_layers: head_dim, head_dim: vocab_size, num_heads: 2}\n",
	"only comments":      strings.Repeat("# :,[]\n", 20_000),
	"only blanks":        strings.Repeat(" ", 1<<19),
	"only newlines":      strings.Repeat("\n", 40_000),
	"one long line":      "model: {vocab_size: " + strings.Repeat("x", 1<<19) + "}\n",
	"long key":           strings.Repeat("k", 1<<18) + ": 1\n",
	"long quoted":        "model: \"" + strings.Repeat(`\x41`, 1<<17) + "\"\n",
	"unclosed":           "model: \"" + strings.Repeat("a ", 1<<17),
	"keys":               "model:\n" + strings.Repeat("  a: 1\n", 20_000),
	"question marks":     strings.Repeat("? ", 20_000),
	"tags":               "model: !!binary aGVsbG8=\n",
	"directive":          "%YAML 9.9\n---\nmodel: {}\n",
	"documents":          strings.Repeat("---\nmodel: {}\n", 2000),
	"block of nothing":   "model: |\n" + strings.Repeat("  \n", 10_000),
	"quotes and columns": "model: {vocab_size: '" + strings.Repeat("''", 2000) + "'}\n",
}

func deepKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// TestNasty checks that bad texts end in errors with places, soon.
func TestNasty(t *testing.T) {
	for name, text := range nasty {
		start := time.Now()
		s, err := Parse("n.yaml", []byte(text))
		if errs, ok := err.(spec.Errors); !ok || len(errs) == 0 {
			t.Errorf("%s: got %v", name, err)
		} else {
			_ = errs.Explain(s.Source)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("%s took %v", name, d)
		}
		_, _ = Format([]byte(text))
	}
}

// TestMemory checks that a file of 1 MiB costs no more than 64 times its size, whatever is in it, and formatting it, which
// reads it four times, no more than four times that.
func TestMemory(t *testing.T) {
	fill := func(head, part string) string { return head + strings.Repeat(part, (maxFile-len(head))/len(part)) }
	for name, text := range map[string]string{
		"commas":     fill("model: [", "1,"),
		"brackets":   fill("model: ", "[],"),
		"keys":       fill("model:\n", " a:\n"),
		"comments":   fill("", "#\n"),
		"call":       fill("model: ", "f(:,"),
		"calls":      fill("model: ", "f(:,[]{}) "),
		"plain":      fill("model: ", "x"),
		"blanks":     fill("model: ", " x"),
		"tabs":       fill("model:", "\t"),
		"quoted":     fill("model: \"", `\U0001F600`),
		"wide":       fill("model: ", "\U0001F600"),
		"expression": fill("model: {vocab_size: ", "1+"),
		"short":      fill("model:\n", "\n"),
	} {
		for times, f := range map[uint64]func([]byte){1: func(b []byte) { _, _ = Parse("n.yaml", b) }, 4: func(b []byte) { _, _ = Format(b) }} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			f([]byte(text))
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > times*64*uint64(len(text))+8<<20 {
				t.Errorf("%s: %d MiB allocated for %d KiB", name, n>>20, len(text)>>10)
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("%s took %v", name, d)
			}
		}
	}
}

// FuzzParse checks that no text panics, that every error has a place in the text, and that formatting keeps the meaning.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"../examples/specs/*.yaml", "../golden/errors/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil {
				f.Add(string(text))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<13 {
			return
		}
		s, err := Parse("m.yaml", []byte(text))
		if errs, ok := err.(spec.Errors); ok {
			for _, e := range errs {
				if e.Pos.Line > len(s.Source.Lines) || e.Pos.Line > 0 && (e.Pos.Col < 1 || e.Pos.Col > len([]rune(s.Source.Lines[e.Pos.Line-1]))+1) {
					t.Errorf("%v stands outside the text", e)
				}
			}
			_ = errs.Explain(s.Source)
		} else if err != nil {
			t.Fatalf("error of type %T: %v", err, err)
		}
		checkFormat(t, text)
	})
}

// FuzzExpr checks that expressions print as they parse.
func FuzzExpr(f *testing.F) {
	for _, text := range []string{"4 * hidden_size", "round_up(8 * d / 3, 256)", "causal & (window(4, block: 2) | global(1))", "warmup(5%) -> cosine(to: 0.1)",
		"[causal, causal & window(256)] * 4 + [x]", "adamw(lr: 1e-3, betas: [0.9, 0.95])", "-(1 - -2) / 3 - (4 - 5)", "a(b(c(d: -1.5GiB)))", "[[1], []]"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tree, fault := parseExpression(text)
		if fault != nil {
			if fault.off < 0 || fault.off > len(text) {
				t.Fatalf("%q: fault at byte %d", text, fault.off)
			}
			return
		}
		printed := tree.String()
		again, fault := parseExpression(printed)
		if fault != nil {
			if len(printed) > maxExpression { // spaces made it too long
				return
			}
			t.Fatalf("%q prints as %q: %v", text, printed, fault)
		}
		if again.String() != printed {
			t.Fatalf("%q prints as %q and then %q", text, printed, again)
		}
	})
}
