package parser

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// constructors returns the field that holds the constructor's name, and the names.
func constructors(t reflect.Type) (reflect.StructField, []string) {
	for i := range t.NumField() {
		if names := t.Field(i).Tag.Get("call"); names != "" {
			return t.Field(i), strings.Split(names, "|")
		}
	}
	panic("parser: no call tag in " + t.Name())
}

// arguments lists the fields that a constructor of t takes.
func arguments(t reflect.Type, constructor string) (fields []reflect.StructField) {
	for i := range t.NumField() {
		f := t.Field(i)
		of, limited := f.Tag.Lookup("of")
		if f.Tag.Get("arg") != "" && (!limited || slices.Contains(strings.Split(of, "|"), constructor)) {
			fields = append(fields, f)
		}
	}
	return fields
}

func argumentNames(fields []reflect.StructField) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Tag.Get("arg")
	}
	return names
}

// call decodes a constructor with its arguments: rmsnorm(eps: 1e-5). The first argument may stand without its name.
func (c *valueContext) call(v reflect.Value, t *term) bool {
	kind, names := constructors(v.Type())
	if bare := kind.Tag.Get("bare"); bare != "" && (t.op != "call" || !slices.Contains(names, t.text)) {
		v.FieldByIndex(kind.Index).SetString(bare)
		return c.argument(v, arguments(v.Type(), bare)[0], t, c.path, c.key())
	}
	if t.op != "call" {
		c.fail(t.off, "%s must be %s, not %s", c.key(), enumerate(names, "or"), clip(t.String()))
		return false
	}
	if !slices.Contains(names, t.text) {
		e := c.fail(t.off, "unknown %s %q; it is %s", c.noun(), clip(t.text), enumerate(names, "or"))
		e.Suggestion = suggestWord(t.text, names)
		return false
	}
	v.FieldByIndex(kind.Index).SetString(t.text)
	fields := arguments(v.Type(), t.text)
	given := map[string]int{}
	ok := true
	for i, a := range t.args {
		name := t.names[i]
		switch {
		case len(fields) == 0:
			c.fail(a.off, "%s takes no arguments", t.text)
			return false
		case name.text == "" && i > 0:
			c.fail(a.off, "only the first argument of %s may stand without its name (%s)", t.text, strings.Join(argumentNames(fields), ", "))
			ok = false
			continue
		case name.text == "":
			name = argName{fields[0].Tag.Get("arg"), a.off}
		}
		at := slices.Index(argumentNames(fields), name.text)
		if at < 0 {
			e := c.fail(name.off, "%s has no argument %q; it takes %s", t.text, clip(name.text), strings.Join(argumentNames(fields), ", "))
			e.Suggestion = suggestWord(name.text, argumentNames(fields))
			ok = false
			continue
		}
		if first, twice := given[name.text]; twice {
			e := c.fail(name.off, "%s is given twice", name.text)
			if c.s.from == fromSpec {
				e.Notes = []spec.Note{{Pos: c.d.doc.within(c.s.node, first), Text: "it is first given here"}}
			}
			ok = false
			continue
		}
		given[name.text] = name.off
		ok = c.argument(v, fields[at], a, c.path+"."+name.text, name.text+" of "+t.text) && ok
	}
	for _, f := range fields {
		name := f.Tag.Get("arg")
		if _, has := given[name]; has {
			continue
		}
		text, has := f.Tag.Lookup("default")
		if !has {
			c.fail(t.off, "%s needs its argument %s: %s(%s)", t.text, name, t.text, sample(f))
			ok = false
			continue
		}
		inner := *c
		inner.s = source{defaultNode(text), fromDefault, nil}
		inner.path, inner.tag, inner.label = c.path+"."+name, f.Tag, name+" of "+t.text
		tm, _ := inner.parse()
		ok = inner.term(v.FieldByIndex(f.Index), tm) && ok
	}
	return ok
}

// argument decodes one argument into its field.
func (c *valueContext) argument(v reflect.Value, f reflect.StructField, t *term, path, label string) bool {
	inner := *c
	inner.path, inner.tag, inner.label = path, f.Tag, label
	if c.s.from == fromSpec {
		c.d.src.Pos[path] = c.d.doc.within(c.s.node, t.off)
	}
	return inner.term(v.FieldByIndex(f.Index), t)
}

// noun is the kind of thing that the value is: its key, without a layer's number and what it belongs to.
func (c *valueContext) noun() string {
	key, _, _ := strings.Cut(c.key(), "[")
	key, _, _ = strings.Cut(key, " of ")
	return key
}

// sample is an example of an argument's value.
func sample(f reflect.StructField) string {
	if f.Type == reflect.TypeFor[spec.Bytes]() {
		return "8GiB"
	}
	return "64"
}

// wanted describes the values of a type for people.
func wanted(t reflect.Type, tag reflect.StructTag) string {
	if isPerLayer(t) {
		return wanted(t.Elem(), tag) + ", or a list of one for each layer"
	}
	switch t {
	case reflect.TypeFor[spec.Pattern]():
		return "an attention pattern, such as causal & window(256)"
	case reflect.TypeFor[spec.Schedule]():
		return "a schedule, such as warmup(5%) -> cosine(to: 0.1)"
	case reflect.TypeFor[spec.EvalSplit]():
		return "a share of the text, such as 1%, or patterns of files"
	case reflect.TypeFor[spec.Corpus]():
		return "stories(...) or patterns of files"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		if enum := tag.Get("enum"); enum != "" {
			return enumerate(strings.Split(enum, "|"), "or")
		}
		return "text"
	case reflect.Slice:
		return "a list"
	}
	kind, names := constructors(t)
	if kind.Tag.Get("bare") != "" {
		return "a number or " + enumerate(names, "or")
	}
	return enumerate(names, "or")
}

// pattern decodes an attention pattern.
func (c *valueContext) pattern(t *term) (spec.Pattern, bool) {
	switch t.op {
	case "&", "|":
		p := spec.Pattern{Op: map[string]string{"&": "and", "|": "or"}[t.op]}
		ok := true
		for _, a := range t.args {
			q, good := c.pattern(a)
			p.Args = append(p.Args, q)
			ok = ok && good
		}
		return p, ok
	case "call":
		var p spec.Pattern
		if !c.call(reflect.ValueOf(&p).Elem(), t) {
			return p, false
		}
		if p.Op == "block" {
			p = spec.Pattern{Op: "window", N: 1, Block: p.N}
		}
		return p, true
	}
	c.fail(t.off, "%s must be a pattern such as causal & window(256), not %s", c.noun(), clip(t.String()))
	return spec.Pattern{}, false
}

// schedule decodes phases joined by arrows.
func (c *valueContext) schedule(v reflect.Value, t *term) bool {
	phases := []*term{t}
	if t.op == "->" {
		phases = t.args
	}
	ok := true
	v.Set(reflect.MakeSlice(v.Type(), len(phases), len(phases)))
	for i, p := range phases {
		inner := *c
		inner.path = fmt.Sprintf("%s[%d]", c.path, i)
		if c.s.from == fromSpec {
			c.d.src.Pos[inner.path] = c.d.doc.within(c.s.node, p.off)
		}
		ok = inner.call(v.Index(i), p) && ok
	}
	return ok
}

// Pattern reads an attention pattern alone, as Pattern.String writes it. Its numbers may be arithmetic without names.
func Pattern(text string) (spec.Pattern, error) {
	src := &spec.Source{Lines: splitLines(text), Pos: map[string]spec.Pos{}}
	d := newDecoder(&document{src: src}, src)
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text, Line: 1, Column: 1}
	c := &valueContext{d: d, s: source{n, fromSpec, nil}, path: "pattern", layer: -1}
	t, ok := c.parse()
	if !ok {
		return spec.Pattern{}, d.errs.Err()
	}
	p, _ := c.pattern(t)
	return p, d.errs.Err()
}
