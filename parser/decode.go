package parser

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// decoder fills a Spec from YAML by the struct tags of its types. Keys are decoded when first needed, so that arithmetic
// may name keys in any order.
type decoder struct {
	doc   *document
	src   *spec.Source
	errs  spec.Errors
	stack []*entry        // being decoded, for cycles
	round map[*entry]bool // cycles told, by the key that closes them
}

func newDecoder(doc *document, src *spec.Source) *decoder {
	return &decoder{doc: doc, src: src, round: map[*entry]bool{}}
}

// author says who wrote a value. What the user wrote goes before the preset, the preset before the default.
type author int

const (
	fromSpec author = iota
	fromPreset
	fromDefault
)

// source is one text for a value.
type source struct {
	node *yaml.Node
	from author
	key  *yaml.Node // the key before it, nil without one
}

// entry is a key of a mapping: its field, the texts for it, best first, and how far it is decoded.
type entry struct {
	key     string
	path    string
	field   reflect.StructField
	value   reflect.Value
	sources []source
	state   int // 0 waiting, 1 being decoded, 2 done, 3 failed
}

// scope is a mapping whose keys its expressions may name, inside the scope of the mapping around it.
type scope struct {
	entries map[string]*entry
	order   []*entry
	parent  *scope
}

// find looks a name up, from the inside out.
func (sc *scope) find(name string) (*entry, *scope) {
	for ; sc != nil; sc = sc.parent {
		if e := sc.entries[name]; e != nil {
			return e, sc
		}
	}
	return nil, nil
}

func (d *decoder) fail(p spec.Pos, format string, args ...any) *spec.Error {
	e := &spec.Error{Pos: p, Text: fmt.Sprintf(format, args...)}
	d.errs = append(d.errs, e)
	return e
}

// spec decodes the whole document.
func (d *decoder) spec() *spec.Spec {
	s := &spec.Spec{Source: d.src}
	root := d.doc.root
	if root.Kind != yaml.MappingNode {
		d.fail(d.doc.at(root), "a spec is a mapping with the key model, not %s", kindName(root))
		return s
	}
	top := d.scope(reflect.ValueOf(s).Elem(), []source{{root, fromSpec, nil}}, nil, "")
	d.decode(top.entries["name"], top)

	model := top.entries["model"]
	if len(model.sources) == 0 {
		d.fail(spec.Pos{File: d.src.File, Line: 1, Col: 1}, "the spec has no model section")
		return s
	}
	preset := d.preset(model.sources[0].node)
	if preset != nil {
		hf := *preset.huggingFace
		s.HF = &hf
		model.sources = append(model.sources, source{preset.model, fromPreset, nil})
	}
	inner := d.section(model, nil)
	if len(d.errs) == 0 {
		s.HF.Compare(&s.Model, d.fixed(model.sources, preset.fixed))
	}
	for _, e := range top.order {
		if e.key != "name" && e.key != "model" {
			d.section(e, inner)
		}
	}
	return s
}

// fixed decodes the model section again with the settings that the preset's family has fixed.
func (d *decoder) fixed(sources []source, fixed *yaml.Node) *spec.Model {
	var m spec.Model
	again := newDecoder(d.doc, &spec.Source{File: d.src.File, Pos: map[string]spec.Pos{}})
	again.section(&entry{path: "model", value: reflect.ValueOf(&m).Elem(), sources: slices.Insert(slices.Clone(sources), 0, source{fixed, fromPreset, nil})}, nil)
	return &m
}

// preset returns the preset that the model section names, or the default one.
func (d *decoder) preset(model *yaml.Node) *preset {
	name := "llama"
	if f, ok := reflect.TypeFor[spec.Model]().FieldByName("Preset"); ok {
		name = f.Tag.Get("default")
	}
	if model.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(model.Content); i += 2 {
			if key, v := model.Content[i], model.Content[i+1]; key.Value == "preset" && v.Kind == yaml.ScalarNode {
				if presets()[v.Value] == nil {
					e := d.fail(d.doc.at(v), "unknown preset %q; there are %s", v.Value, enumerate(presetNames(), "and"))
					e.Suggestion = closest(v.Value, presetNames())
					return nil
				}
				name = v.Value
				break
			}
		}
	}
	return presets()[name]
}

// section decodes a section, whose expressions may also name keys of the scope around.
func (d *decoder) section(e *entry, around *scope) *scope {
	d.record(e)
	sc := d.scope(e.value, e.sources, around, e.path)
	for _, inner := range sc.order {
		d.decode(inner, sc)
	}
	return sc
}

// record notes where the user wrote the value; the place of a mapping is its key's.
func (d *decoder) record(e *entry) {
	if len(e.sources) == 0 || e.sources[0].from != fromSpec {
		return
	}
	s := e.sources[0]
	d.src.Pos[e.path] = d.doc.at(s.node)
	if s.node.Kind == yaml.MappingNode && s.key != nil {
		d.src.Pos[e.path] = d.doc.at(s.key)
	}
}

// scope lists the keys of a struct of mappings with their texts: from each source in turn the key's own, until one is
// not a mapping but a single value that stands for the fields marked bare.
func (d *decoder) scope(v reflect.Value, sources []source, parent *scope, path string) *scope {
	sc := &scope{entries: map[string]*entry{}, parent: parent}
	var keys, bare []string
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		e := &entry{key: key, path: strings.TrimPrefix(path+"."+key, "."), field: f, value: v.Field(i)}
		sc.entries[key] = e
		sc.order = append(sc.order, e)
		keys = append(keys, key)
		if _, ok := f.Tag.Lookup("bare"); ok {
			bare = append(bare, key)
		}
	}
	for _, s := range sources {
		if s.node.Kind == yaml.MappingNode {
			d.keys(sc, s, keys, path)
			continue
		}
		if s.node.Kind == yaml.ScalarNode && len(bare) > 0 && !isNull(s.node) {
			for _, key := range bare {
				sc.entries[key].sources = append(sc.entries[key].sources, s)
			}
			for _, e := range sc.order { // the single value says everything: no defaults, no preset
				if len(e.sources) == 0 {
					e.field.Tag = ""
				}
			}
			break
		}
		d.fail(d.doc.at(s.node), "%s must be a mapping with some of the keys %s, not %s", path, strings.Join(keys, ", "), kindName(s.node))
		for _, e := range sc.order {
			e.state = 3
		}
		break
	}
	return sc
}

// keys gives the values of one mapping to the entries of sc.
func (d *decoder) keys(sc *scope, s source, keys []string, path string) {
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		k, v := s.node.Content[i], s.node.Content[i+1]
		p := d.doc.at(k)
		switch {
		case k.Kind != yaml.ScalarNode:
			d.fail(p, "a key must be a word, not %s", kindName(k))
			continue
		case k.Value == "<<":
			d.fail(p, "merge keys (<<) are not allowed; write the keys out, or use a preset")
			continue
		case first[k.Value] != nil:
			e := d.fail(p, "%s is given twice", k.Value)
			e.Notes = []spec.Note{{Pos: d.doc.at(first[k.Value]), Text: "it is first given here"}}
			continue
		}
		first[k.Value] = k
		if e := sc.entries[k.Value]; e != nil {
			e.sources = append(e.sources, source{v, s.from, k})
			continue
		}
		where := "a spec"
		if path != "" {
			where = path
		}
		e := d.fail(p, "unknown key %q in %s", k.Value, where)
		e.Suggestion = suggestKey(k.Value, keys, path)
	}
}

// decode fills an entry's value from its best source. It reports whether that went well.
func (d *decoder) decode(e *entry, sc *scope) bool {
	if e.state != 0 {
		return e.state == 2
	}
	e.state = 1
	d.stack = append(d.stack, e)
	ok := d.decodeValue(e, sc)
	d.stack = d.stack[:len(d.stack)-1]
	e.state = 3
	if ok {
		e.state = 2
	}
	return ok
}

func (d *decoder) decodeValue(e *entry, sc *scope) bool {
	d.record(e)
	if text, ok := e.field.Tag.Lookup("default"); ok {
		e.sources = append(e.sources, source{defaultNode(text), fromDefault, nil})
	}
	if isMapping(e.field.Type) {
		inner := d.scope(e.value, e.sources, sc, e.path)
		ok := true
		for _, f := range inner.order {
			ok = d.decode(f, inner) && ok
		}
		return ok
	}
	if len(e.sources) == 0 {
		if e.field.Tag.Get("min") == "1" {
			d.fail(d.src.At(e.path), "%s is missing", e.path)
			return false
		}
		return true
	}
	c := &valueContext{d: d, s: e.sources[0], sc: sc, path: e.path, tag: e.field.Tag, layer: -1}
	return c.node(e.value)
}

// isMapping says whether values of type t are written as a YAML mapping.
func isMapping(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			return true
		}
	}
	return false
}

// defaultNode makes the node of a default's text, which is one value or a list of words.
func defaultNode(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// kindName says what a node is, with its article.
func kindName(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "nothing"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", clip(n.Value))
}

// clip shortens a text for a message.
func clip(s string) string {
	n := 0
	for i := range s {
		if n++; n > 40 {
			return s[:i] + "…"
		}
	}
	return s
}

// cycle writes the keys that need one another, from the stack's entry e on.
func (d *decoder) cycle(e *entry) string {
	i := slices.Index(d.stack, e)
	var b strings.Builder
	for n, s := range append(slices.Clone(d.stack[i:]), e) {
		switch n {
		case 0:
		case 1:
			b.WriteString(" needs ")
		default:
			b.WriteString(", which needs ")
		}
		b.WriteString(s.key)
	}
	return b.String()
}
