package nvcc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that nvcc, the host compiler or ptxas says about a file.
type Error struct {
	File   string // as the job names it, or a header of the toolkit's; "" where the message names none
	Line   int    // from 1; 0 where it is not known
	Col    int    // from 1, in bytes; 0 where it is not known
	Text   string
	Source string // the line
	Unit   string // the .cu file that was compiled
	Arch   string // the first architecture that it was said for
	Spec   string // the lines of the spec that the .cu file names, "" where it names none
}

func (e *Error) Error() string {
	place := e.File
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, e.Line)
		if e.Col > 0 {
			place = fmt.Sprintf("%s:%d", place, e.Col)
		}
	}
	if place == "" {
		return e.Text
	}
	return place + ": " + e.Text
}

// Explain writes the error with its line, a caret below its column, and where the file comes from.
func (e *Error) Explain() string {
	var b strings.Builder
	b.WriteString(e.Error() + "\n")
	if e.Source != "" {
		fmt.Fprintf(&b, "%5d | %s\n", e.Line, e.Source)
		if e.Col > 0 {
			pad := []rune(e.Source[:min(e.Col-1, len(e.Source))])
			for i, r := range pad {
				if r != '\t' {
					pad[i] = ' '
				}
			}
			fmt.Fprintf(&b, "      | %s^\n", string(pad))
		}
	}
	unit := e.Unit
	if e.Arch != "" {
		unit += " for " + e.Arch
	}
	switch {
	case e.Spec != "":
		fmt.Fprintf(&b, "%s: note: this line became %s\n", e.Spec, unit)
	case e.Unit != e.File && e.Unit != "":
		fmt.Fprintf(&b, "%s: note: in the compilation of %s\n", e.Unit, unit)
	}
	return b.String()
}

// maxErrors is how many errors are shown of a list.
const maxErrors = 10

// Errors is all that is wrong with the files of a job.
type Errors []*Error

// Error explains the errors, at most ten.
func (l Errors) Error() string {
	var b strings.Builder
	for i, e := range l {
		if i == maxErrors {
			fmt.Fprintf(&b, "and %d more errors\n", len(l)-i)
			break
		}
		b.WriteString(e.Explain())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// sorted orders messages by place, and keeps the first of those that a header causes in many files.
func (l Errors) sorted() Errors {
	slices.SortStableFunc(l, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Text, b.Text),
			cmp.Compare(a.Unit, b.Unit))
	})
	return slices.CompactFunc(l, func(a, b *Error) bool {
		return a.File == b.File && a.Line == b.Line && a.Col == b.Col && a.Text == b.Text
	})
}
