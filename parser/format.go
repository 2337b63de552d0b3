package parser

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// Format lays a spec out in the canonical way: sections and keys in the order of the language, two spaces of indentation,
// expressions with single spaces, quotes where other YAML tools need them. Comments stay with their keys. The result means
// the same, and formatting it again changes nothing. A text that is not YAML, or whose comments have no place in the
// new layout, is an error.
func Format(text []byte) ([]byte, error) {
	out := string(text)
	for range 4 { // a comment may take a second round to settle
		next, err := formatOnce(out)
		if err != nil {
			return nil, err
		}
		if next == out {
			return []byte(out), sameComments(string(text), out)
		}
		out = next
	}
	return nil, errors.New("the comments of this spec have no stable place; move those inside [...], {...} or multi-line texts to lines of their own")
}

func formatOnce(text string) (string, error) {
	text, tail := cutTail(text)
	doc, errs := readYAML("", []byte(text))
	if errs != nil {
		return "", errs.Err()
	}
	f := &formatter{}
	f.comments(0, doc.node.HeadComment)
	if doc.node.HeadComment != "" {
		f.b.WriteByte('\n')
	}
	f.block(doc.root, reflect.TypeFor[spec.Spec](), 0)
	f.comments(0, doc.node.FootComment)
	out := strings.TrimRight(f.b.String(), "\n") + "\n"
	if tail != "" {
		out += "\n" + tail
	}
	return out, nil
}

// cutTail splits off the comments that end a text and stand at the margin: they are about the whole, and stay last.
func cutTail(text string) (head, tail string) {
	lines := strings.Split(strings.TrimRight(text, " \t\r\n"), "\n")
	n := len(lines)
	for n > 0 && (strings.HasPrefix(lines[n-1], "#") || strings.TrimSpace(lines[n-1]) == "") {
		n--
	}
	var b strings.Builder
	for _, line := range lines[n:] {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return strings.Join(lines[:n], "\n") + "\n", b.String()
}

// sameComments checks that no comment got lost.
func sameComments(before, after string) error {
	collect := func(text string) (all []string) {
		doc, errs := readYAML("", []byte(text))
		if errs != nil {
			return nil
		}
		var walk func(n *yaml.Node)
		walk = func(n *yaml.Node) {
			for _, c := range []string{n.HeadComment, n.LineComment, n.FootComment} {
				for line := range strings.Lines(c) {
					if line = strings.TrimSpace(line); line != "" {
						all = append(all, line)
					}
				}
			}
			for _, c := range n.Content {
				walk(c)
			}
		}
		walk(doc.node)
		slices.Sort(all)
		return all
	}
	if a, b := collect(before), collect(after); !slices.Equal(a, b) {
		return fmt.Errorf("a comment would get lost in the canonical layout; move those inside [...], {...} or multi-line texts to lines of their own")
	}
	return nil
}

type formatter struct{ b strings.Builder }

func (f *formatter) indent(depth int) { f.b.WriteString(strings.Repeat("  ", depth)) }

// comments writes whole-line comments.
func (f *formatter) comments(depth int, texts ...string) {
	for _, text := range texts {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line == "" {
				f.b.WriteByte('\n')
				continue
			}
			f.indent(depth)
			f.b.WriteString(line + "\n")
		}
	}
}

// block writes a mapping or a list in block style, or a scalar, from the start of a line.
func (f *formatter) block(n *yaml.Node, t reflect.Type, depth int) {
	f.comments(depth, n.HeadComment)
	switch {
	case n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle == 0:
		for _, e := range ordered(n, t) {
			f.comments(depth, e.key.HeadComment)
			f.indent(depth)
			f.b.WriteString(scalar(e.key.Value, false) + ":")
			f.value(e.value, e.t, depth, e.key.LineComment)
			f.foot(depth, e.key.FootComment, e.value.FootComment)
		}
	case n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle == 0:
		for _, item := range n.Content {
			f.comments(depth, item.HeadComment)
			f.indent(depth)
			f.b.WriteString("-")
			f.value(item, elementType(t), depth, "")
			f.foot(depth, item.FootComment)
		}
	default:
		f.indent(depth)
		f.b.WriteString(flow(n, t, false))
		f.lineComment(n.LineComment)
		f.b.WriteByte('\n')
	}
}

// foot writes the comments that end an entry, with a blank line to keep them from what follows.
func (f *formatter) foot(depth int, texts ...string) {
	for _, text := range texts {
		if text != "" {
			f.comments(depth, text)
			f.b.WriteByte('\n')
		}
	}
}

// value writes what follows a key or a dash: on the same line, or as a block on the next ones.
func (f *formatter) value(n *yaml.Node, t reflect.Type, depth int, comment string) {
	isBlock := n.Kind != yaml.ScalarNode && n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0
	if isBlock {
		f.lineComment(comment, n.LineComment)
		f.b.WriteByte('\n')
		f.block(n, t, depth+1)
		return
	}
	f.b.WriteString(" " + flow(n, t, false))
	f.lineComment(comment, n.LineComment)
	f.b.WriteByte('\n')
}

func (f *formatter) lineComment(texts ...string) {
	for _, text := range texts {
		if text != "" {
			f.b.WriteString(" " + strings.ReplaceAll(text, "\n", " "))
		}
	}
}

// flow writes a value on one line.
func flow(n *yaml.Node, t reflect.Type, inside bool) string {
	switch n.Kind {
	case yaml.MappingNode:
		parts := []string{}
		for _, e := range ordered(n, t) {
			parts = append(parts, scalar(e.key.Value, true)+": "+flow(e.value, e.t, true))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case yaml.SequenceNode:
		parts := []string{}
		for _, item := range n.Content {
			parts = append(parts, flow(item, elementType(t), true))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if isNull(n) {
		return "null"
	}
	text := n.Value
	if isExpression(t, text) {
		if tm, fault := parseExpression(text); fault == nil {
			text = tm.String()
		}
	}
	return scalar(text, inside)
}

// keyed is one entry of a mapping with the type of its value, nil where the language has no such key.
type keyed struct {
	key, value *yaml.Node
	t          reflect.Type
	rank       int
}

// ordered lists the entries of a mapping in the order of the fields of t; unknown keys come last.
func ordered(n *yaml.Node, t reflect.Type) []keyed {
	var list []keyed
	for i := 0; i+1 < len(n.Content); i += 2 {
		e := keyed{key: n.Content[i], value: n.Content[i+1], rank: 1 << 20}
		if t != nil && t.Kind() == reflect.Struct {
			for j := range t.NumField() {
				if t.Field(j).Tag.Get("yaml") == e.key.Value {
					e.t, e.rank = t.Field(j).Type, j
				}
			}
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b keyed) int { return a.rank - b.rank })
	return list
}

func elementType(t reflect.Type) reflect.Type {
	if t != nil && t.Kind() == reflect.Slice {
		return t.Elem()
	}
	if t == reflect.TypeFor[spec.Corpus]() || t == reflect.TypeFor[spec.EvalSplit]() {
		return reflect.TypeFor[string]()
	}
	return nil
}

// isExpression says whether the text of a value of type t is read as an expression.
func isExpression(t reflect.Type, text string) bool {
	switch {
	case t == nil, t == reflect.TypeFor[spec.EvalSplit](), t == reflect.TypeFor[[]string](), t.Kind() == reflect.String, t.Kind() == reflect.Bool:
		return false
	case t == reflect.TypeFor[spec.Corpus]():
		return isCall(text, "stories")
	case isMapping(t): // a bare value
		for i := range t.NumField() {
			if _, bare := t.Field(i).Tag.Lookup("bare"); bare {
				return isExpression(t.Field(i).Type, text)
			}
		}
		return false
	}
	return true
}

// scalar writes a text so that every YAML reader takes it for this text: plain where it can be, else in double quotes.
func scalar(text string, inside bool) string {
	if isPlain(text, inside) {
		return text
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7F || !unicode.IsPrint(r) && r != ' ':
			b.WriteString(escape(r))
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func escape(r rune) string {
	if r > 0xFFFF {
		return fmt.Sprintf(`\U%08X`, r)
	}
	return fmt.Sprintf(`\u%04X`, r)
}

// isPlain says whether a text can stand without quotes, inside [...] or {...} or not.
func isPlain(text string, inside bool) bool {
	if text == "" || text != strings.TrimSpace(text) || strings.HasPrefix(text, "---") || strings.HasPrefix(text, "...") ||
		slices.Contains([]string{"null", "Null", "NULL", "~", "<<"}, text) {
		return false
	}
	if strings.ContainsRune("?:,[]{}#&*!|>'\"%@`=", rune(text[0])) {
		return false
	}
	if text[0] == '-' {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return false
		}
	}
	if strings.Contains(text, ": ") || strings.Contains(text, " #") || strings.HasSuffix(text, ":") || inside && strings.ContainsAny(text, ",[]{}:#") {
		return false
	}
	for _, r := range text {
		if !unicode.IsPrint(r) || unicode.IsSpace(r) && r != ' ' {
			return false
		}
	}
	return true
}
