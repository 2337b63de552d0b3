package parser

import (
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/spec"
)

// A file in golden/errors is a spec with comments that say what is wrong with it:
//
//	hidden_sise: 64   # ERROR "unknown key ..." COL 3
//
// The text is the whole message, after COL stands the column on the line of the comment, and AT 7:3 instead of COL names
// another line, for lines that can have no comment. NOTE is a note of an error.
var marker = regexp.MustCompile(`(ERROR|NOTE) ("(?:[^"\\]|\\.)*") (?:COL (\d+)|AT (\d+):(\d+))`)

// expected reads the markers of a file.
func expected(t *testing.T, text string) (want []string) {
	for i, line := range strings.Split(text, "\n") {
		for _, m := range marker.FindAllStringSubmatch(line, -1) {
			message, err := strconv.Unquote(m[2])
			if err != nil {
				t.Fatalf("line %d: %v", i+1, err)
			}
			at := fmt.Sprintf("%d:%s", i+1, m[3])
			if m[3] == "" {
				at = m[4] + ":" + m[5]
			}
			want = append(want, fmt.Sprintf("%s %s %s", m[1], at, message))
		}
	}
	slices.Sort(want)
	return want
}

// found lists errors as expected does.
func found(errs spec.Errors) (got []string) {
	for _, e := range errs {
		message := strings.TrimPrefix((&spec.Error{Text: e.Text, Suggestion: e.Suggestion}).Error(), ": ")
		got = append(got, fmt.Sprintf("ERROR %d:%d %s", e.Pos.Line, e.Pos.Col, message))
		for _, n := range e.Notes {
			got = append(got, fmt.Sprintf("NOTE %d:%d %s", n.Pos.Line, n.Pos.Col, n.Text))
		}
	}
	slices.Sort(got)
	return slices.Compact(got)
}

// TestErrors checks every error's text and place, and that each rule and each message of the parser has an example.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("../golden/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no error tests: %v", err)
	}
	var messages []string
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := Load(file)
			errs, ok := err.(spec.Errors)
			if !ok {
				t.Fatalf("got %v, want errors", err)
			}
			want := expected(t, string(text))
			if diff := cmp.Diff(slices.Compact(want), found(errs)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			for _, e := range errs {
				messages = append(messages, e.Text)
				for _, n := range e.Notes {
					messages = append(messages, n.Text)
				}
				if e.Pos.File != file || s.Source.Snippet(e.Pos) == "" {
					t.Errorf("%s points to no line of the file", e)
				}
			}
		})
	}
	for text := range unreadable {
		_, err := Parse("x.yaml", []byte(text))
		messages = append(messages, err.(spec.Errors)[0].Text)
	}
	for _, name := range spec.Rules() {
		if name == "finite" { // the parser makes finite numbers only; tested in package spec
			continue
		}
		if _, err := os.Stat("../golden/errors/" + name + ".yaml"); err != nil {
			t.Errorf("rule %s has no example: %v", name, err)
		}
	}
	for place, format := range formats(t) {
		if format == "%s must be a finite number" {
			continue
		}
		re := regexp.MustCompile("^" + formatPattern(format))
		if !slices.ContainsFunc(messages, func(m string) bool { return re.MatchString(m) || strings.Contains(m, format) || inner(re, m) }) {
			t.Errorf("%s: no example has the message %q", place, format)
		}
	}
}

// inner says whether a part of a message, after an equation or the name of a key, matches.
func inner(re *regexp.Regexp, message string) bool {
	for i := range message {
		if message[i] == ' ' && re.MatchString(message[i+1:]) {
			return true
		}
	}
	return false
}

var verb = regexp.MustCompile(`%[#0-9]*[a-zA-Z]`)

// formatPattern is a regular expression for what a format prints.
func formatPattern(format string) string {
	var b strings.Builder
	last := 0
	for _, m := range verb.FindAllStringIndex(format, -1) {
		b.WriteString(regexp.QuoteMeta(strings.ReplaceAll(format[last:m[0]], "%%", "%")) + "(?s:.*)")
		last = m[1]
	}
	return b.String() + regexp.QuoteMeta(strings.ReplaceAll(format[last:], "%%", "%"))
}

// formats lists the formats of all messages, by place: the texts in calls of fail and at, in fields named Text, in what
// the functions of number.go return, in syntaxFaults and in yamlWords.
func formats(t *testing.T) map[string]string {
	own := []string{"../spec/check.go"}
	for _, f := range []string{"call", "decode", "evaluate", "grammar", "number", "parser", "value", "yaml"} {
		own = append(own, f+".go")
	}
	list := map[string]string{}
	for _, file := range own {
		fset := token.NewFileSet()
		tree, err := goparser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		add := func(e ast.Expr) {
			if call, ok := e.(*ast.CallExpr); ok && len(call.Args) > 0 { // Sprintf
				e = call.Args[0]
			}
			if b, ok := e.(*ast.BinaryExpr); ok {
				e = b.X
			}
			if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				if strings.ContainsAny(strings.NewReplacer("%s", "", "%q", "").Replace(text), "abcdefghijklmnopqrstuvwxyz") {
					list[fset.Position(e.Pos()).String()] = text
				}
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				name := ""
				switch f := n.Fun.(type) {
				case *ast.SelectorExpr:
					name = f.Sel.Name
				case *ast.Ident:
					name = f.Name
				}
				if name == "fail" || name == "at" {
					for _, a := range n.Args[:min(2, len(n.Args))] {
						if lit, ok := a.(*ast.BasicLit); ok && strings.ContainsAny(lit.Value, " ") {
							add(a)
						}
					}
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Text" {
					add(n.Value)
				}
			case *ast.ReturnStmt:
				if file == "number.go" && len(n.Results) == 2 {
					add(n.Results[1])
				}
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "syntaxFault" || n.Type == nil && file == "yaml.go" {
					add(n.Elts[len(n.Elts)-1])
				}
			}
			return true
		})
	}
	return list
}

// unreadable texts, with the place and a part of the error of each.
var unreadable = map[string]string{
	"":                             "x.yaml: the file is empty",
	"# only a comment\n":           "x.yaml: the file is empty",
	"model: {\xff}\n":              "x.yaml:1:9: byte 0xff is not UTF-8",
	"model:\n  \x00a: 1\n":         "x.yaml:2:3: control character U+0000",
	"model:\n  é\x07: 1\n":         "x.yaml:2:4: control character U+0007",
	"model: {}\rtrain: {}\n":       "x.yaml:1:10: line break U+000D",
	"model: {}\u2028train: {}\n":   "x.yaml:1:10: line break U+2028",
	"model: \U000F003A\n":          "x.yaml:1:8: private-use character U+F003A",
	strings.Repeat(" ", maxFile+1): "x.yaml: the file has more than 1048576 bytes",
	"model: [" + strings.Repeat("1,", maxNodes) + "]": "x.yaml: the file has more than 50000 values and lines",
}

func TestUnreadable(t *testing.T) {
	for text, want := range unreadable {
		s, err := Parse("x.yaml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %s", text, err, want)
			continue
		}
		if _, ok := err.(spec.Errors); !ok || s.Source == nil {
			t.Errorf("%.40q: error of type %T, source %v", text, err, s.Source)
		}
	}
}

// TestExplain shows whole reports as people see them.
func TestExplain(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"model:\n  hidden_size: 512\n  num_layers: 2\n  num_heads: 7\n  vocab_size: 1000\n", `m.yaml:4:14: head_dim (by default): hidden_size / num_heads = 512 / 7 is not a whole number
    4 |   num_heads: 7
      |              ^
m.yaml:2:16: note: head_dim is computed from this too
    2 |   hidden_size: 512
      |                ^
`},
		{"model:\n  hidden_size: 64\n  n_layer: 2\n\thidden_size: 65\n", `m.yaml:4:1: indent with spaces, not tabs
    4 | 	hidden_size: 65
      | ^
`},
		{"model: {hidden_size: 64, num_layers: 1, num_heads: 4, vocab_size: 300, hidden_size: 65, norm: \"rmsnrom\"}\n", `m.yaml:1:72: hidden_size is given twice
    1 | model: {hidden_size: 64, num_layers: 1, num_heads: 4, vocab_size: 300, hidden_size: 65, norm: "rmsnrom"}
      |                                                                        ^
m.yaml:1:9: note: it is first given here
    1 | model: {hidden_size: 64, num_layers: 1, num_heads: 4, vocab_size: 300, hidden_size: 65, norm: "rmsnrom"}
      |         ^
m.yaml:1:96: unknown norm "rmsnrom"; it is layernorm or rmsnorm; did you mean "rmsnorm"?
    1 | model: {hidden_size: 64, num_layers: 1, num_heads: 4, vocab_size: 300, hidden_size: 65, norm: "rmsnrom"}
      |                                                                                                ^
`},
		{"# héé\nmodel: {hidden_size: \"6\\u0034 * é\", num_layers: 1, num_heads: 4, vocab_size: 300}\n", `m.yaml:2:33: unexpected "é" in an expression
    2 | model: {hidden_size: "6\u0034 * é", num_layers: 1, num_heads: 4, vocab_size: 300}
      |                                 ^
`},
	} {
		s, err := Parse("m.yaml", []byte(c.text))
		errs, ok := err.(spec.Errors)
		if !ok {
			t.Errorf("%s: got %v", c.text, err)
			continue
		}
		if diff := cmp.Diff(c.want, errs.Explain(s.Source)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestManyErrors checks that a report stops after ten.
func TestManyErrors(t *testing.T) {
	text := "model:\n"
	for i := range 15 {
		text += fmt.Sprintf("  zebra%d: 1\n", i)
	}
	s, err := Parse("m.yaml", []byte(text))
	errs := err.(spec.Errors)
	if len(errs) < 15 {
		t.Fatalf("%d errors, want all", len(errs))
	}
	for _, report := range []string{errs.Error(), errs.Explain(s.Source)} {
		if n := strings.Count(report, "unknown key") + strings.Count(report, "missing"); n != 10 || !strings.Contains(report, fmt.Sprintf("and %d more errors", len(errs)-10)) {
			t.Errorf("%d errors shown:\n%s", n, report)
		}
	}
}
