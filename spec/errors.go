package spec

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Pos is a place in a spec file. Lines and columns count from 1, columns in characters.
type Pos struct {
	File string
	Line int
	Col  int
}

// IsValid says whether p names a place.
func (p Pos) IsValid() bool { return p.Line > 0 }

func (p Pos) String() string {
	if !p.IsValid() {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Source is the text of a spec and where each of its keys stands.
type Source struct {
	File  string
	Lines []string
	// Pos holds the place of each value by its path, as model.norm, model.norm.eps or model.attention[3]; what the spec
	// leaves to its preset or to a default is absent.
	Pos map[string]Pos
}

// At returns the place of the value at path, or of the nearest part of the spec around it that the text has.
func (s *Source) At(path string) Pos {
	if s == nil {
		return Pos{}
	}
	for path != "" {
		if p, ok := s.Pos[path]; ok {
			return p
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return Pos{File: s.File}
}

// Note points to a second place that matters to an error.
type Note struct {
	Pos  Pos
	Text string
}

// Error is one thing wrong with a spec.
type Error struct {
	Pos        Pos
	Text       string
	Suggestion string // a word the user may have meant, or ""
	Notes      []Note
}

func (e *Error) Error() string {
	text := e.Text
	if e.Suggestion != "" {
		text += fmt.Sprintf("; did you mean %q?", e.Suggestion)
	}
	if e.Pos.File == "" {
		return text
	}
	return e.Pos.String() + ": " + text
}

// maxErrors is how many errors are shown of a list.
const maxErrors = 10

// Errors is everything wrong with a spec, in the order of the text.
type Errors []*Error

// Sort orders the errors by place and drops repeats.
func (l Errors) Sort() Errors {
	slices.SortStableFunc(l, func(a, b *Error) int {
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Col - b.Pos.Col
	})
	return slices.CompactFunc(l, func(a, b *Error) bool { return a.Pos == b.Pos && a.Text == b.Text })
}

// Err returns l as an error, nil when it is empty.
func (l Errors) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l.Sort()
}

// Error lists the errors a line each, at most ten.
func (l Errors) Error() string {
	var b strings.Builder
	for i, e := range l {
		if i == maxErrors {
			fmt.Fprintf(&b, "and %d more errors\n", len(l)-i)
			break
		}
		b.WriteString(e.Error())
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// Explain writes the errors for people: each with its source line and a caret under the place, and its notes.
func (l Errors) Explain(src *Source) string {
	var b strings.Builder
	for i, e := range l {
		if i == maxErrors {
			fmt.Fprintf(&b, "and %d more errors\n", len(l)-i)
			break
		}
		b.WriteString(e.Error() + "\n")
		b.WriteString(src.Snippet(e.Pos))
		for _, n := range e.Notes {
			fmt.Fprintf(&b, "%s: note: %s\n", n.Pos, n.Text)
			b.WriteString(src.Snippet(n.Pos))
		}
	}
	return b.String()
}

// Snippet returns the source line at p with a caret under its column, or "" where there is no such line.
func (s *Source) Snippet(p Pos) string {
	if s == nil || p.Line < 1 || p.Line > len(s.Lines) {
		return ""
	}
	line := s.Lines[p.Line-1]
	if utf8.RuneCountInString(line) > 200 {
		line = string([]rune(line)[:200]) + "…"
	}
	var pad strings.Builder
	for i, r := range []rune(line) {
		if i >= p.Col-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		pad.WriteRune(r)
	}
	return fmt.Sprintf("%5d | %s\n      | %s^\n", p.Line, line, pad.String())
}
