package parser

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// Limits of a spec file, so that reading one takes memory and time in proportion to its size.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 64      // of nested mappings and lists
	maxNodes = 50_000  // scalars, lists and mappings, counted from above before parsing
)

// document is a YAML file: its tree and its text, so that every place in a scalar has a line and a column.
type document struct {
	src  *spec.Source
	node *yaml.Node // the document, which has comments of its own
	root *yaml.Node
}

// readYAML parses one YAML document. The errors have places in the text.
func readYAML(file string, text []byte) (*document, spec.Errors) {
	d := &document{src: &spec.Source{File: file, Pos: map[string]spec.Pos{}}}
	if len(text) > maxFile {
		return d, spec.Errors{{Pos: spec.Pos{File: file}, Text: fmt.Sprintf("the file has more than %d bytes", maxFile)}}
	}
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	if errs := checkText(file, text); errs != nil {
		d.src.Lines = splitLines(strings.ToValidUTF8(string(text), "\uFFFD"))
		return d, errs
	}
	d.src.Lines = splitLines(string(text))
	shielded := shield(string(text))
	node, err := decodeYAML(shielded)
	if err != nil {
		return d, spec.Errors{d.syntaxError(shielded, err)}
	}
	if errs := d.checkTree(node); errs != nil {
		return d, errs
	}
	d.node, d.root = node, node.Content[0]
	return d, nil
}

var errDocuments = errors.New("several documents")

// decodeYAML parses the only document of a text.
func decodeYAML(text string) (*yaml.Node, error) {
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("yaml: line %d: %w", more.Line, errDocuments)
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, io.EOF
	}
	return &doc, nil
}

// splitLines splits a text into lines without their ends.
func splitLines(text string) []string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return lines
}

// checkText finds what makes a text no spec before its YAML is looked at: bytes that are not UTF-8, control characters,
// and more structure than any model needs.
func checkText(file string, text []byte) spec.Errors {
	line, col, marks := 1, 1, 0
	comment, blank := false, true
	at := func(format string, args ...any) spec.Errors {
		return spec.Errors{{Pos: spec.Pos{File: file, Line: line, Col: col}, Text: fmt.Sprintf(format, args...)}}
	}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return at("byte %#02x is not UTF-8; save the file as UTF-8", text[i])
		case r == '\r' && (i+1 == len(text) || text[i+1] != '\n'), r == 0x85, r == 0x2028, r == 0x2029:
			return at("line break %U is not allowed; end lines with a newline", r)
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7F && r < 0xA0, r == 0xFEFF, r == 0xFFFE, r == 0xFFFF:
			return at("control character %U is not allowed", r)
		case r >= shieldBase && r < shieldBase+0x80:
			return at("private-use character %U is not allowed", r)
		}
		i += n
		if r == '#' && blank {
			comment = true
		}
		blank = blank && (r == ' ' || r == '\t')
		// Each value or key but the first comes after one of these, so that their number bounds the tree's size.
		if r == '\n' || !comment && strings.ContainsRune(",[]{}:?-", r) {
			marks++
		}
		col++
		if r == '\n' {
			line, col, comment, blank = line+1, 1, false, true
		}
	}
	if marks > maxNodes {
		return spec.Errors{{Pos: spec.Pos{File: file}, Text: fmt.Sprintf("the file has more than %d values and lines", maxNodes)}}
	}
	return nil
}

// shieldBase is where the characters of a call hide from YAML: in a private-use plane, one for one, so that columns stay.
const shieldBase = 0xF0000

// shield hides the punctuation between the parentheses of a call, so that norm: rmsnorm(eps: 1e-5) is a plain scalar.
func shield(text string) string {
	if !strings.Contains(text, "(") {
		return text
	}
	rs := []rune(text)
	for i := 0; i < len(rs); i++ {
		switch {
		case startsComment(rs, i):
			for i < len(rs) && rs[i] != '\n' {
				i++
			}
		case rs[i] == '(':
			end := closing(rs, i)
			for ; i < end; i++ {
				if strings.ContainsRune(":,[]{}", rs[i]) {
					rs[i] += shieldBase
				}
			}
		}
	}
	return string(rs)
}

// startsComment says whether a comment starts at rs[i].
func startsComment(rs []rune, i int) bool {
	return rs[i] == '#' && (i == 0 || rs[i-1] == ' ' || rs[i-1] == '\t' || rs[i-1] == '\n')
}

// closing returns where the parenthesis at rs[i] closes on its line, or i where it does not or where quotes make it unclear.
func closing(rs []rune, i int) int {
	depth := 0
	for j := i; j < len(rs); j++ {
		switch c := rs[j]; {
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return j
			}
		case strings.ContainsRune("\n\"'\\", c) || startsComment(rs, j):
			return i
		}
	}
	return i
}

// unshield undoes shield.
func unshield(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= shieldBase && r < shieldBase+0x80 {
			return r - shieldBase
		}
		return r
	}, s)
}

// checkTree undoes the shielding, and refuses the parts of YAML that a spec has no use for.
func (d *document) checkTree(root *yaml.Node) (errs spec.Errors) {
	fail := func(n *yaml.Node, text string) {
		errs = append(errs, &spec.Error{Pos: d.at(n), Text: text})
	}
	var walk func(n *yaml.Node, depth int)
	walk = func(n *yaml.Node, depth int) {
		n.Value, n.HeadComment, n.LineComment, n.FootComment =
			unshield(n.Value), unshield(n.HeadComment), unshield(n.LineComment), unshield(n.FootComment)
		switch {
		case depth > maxDepth:
			fail(n, fmt.Sprintf("values are nested more than %d deep", maxDepth))
			return
		case n.Kind == yaml.AliasNode:
			fail(n, "aliases (*name) are not allowed; write the value again, or quote a text that starts with *")
			return
		case n.Anchor != "":
			fail(n, "anchors (&name) are not allowed; write the value, or quote a text that starts with &")
		case n.Style&yaml.TaggedStyle != 0:
			fail(n, "tags (!name) are not allowed; write the value, or quote a text that starts with !")
		}
		for _, c := range n.Content {
			walk(c, depth+1)
		}
	}
	walk(root, 0)
	return errs
}

// at returns the place where a node starts. YAML has nodes without a text behind the last line.
func (d *document) at(n *yaml.Node) spec.Pos {
	line := min(max(1, n.Line), len(d.src.Lines))
	col := min(max(1, n.Column), utf8.RuneCountInString(d.src.Lines[line-1])+1)
	return spec.Pos{File: d.src.File, Line: line, Col: col}
}

// within returns the place of byte off of a scalar's value. Spaces apart, the characters of a value and those of its
// text follow one another in the same order in every YAML style, so both are walked side by side.
func (d *document) within(n *yaml.Node, off int) spec.Pos {
	skip := 0 // characters before off
	for _, r := range n.Value[:min(off, len(n.Value))] {
		if !unicode.IsSpace(r) {
			skip++
		}
	}
	line, col := n.Line, n.Column
	end := d.at(n) // after the last character seen
	style := n.Style &^ yaml.FlowStyle
	switch style {
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		col++
		end.Col++
	case yaml.LiteralStyle, yaml.FoldedStyle:
		line, col = line+1, 1
	}
	for line <= len(d.src.Lines) {
		rs := []rune(d.src.Lines[line-1])
		for col <= len(rs) {
			r, width := rs[col-1], 1
			if style == yaml.DoubleQuotedStyle && r == '\\' {
				r, width = unescape(rs[col-1:])
			} else if style == yaml.SingleQuotedStyle && r == '\'' {
				width = 2
			}
			if !unicode.IsSpace(r) {
				if skip == 0 {
					if off >= len(n.Value) {
						return end
					}
					return spec.Pos{File: d.src.File, Line: line, Col: col}
				}
				skip--
				end = spec.Pos{File: d.src.File, Line: line, Col: col + width}
				if skip == 0 && off >= len(n.Value) {
					return end
				}
			}
			col += width
		}
		line, col = line+1, 1
	}
	return end
}

// unescape returns the character that a double-quoted escape stands for, a space for any kind of blank, and its width.
func unescape(rs []rune) (rune, int) {
	if len(rs) < 2 {
		return ' ', 1 // the escaped end of a line
	}
	digits := map[rune]int{'x': 2, 'u': 4, 'U': 8}[rs[1]]
	if digits > 0 && len(rs) >= 2+digits {
		v, err := strconv.ParseUint(string(rs[2:2+digits]), 16, 32)
		if err == nil {
			return rune(v), 2 + digits
		}
	}
	if strings.ContainsRune("tnrvfN_LP \t", rs[1]) {
		return ' ', 2
	}
	return rs[1], 2
}

var yamlMessage = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// yamlWords says in a user's words what the YAML parser means.
var yamlWords = []struct{ has, text string }{
	{"mapping values are not allowed", "no ':' can stand here: text that has ': ' needs quotes, or the line above lacks its ':'"},
	{"cannot start any token", "a value cannot start with this character; put it in quotes, and indent with spaces, not tabs"},
	{"unknown anchor", "aliases (*name) are not allowed; write the value again, or quote a text that starts with *"},
	{"did not find expected alphabetic or numeric", "a value cannot start with * or &, and nothing can follow a list; put the whole value in quotes, as \"*.txt\" or \"[a, b] * 4\""},
	{"did not find expected ',' or ']'", "this list is not closed, or a ',' is missing in it"},
	{"did not find expected ',' or '}'", "this mapping is not closed, or a ',' is missing in it"},
	{"did not find expected key", "this fits no mapping around it; check the indentation, and put a value that starts with '[' or a quote in quotes as a whole"},
	{"could not find expected ':'", "a key needs a ':' after it"},
	{"did not find expected '-' indicator", "this fits no list around it; check the indentation"},
	{"found unexpected end of stream", "a quote is opened and never closed"},
	{"found a tab character", "indent with spaces, not tabs"},
	{"exceeded max depth", fmt.Sprintf("values are nested more than %d deep", maxDepth)},
	{errDocuments.Error(), "a second YAML document; a spec is one document"},
}

// syntaxError finds the place of a YAML syntax error, of which the YAML parser tells the line at best: the shortest
// beginning of the text that already has the error ends there.
func (d *document) syntaxError(text string, err error) *spec.Error {
	if errors.Is(err, io.EOF) {
		return &spec.Error{Pos: spec.Pos{File: d.src.File}, Text: "the file is empty; a spec needs a model section"}
	}
	m := yamlMessage.FindStringSubmatch(err.Error())
	if m == nil {
		m = []string{"", "", err.Error()}
	}
	fails := func(t string) bool {
		_, err := decodeYAML(t)
		if err == nil {
			return false
		}
		f := yamlMessage.FindStringSubmatch(err.Error())
		return f != nil && f[2] == m[2]
	}
	p := spec.Pos{File: d.src.File, Line: 1, Col: 1}
	if n, err := strconv.Atoi(m[1]); err == nil {
		p.Line = min(max(1, n), len(d.src.Lines))
	}
	lines := strings.SplitAfter(text, "\n")
	if len(text) <= 64<<10 { // else the search takes long
		p.Line = shortest(len(lines), func(n int) bool { return fails(strings.Join(lines[:n], "")) })
		before, rs := strings.Join(lines[:p.Line-1], ""), []rune(lines[p.Line-1])
		p.Col = shortest(len(rs), func(n int) bool { return fails(before + string(rs[:n])) })
	}
	switch {
	case strings.Contains(m[2], "did not find expected ','"):
		p = d.opening(lines, p)
	case strings.Contains(m[2], "unknown anchor"):
		rs := []rune(lines[p.Line-1])
		for p.Col > 1 && rs[min(p.Col, len(rs))-1] != '*' {
			p.Col--
		}
	}
	p.File = d.src.File
	e := &spec.Error{Pos: p, Text: "YAML: " + strings.TrimSpace(m[2])}
	for _, w := range yamlWords {
		if strings.Contains(m[2], w.has) {
			e.Text = w.text
			break
		}
	}
	return e
}

// opening returns the place of the innermost bracket that is open at p, or p.
func (d *document) opening(lines []string, p spec.Pos) spec.Pos {
	var open []spec.Pos
	quote := rune(0)
	for i, line := range lines[:p.Line] {
		rs := []rune(line)
		if i == p.Line-1 {
			rs = rs[:min(p.Col, len(rs))]
		}
		for j, r := range rs {
			if quote == 0 && startsComment(rs, j) {
				break
			}
			switch {
			case quote != 0:
				if r == quote {
					quote = 0
				}
			case (r == '"' || r == '\'') && j > 0 && strings.ContainsRune(" [{,:", rs[j-1]):
				quote = r
			case r == '[' || r == '{':
				open = append(open, spec.Pos{Line: i + 1, Col: j + 1})
			case (r == ']' || r == '}') && len(open) > 0:
				open = open[:len(open)-1]
			}
		}
	}
	if len(open) == 0 {
		return p
	}
	return open[len(open)-1]
}

// shortest returns the least n in 1..most for which fails holds, when it holds from there on.
func shortest(most int, fails func(int) bool) int {
	low, high := 1, max(1, most)
	for low < high {
		mid := (low + high) / 2
		if fails(mid) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}
