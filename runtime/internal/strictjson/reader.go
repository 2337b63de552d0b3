// Package strictjson reads JSON from files that nobody vouches for. Unlike encoding/json it refuses duplicate names,
// invalid UTF-8, lone surrogates, names that differ in case from those asked for, and anything after the value; and it
// builds nothing that the caller did not ask for, so that memory stays in proportion to what is kept.
package strictjson

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// MaxDepth is how deeply arrays and objects may nest.
	MaxDepth = 64
	// MaxMembers is how many members one object may have.
	MaxMembers = 1 << 20
)

// Reader reads one JSON text (RFC 8259) from front to back. Each method reads the next value and says at which byte it
// found something else.
type Reader struct {
	data  []byte
	pos   int
	depth int
}

// NewReader returns a Reader of data, which must not change meanwhile.
func NewReader(data []byte) *Reader { return &Reader{data: data} }

// Errorf returns an error that names the byte reached.
func (r *Reader) Errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", r.pos, fmt.Sprintf(format, args...))
}

// Peek returns the first byte of the next token, or 0 at the end.
func (r *Reader) Peek() byte {
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; c {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return c
		}
	}
	return 0
}

// End checks that nothing but white space is left.
func (r *Reader) End() error {
	if r.Peek(); r.pos < len(r.data) {
		return r.Errorf("more text after the end of the JSON value")
	}
	return nil
}

func (r *Reader) expect(c byte, where string) error {
	got := r.Peek()
	switch {
	case r.pos == len(r.data):
		return r.Errorf("the text ends where %q is expected %s", c, where)
	case got != c:
		return r.Errorf("found %q where %q is expected %s", got, c, where)
	}
	r.pos++
	return nil
}

func (r *Reader) enter() error {
	if r.depth++; r.depth > MaxDepth {
		return r.Errorf("nested more than %d deep", MaxDepth)
	}
	return nil
}

// Object reads an object. For each member it calls member, which must read the value.
func (r *Reader) Object(member func(name string) error) error {
	if err := r.expect('{', "to open an object"); err != nil {
		return err
	}
	if err := r.enter(); err != nil {
		return err
	}
	var names nameSet
	for n := 0; ; n++ {
		if n == 0 && r.Peek() == '}' {
			break
		}
		if n == MaxMembers {
			return r.Errorf("an object with more than %d members", MaxMembers)
		}
		name, err := r.String()
		if err != nil {
			return err
		}
		if !names.add(name) {
			return r.Errorf("the name %q is given twice", name)
		}
		if err := r.expect(':', "after a name"); err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
		if r.Peek() == '}' {
			break
		}
		if err := r.expect(',', "between members"); err != nil {
			return err
		}
	}
	r.pos++
	r.depth--
	return nil
}

// Array reads an array. For each item it calls item, which must read the value.
func (r *Reader) Array(item func(i int) error) error {
	if err := r.expect('[', "to open an array"); err != nil {
		return err
	}
	if err := r.enter(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i == 0 && r.Peek() == ']' {
			break
		}
		if err := item(i); err != nil {
			return err
		}
		if r.Peek() == ']' {
			break
		}
		if err := r.expect(',', "between items"); err != nil {
			return err
		}
	}
	r.pos++
	r.depth--
	return nil
}

// String reads a string.
func (r *Reader) String() (string, error) {
	if err := r.expect('"', "to open a string"); err != nil {
		return "", err
	}
	start := r.pos
	for r.pos < len(r.data) { // most strings have no escape: cut them out whole
		switch c := r.data[r.pos]; {
		case c == '"':
			s := r.data[start:r.pos]
			if !utf8.Valid(s) {
				return "", r.Errorf("a string is not valid UTF-8")
			}
			r.pos++
			return string(s), nil
		case c == '\\':
			return r.escapedString(start)
		case c < 0x20:
			return "", r.Errorf("a control character inside a string")
		}
		r.pos++
	}
	return "", r.Errorf("the text ends inside a string")
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (r *Reader) escapedString(start int) (string, error) {
	out := append([]byte(nil), r.data[start:r.pos]...)
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		r.pos++
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", r.Errorf("a string is not valid UTF-8")
			}
			return string(out), nil
		case c < 0x20:
			return "", r.Errorf("a control character inside a string")
		case c != '\\':
			out = append(out, c)
		default:
			var err error
			if out, err = r.escape(out); err != nil {
				return "", err
			}
		}
	}
	return "", r.Errorf("the text ends inside a string")
}

// escape appends the character that the escape at pos, just after its backslash, stands for.
func (r *Reader) escape(out []byte) ([]byte, error) {
	if r.pos == len(r.data) {
		return nil, r.Errorf("the text ends inside a string")
	}
	c := r.data[r.pos]
	r.pos++
	if c != 'u' {
		plain, ok := escapes[c]
		if !ok {
			return nil, r.Errorf("unknown escape \\%c", c)
		}
		return append(out, plain), nil
	}
	unit, err := r.hex4()
	if err != nil {
		return nil, err
	}
	if !utf16.IsSurrogate(unit) {
		return utf8.AppendRune(out, unit), nil
	}
	if r.pos+2 > len(r.data) || r.data[r.pos] != '\\' || r.data[r.pos+1] != 'u' {
		return nil, r.Errorf("half of a surrogate pair")
	}
	r.pos += 2
	low, err := r.hex4()
	if err != nil {
		return nil, err
	}
	c32 := utf16.DecodeRune(unit, low)
	if c32 == utf8.RuneError {
		return nil, r.Errorf("half of a surrogate pair")
	}
	return utf8.AppendRune(out, c32), nil
}

func (r *Reader) hex4() (rune, error) {
	if r.pos+4 > len(r.data) {
		return 0, r.Errorf("the text ends inside a string")
	}
	v, err := strconv.ParseUint(string(r.data[r.pos:r.pos+4]), 16, 16)
	if err != nil {
		return 0, r.Errorf("\\u must be followed by four hexadecimal digits")
	}
	r.pos += 4
	return rune(v), nil
}

// Number reads a number and keeps its text.
func (r *Reader) Number() (json.Number, error) {
	r.Peek()
	start := r.pos
	digits := func() int {
		from := r.pos
		for r.pos < len(r.data) && r.data[r.pos]-'0' <= 9 {
			r.pos++
		}
		return r.pos - from
	}
	at := func(set string) bool {
		for i := 0; i < len(set) && r.pos < len(r.data); i++ {
			if r.data[r.pos] == set[i] {
				r.pos++
				return true
			}
		}
		return false
	}
	at("-")
	whole := r.pos
	n := digits()
	ok := n > 0 && (n == 1 || r.data[whole] != '0')
	if ok && at(".") {
		ok = digits() > 0
	}
	if ok && at("eE") {
		at("+-")
		ok = digits() > 0
	}
	if !ok {
		r.pos = start
		return "", r.Errorf("a number is expected")
	}
	return json.Number(r.data[start:r.pos]), nil
}

// Uint reads a whole number from 0 to 2^64-1, written in plain digits.
func (r *Reader) Uint() (uint64, error) {
	r.Peek()
	start := r.pos
	text, err := r.Number()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		r.pos = start
		return 0, r.Errorf("%.40s is not a whole number from 0 to 18446744073709551615", text)
	}
	return v, nil
}

// Any reads any value: map[string]any, []any, string, json.Number, bool or nil. It takes many times the memory of the
// text: bound the text.
func (r *Reader) Any() (any, error) {
	switch r.Peek() {
	case '{':
		object := map[string]any{}
		return object, r.Object(func(name string) (err error) {
			object[name], err = r.Any()
			return err
		})
	case '[':
		list := []any{}
		return list, r.Array(func(int) error {
			v, err := r.Any()
			list = append(list, v)
			return err
		})
	case '"':
		return r.String()
	}
	return r.scalar()
}

// Skip reads any value and drops it.
func (r *Reader) Skip() error {
	var err error
	switch r.Peek() {
	case '{':
		return r.Object(func(string) error { return r.Skip() })
	case '[':
		return r.Array(func(int) error { return r.Skip() })
	case '"':
		_, err = r.String()
	default:
		_, err = r.scalar()
	}
	return err
}

// Raw reads any value and returns its text, which is part of the data given.
func (r *Reader) Raw() ([]byte, error) {
	r.Peek()
	start := r.pos
	err := r.Skip()
	return r.data[start:r.pos:r.pos], err
}

func (r *Reader) scalar() (any, error) {
	for _, word := range [...]struct {
		text  string
		value any
	}{{"true", true}, {"false", false}, {"null", nil}} {
		if end := r.pos + len(word.text); end <= len(r.data) && string(r.data[r.pos:end]) == word.text {
			r.pos = end
			return word.value, nil
		}
	}
	if r.pos == len(r.data) {
		return nil, r.Errorf("the text ends where a value is expected")
	}
	n, err := r.Number()
	if err != nil {
		return nil, r.Errorf("a value is expected")
	}
	return n, nil
}

// nameSet finds duplicate names: a short list for the many small objects, a map for the large one.
type nameSet struct {
	few  [8]string
	n    int
	many map[string]struct{}
}

func (s *nameSet) add(name string) bool {
	if s.many == nil {
		for _, old := range s.few[:s.n] {
			if old == name {
				return false
			}
		}
		if s.n < len(s.few) {
			s.few[s.n] = name
			s.n++
			return true
		}
		s.many = map[string]struct{}{}
		for _, old := range s.few {
			s.many[old] = struct{}{}
		}
	}
	if _, dup := s.many[name]; dup {
		return false
	}
	s.many[name] = struct{}{}
	return true
}
