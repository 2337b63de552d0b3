package nvcc

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What the compilers write:
//
//	norm.cuh(3): error: identifier "x" is undefined               cicc, with the line, macros expanded, and a caret
//	norm.cu:1:10: fatal error: x.cuh: No such file or directory   the host compiler
//	ptxas /tmp/norm.ptx, line 41; error   : Unknown modifier      ptxas, about a line of PTX
//	ptxas error   : Entry function 'norm' uses too much …         ptxas, about a kernel
//	ptxas info    : (C7510) Potential Performance Loss: …         ptxas, a warning in all but name
//	nvcc fatal   : Unsupported gpu architecture 'compute_70'
var (
	ciccLine     = regexp.MustCompile(`^(\S.*?)\((\d+)\): (catastrophic error|internal error|error|warning)(?: #[\w-]+)?: (.*)$`)
	hostLine     = regexp.MustCompile(`^(\S.*?):(\d+):(?:(\d+):)? (fatal error|internal compiler error|error|warning): (.*)$`)
	ptxLine      = regexp.MustCompile(`^ptxas (.+), line (\d+); (fatal|error|warning)\s*: (.*)$`)
	programLine  = regexp.MustCompile(`^([\w+/.-]+):? (fatal error|fatal|error|warning)\s*: (.*)$`)
	lossLine     = regexp.MustCompile(`^ptxas info\s*: (?:\(C\d+\) )?(Potential Performance Loss: .*)$`)
	instanceLine = regexp.MustCompile(` at line \d+ of "?([^\s"]+\.cu)"?$`)
	entryQuoted  = regexp.MustCompile(`(?i)\b(?:function|kernel) '(\w+)'`)
)

// message is a line of a compiler's output that tells of a thing.
type message struct {
	Error
	warning bool
	ptx     int // the line of PTX that it is about, instead of File and Line
}

// messages reads a compiler's output.
func messages(out string) (list []message) {
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	for i, line := range lines {
		line = strings.TrimRight(line, "\r ")
		if m := ciccLine.FindStringSubmatch(line); m != nil {
			e := message{Error: Error{File: m[1], Line: number(m[2]), Text: m[4]}, warning: m[3] == "warning"}
			e.detail(lines[i+1:])
			list = append(list, e)
		} else if m := hostLine.FindStringSubmatch(line); m != nil {
			list = append(list, message{Error: Error{File: m[1], Line: number(m[2]), Col: number(m[3]), Text: m[5]}, warning: m[4] == "warning"})
		} else if m := ptxLine.FindStringSubmatch(line); m != nil {
			list = append(list, message{Error: Error{Text: "ptxas: " + m[4]}, warning: m[3] == "warning", ptx: number(m[2])})
		} else if m := lossLine.FindStringSubmatch(line); m != nil {
			list = append(list, message{Error: Error{Text: "ptxas: " + m[1]}, warning: true})
		} else if m := programLine.FindStringSubmatch(line); m != nil && m[3] != "Ptx assembly aborted due to errors" {
			list = append(list, message{Error: Error{Text: path.Base(m[1]) + ": " + m[3]}, warning: m[2] == "warning"})
		}
	}
	return list
}

// detail reads what cicc writes below a message: more of the text (as types of arguments), the line of source, a caret, and
// how it came to compile it.
func (m *message) detail(lines []string) {
	if n := slices.IndexFunc(lines, func(l string) bool { return !strings.HasPrefix(l, " ") }); n >= 0 {
		lines = lines[:n]
	}
	if caret := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "^" }); caret > 0 {
		for _, more := range lines[:caret-1] {
			m.Text += "; " + strings.TrimSpace(more)
		}
		m.Source, m.Col = lines[caret-1], strings.Index(lines[caret], "^")+1
	}
	for _, l := range lines {
		if from := instanceLine.FindStringSubmatch(l); from != nil {
			m.Unit = from[1]
		}
	}
}

// specLine is a comment at the head of a .cu file that says what it was made from: "// layernorm  attn_in  stories.yaml:3".
var specLine = regexp.MustCompile(`^//\s*\S.*\s{2,}(\S+:\d+(?::\d+)?)$`)

// specOf returns the places that the head of a .cu file names.
func specOf(text string) string {
	var all []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "//") {
			break
		}
		if m := specLine.FindStringSubmatch(line); m != nil {
			all = append(all, m[1])
		}
	}
	return strings.Join(all, ", ")
}

// complete adds to a message what the sources say: which of a group it is about, where that is known, the line itself, the
// column in it, the spec.
func (u *unit) complete(m message) *Error {
	e := m.Error
	if e.File != "" {
		e.File = filepath.ToSlash(filepath.Clean(e.File))
	}
	if name := entryQuoted.FindStringSubmatch(e.Text); name != nil {
		source, line := u.declaring(name[1])
		e.Unit = cmp.Or(e.Unit, source)
		if e.File == "" && source != "" {
			e.File, e.Line = source, line
		}
	}
	switch {
	case slices.Contains(u.sources, e.File):
		e.Unit = e.File
	case slices.Contains(u.sources, e.Unit):
	case len(u.sources) == 1:
		e.Unit = u.sources[0]
	default:
		e.Unit = u.name
	}
	e.Arch, e.Spec = u.arch, specOf(u.files[e.Unit])
	said := e.Source
	e.Source = u.line(e.File, e.Line)
	switch {
	case e.Source == "":
		e.Col = 0
	case said != "" && e.Col > 0:
		e.Col = column(e.Source, said, e.Col)
	}
	return &e
}

// line returns a line of a file of the job or of the toolkit, "" where there is none.
func (u *unit) line(file string, n int) string {
	text, ours := u.files[file]
	if !ours && filepath.IsAbs(file) {
		data, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		text = string(data)
	}
	lines := strings.Split(text, "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return strings.TrimRight(lines[n-1], "\r \t")
}

// column finds in a line of source the place of a column in that line as cicc prints it, with macros expanded and another
// indentation: what stands behind it is the same. It returns 0 where that fails.
func column(source, said string, col int) int {
	rest := strings.TrimRight(said[min(col-1, len(said)):], "\r \t")
	if rest != "" && strings.HasSuffix(source, rest) {
		return len(source) - len(rest) + 1
	}
	front := strings.TrimLeft(said[:min(col-1, len(said))], " \t")
	if indent := len(source) - len(strings.TrimLeft(source, " \t")); strings.HasPrefix(source[indent:], front) {
		return indent + len(front) + 1
	}
	return 0
}

// failure makes the errors of a compilation that failed from what was said, or from all of it where nothing in it is an
// error.
func (u *unit) failure(out string, err error) error {
	if refused := u.host.refused(out); refused != nil {
		return refused
	}
	var list Errors
	for _, m := range messages(out) {
		if !m.warning {
			list = append(list, u.complete(m))
		}
	}
	if len(list) == 0 {
		text := strings.TrimSpace(out)
		if lines := strings.Split(text, "\n"); len(lines) > 20 {
			text = "…\n" + strings.Join(lines[len(lines)-20:], "\n")
		}
		list = Errors{u.complete(message{Error: Error{File: u.sources[0], Text: strings.TrimSuffix(fmt.Sprintf("nvcc failed (%v):\n%s", err, text), ":\n")}})}
	}
	return list
}

// warnings makes the warnings of a compilation that went well.
func (u *unit) warnings(out string) (list Errors) {
	for _, m := range messages(out) {
		if m.warning {
			list = append(list, u.complete(m))
		}
	}
	return list
}
