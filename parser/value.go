package parser

import (
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// valueContext is what decoding one value needs to know: its text, the names it may use and the tag of its field.
type valueContext struct {
	d     *decoder
	s     source
	sc    *scope
	path  string
	tag   reflect.StructTag
	label string // what errors call the value, where the path does not say it
	layer int    // of a per-layer value, -1 otherwise
	root  *term  // the whole expression
}

// key is what errors call the value: the path in its section, or the label.
func (c *valueContext) key() string {
	if c.label != "" {
		return c.label
	}
	if _, key, ok := strings.Cut(c.path, "."); ok {
		return key
	}
	return c.path
}

// fail reports an error at byte off of the value. A value that the user did not write is reported at the last of the
// keys it was computed from that the user did write, with notes at the others.
func (c *valueContext) fail(off int, format string, args ...any) *spec.Error {
	if c.s.from == fromSpec {
		return c.d.fail(c.d.doc.within(c.s.node, off), format, args...)
	}
	whose := "by default"
	if c.s.from == fromPreset {
		whose = "from the preset"
	}
	text := fmt.Sprintf(format, args...)
	if strings.HasPrefix(text, c.key()) {
		text += " (" + whose + ")"
	} else {
		text = fmt.Sprintf("%s (%s): %s", c.key(), whose, text)
	}
	e := c.d.fail(c.d.src.At(c.path), "%s", text)
	if c.root != nil {
		var places []spec.Pos
		for _, n := range c.root.bareNames() {
			if en, _ := c.sc.find(n.text); en != nil {
				if p, ok := c.d.src.Pos[en.path]; ok && !slices.Contains(places, p) {
					places = append(places, p)
				}
			}
		}
		slices.SortFunc(places, func(a, b spec.Pos) int { return a.Line - b.Line })
		if last := len(places) - 1; last >= 0 {
			e.Pos = places[last]
			for _, p := range places[:last] {
				e.Notes = append(e.Notes, spec.Note{Pos: p, Text: c.key() + " is computed from this too"})
			}
		}
	}
	return e
}

// node decodes a YAML value.
func (c *valueContext) node(v reflect.Value) bool {
	n := c.s.node
	t := v.Type()
	switch {
	case isNull(n):
		c.fail(0, "%s has no value; leave the key out, or give one", c.key())
		return false
	case n.Kind == yaml.MappingNode && t.Kind() != reflect.Map:
		c.fail(0, "%s must be %s, not a mapping", c.key(), wanted(t, c.tag))
		return false
	}
	switch {
	case t.Kind() == reflect.Map:
		return c.mapNode(v)
	case t == reflect.TypeFor[spec.Corpus]() && (n.Kind == yaml.SequenceNode || !isCall(n.Value, "stories")):
		v.FieldByName("Kind").SetString("files")
		return c.words(v.FieldByName("Files"))
	case t == reflect.TypeFor[spec.EvalSplit]():
		return c.evalSplit(v)
	case t == reflect.TypeFor[[]string]():
		return c.words(v)
	case isPerLayer(t):
		return c.perLayer(v)
	case n.Kind == yaml.SequenceNode:
		c.fail(0, "%s must be %s, not a list", c.key(), wanted(t, c.tag))
		return false
	case t.Kind() == reflect.String:
		return c.word(v, n.Value, 0)
	case t.Kind() == reflect.Bool:
		return c.boolean(v, n.Value, 0)
	}
	tm, ok := c.parse()
	return ok && c.term(v, tm)
}

// parse reads the value's expression.
func (c *valueContext) parse() (*term, bool) {
	tm, fault := parseExpression(c.s.node.Value)
	if fault != nil {
		c.fail(fault.off, "%s", fault.text)
		return nil, false
	}
	c.root = tm
	return tm, true
}

// isCall says whether a text is a call of name, or the bare name.
func isCall(text, name string) bool {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), name)
	rest = strings.TrimSpace(rest)
	return ok && (rest == "" || rest[0] == '(')
}

// mapNode decodes a mapping whose keys are free, as in a preset's name maps.
func (c *valueContext) mapNode(v reflect.Value) bool {
	v.Set(reflect.MakeMap(v.Type()))
	if c.s.node.Kind != yaml.MappingNode {
		c.fail(0, "%s must be a mapping", c.key())
		return false
	}
	ok := true
	for i := 0; i+1 < len(c.s.node.Content); i += 2 {
		inner := *c
		inner.s.node = c.s.node.Content[i+1]
		item := reflect.New(v.Type().Elem()).Elem()
		ok = inner.node(item) && ok
		v.SetMapIndex(reflect.ValueOf(c.s.node.Content[i].Value), item)
	}
	return ok
}

// words decodes a list of strings, or a single one.
func (c *valueContext) words(v reflect.Value) bool {
	nodes := []*yaml.Node{c.s.node}
	if c.s.node.Kind == yaml.SequenceNode {
		nodes = c.s.node.Content
	} else if c.s.from == fromDefault && strings.HasPrefix(c.s.node.Value, "[") {
		tm, _ := parseExpression(c.s.node.Value)
		return c.term(v, tm)
	}
	if len(nodes) == 0 {
		c.fail(0, "%s is an empty list", c.key())
		return false
	}
	ok := true
	v.Set(reflect.MakeSlice(v.Type(), len(nodes), len(nodes)))
	for i, n := range nodes {
		inner := *c
		inner.s.node = n
		inner.path = fmt.Sprintf("%s[%d]", c.path, i)
		if c.s.from == fromSpec {
			c.d.src.Pos[inner.path] = c.d.doc.at(n)
		}
		if n.Kind != yaml.ScalarNode || isNull(n) {
			inner.fail(0, "%s must be text, not %s", c.key(), kindName(n))
			ok = false
			continue
		}
		ok = inner.word(v.Index(i), n.Value, 0) && ok
	}
	return ok
}

// word decodes a string, one of the enum's words where the field has one.
func (c *valueContext) word(v reflect.Value, text string, off int) bool {
	if enum := c.tag.Get("enum"); enum != "" {
		words := strings.Split(enum, "|")
		if !slices.Contains(words, text) {
			key, _, _ := strings.Cut(c.key(), "[")
			e := c.fail(off, "%s cannot be %q; it is %s", key, clip(text), enumerate(words, "or"))
			e.Suggestion = suggestWord(text, words)
			return false
		}
	}
	v.SetString(text)
	return true
}

func (c *valueContext) boolean(v reflect.Value, text string, off int) bool {
	switch text {
	case "true", "false":
		v.SetBool(text == "true")
		return true
	}
	e := c.fail(off, "%s must be true or false, not %q", c.key(), clip(text))
	switch strings.ToLower(text) {
	case "yes", "on", "1", "true", "y":
		e.Suggestion = "true"
	case "no", "off", "0", "false", "n", "none":
		e.Suggestion = "false"
	}
	return false
}

// evalSplit decodes the held-out text: a share, or patterns of files.
func (c *valueContext) evalSplit(v reflect.Value) bool {
	n := c.s.node
	if n.Kind == yaml.ScalarNode {
		if tm, fault := parseExpression(n.Value); fault == nil && (tm.op == "number" || tm.op == "neg") {
			x, ok := c.number(tm)
			if ok && x.unit != "%" {
				e := c.fail(0, "%s must be a share of the text, such as 1%%, or patterns of files", c.key())
				if f := x.float(); f > 0 && f < 1 {
					e.Suggestion = strconv.FormatFloat(f*100, 'g', 6, 64) + "%"
				}
				return false
			}
			v.FieldByName("Share").SetFloat(x.float())
			return ok
		}
	}
	return c.words(v.FieldByName("Files"))
}

func isPerLayer(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.PkgPath() == reflect.TypeFor[spec.Spec]().PkgPath() && strings.HasPrefix(t.Name(), "PerLayer[")
}

// maxLayers bounds the lists of per-layer values.
const maxLayers = 10_000

// perLayer decodes a value for all layers, a list expression, or a YAML list.
func (c *valueContext) perLayer(v reflect.Value) bool {
	if n := c.s.node; n.Kind == yaml.SequenceNode {
		if len(n.Content) == 0 || len(n.Content) > maxLayers {
			c.fail(0, "%s must have a value for each layer, at most %d, not %d", c.key(), maxLayers, len(n.Content))
			return false
		}
		ok := true
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			inner := *c
			inner.s.node = item
			inner.path = fmt.Sprintf("%s[%d]", c.path, i)
			inner.layer = i
			if item.Kind != yaml.ScalarNode {
				inner.fail(0, "a layer's %s must be a single value, not %s", c.key(), kindName(item))
				ok = false
				continue
			}
			ok = inner.node(v.Index(i)) && ok
			c.d.src.Pos[inner.path] = c.d.doc.at(item)
		}
		return ok
	}
	tm, ok := c.parse()
	if !ok {
		return false
	}
	items := []*term{tm}
	list := tm.isList()
	if list {
		if items, ok = c.expand(tm); !ok {
			return false
		}
		if len(items) == 0 {
			c.fail(tm.off, "%s is an empty list", c.key())
			return false
		}
	} else if n := c.layersOf(tm); n > 1 { // computed from a per-layer value: layer by layer
		items, list = slices.Repeat(items, n), true
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		inner := *c
		if list {
			inner.path, inner.layer = fmt.Sprintf("%s[%d]", c.path, i), i
			if c.s.from == fromSpec {
				c.d.src.Pos[inner.path] = c.d.doc.within(c.s.node, item.off)
			}
		}
		if !inner.term(v.Index(i), item) {
			return false
		}
	}
	return true
}

// isList says whether a term is a list, or lists joined by + and repeated by *.
func (t *term) isList() bool {
	switch t.op {
	case "list":
		return true
	case "+", "*":
		return t.args[0].isList() || t.args[1].isList()
	}
	return false
}

// expand lists the items of a list term.
func (c *valueContext) expand(t *term) ([]*term, bool) {
	var items []*term
	switch {
	case t.op == "list":
		items = t.args
		for _, a := range items {
			if a.isList() {
				c.fail(a.off, "a list inside a list; join lists with +")
				return nil, false
			}
		}
	case t.op == "+":
		for _, a := range t.args {
			if !a.isList() {
				c.fail(a.off, "only lists can be joined to a list; write [%s]", a)
				return nil, false
			}
			more, ok := c.expand(a)
			if !ok {
				return nil, false
			}
			items = append(slices.Clip(items), more...)
		}
	default:
		list, count := t.args[0], t.args[1]
		if !list.isList() {
			list, count = count, list
		}
		if count.isList() {
			c.fail(count.off, "a list is repeated by a number, not by a list")
			return nil, false
		}
		var n int64
		if !c.integer(count, "the number of repeats", 0, maxLayers, &n) {
			return nil, false
		}
		one, ok := c.expand(list)
		if !ok {
			return nil, false
		}
		if int64(len(one))*n <= maxLayers {
			return slices.Repeat(one, int(n)), true
		}
		items = make([]*term, maxLayers+1)
	}
	if len(items) > maxLayers {
		c.fail(t.off, "the list has more than %d items", maxLayers)
		return nil, false
	}
	return items, true
}

// layersOf returns how many layers the per-layer values named in t tell apart, 1 where none does.
func (c *valueContext) layersOf(t *term) int {
	for _, name := range t.bareNames() {
		if e, sc := c.sc.find(name.text); e != nil && isPerLayer(e.field.Type) && e.state != 1 && c.d.decode(e, sc) && varies(e.value) {
			return e.value.Len()
		}
	}
	return 1
}

// varies says whether a per-layer value is not the same in all layers.
func varies(v reflect.Value) bool {
	for i := 1; i < v.Len(); i++ {
		if v.Index(i).Int() != v.Index(0).Int() {
			return true
		}
	}
	return false
}

// term decodes an expression into v by v's type.
func (c *valueContext) term(v reflect.Value, t *term) bool {
	switch v.Type() {
	case reflect.TypeFor[spec.Pattern]():
		p, ok := c.pattern(t)
		v.Set(reflect.ValueOf(p))
		return ok
	case reflect.TypeFor[spec.Schedule]():
		return c.schedule(v, t)
	case reflect.TypeFor[spec.Count]():
		return c.count(v, t)
	case reflect.TypeFor[spec.Bytes]():
		return c.bytes(v, t)
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		var n int64
		least, most := c.bounds()
		ok := c.integer(t, c.key(), least, most, &n)
		v.SetInt(n)
		return ok
	case reflect.Uint64:
		return c.unsigned(v, t)
	case reflect.Float64:
		return c.float(v, t)
	case reflect.Slice:
		if t.op != "list" {
			c.fail(t.off, "%s must be a list, such as %s", c.key(), c.tag.Get("default"))
			return false
		}
		ok := true
		v.Set(reflect.MakeSlice(v.Type(), len(t.args), len(t.args)))
		for i, a := range t.args {
			ok = c.term(v.Index(i), a) && ok
		}
		return ok
	case reflect.Bool:
		return c.boolean(v, t.String(), t.off)
	case reflect.String:
		return c.word(v, t.String(), t.off)
	}
	return c.call(v, t)
}

// count decodes a number of steps or a share of all.
func (c *valueContext) count(v reflect.Value, t *term) bool {
	x, ok := c.number(t)
	if !ok {
		return false
	}
	if x.unit == "%" {
		if x.cmp(intNum(0)) < 0 || x.cmp(intNum(1)) > 0 {
			c.fail(t.off, "%s must be between 0%% and 100%%, not %s", c.key(), t)
			return false
		}
		v.FieldByName("Share").SetFloat(x.float())
		return true
	}
	var n int64
	ok = c.asInteger(x, t, c.key(), 0, maxInt, &n)
	v.FieldByName("N").SetInt(n)
	return ok
}

// bytes decodes an amount of memory.
func (c *valueContext) bytes(v reflect.Value, t *term) bool {
	x, ok := c.number(t)
	if !ok {
		return false
	}
	if x.unit != "bytes" {
		c.fail(t.off, "%s must be an amount of memory, such as 8GiB, not %s", c.key(), t)
		return false
	}
	var n int64
	x.unit = ""
	ok = c.asInteger(x, t, c.key(), 1, maxInt, &n)
	v.SetInt(n)
	return ok
}

func (c *valueContext) unsigned(v reflect.Value, t *term) bool {
	x, ok := c.number(t)
	if !ok || !c.plain(x, t) {
		return false
	}
	i, whole := x.whole()
	if !whole || i.Sign() < 0 || !i.IsUint64() {
		c.fail(t.off, "%s must be a whole number from 0 to %d, not %s", c.key(), ^uint64(0), c.equation(t, x))
		return false
	}
	v.SetUint(i.Uint64())
	return true
}

func (c *valueContext) float(v reflect.Value, t *term) bool {
	x, ok := c.number(t)
	if !ok || !c.plain(x, t) {
		return false
	}
	f := x.float()
	if text := c.tag.Get("min"); text != "" && f < mustFloat(text) {
		c.fail(t.off, "%s must be at least %s, not %s", c.key(), text, c.equation(t, x))
		return false
	}
	if text := c.tag.Get("max"); text != "" && f > mustFloat(text) {
		c.fail(t.off, "%s must be at most %s, not %s", c.key(), text, c.equation(t, x))
		return false
	}
	if n := floatNum(1e300); x.cmp(n) > 0 {
		c.fail(t.off, "%s is too large: %s", c.key(), c.equation(t, x))
		return false
	}
	v.SetFloat(f)
	return true
}

func mustFloat(text string) float64 {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic("parser: bad number in a struct tag: " + text)
	}
	return f
}

// maxInt bounds integers, so that int holds them on every machine that tfc runs on.
const maxInt = 1<<63 - 1

// bounds returns the range of an integer field.
func (c *valueContext) bounds() (least, most int64) {
	least, most = -maxInt, maxInt
	if text := c.tag.Get("min"); text != "" {
		least = int64(mustFloat(text))
	}
	if text := c.tag.Get("max"); text != "" {
		most = int64(mustFloat(text))
	}
	return least, most
}

// integer evaluates t to a whole number within bounds; what names it in errors.
func (c *valueContext) integer(t *term, what string, least, most int64, out *int64) bool {
	x, ok := c.number(t)
	return ok && c.asInteger(x, t, what, least, most, out)
}

func (c *valueContext) asInteger(x num, t *term, what string, least, most int64, out *int64) bool {
	if !c.plain(x, t) {
		return false
	}
	i, whole := x.whole()
	switch {
	case !whole && t.op == "number":
		c.fail(t.off, "%s must be a whole number, not %s", what, t)
	case !whole:
		c.fail(t.off, "%s is not a whole number", c.equation(t, x))
	case i.Cmp(big.NewInt(least)) < 0:
		c.fail(t.off, "%s must be at least %d, not %s", what, least, c.equation(t, x))
	case i.Cmp(big.NewInt(most)) > 0 && most == maxInt:
		c.fail(t.off, "%s does not fit in 64 bits: %s", what, c.equation(t, x))
	case i.Cmp(big.NewInt(most)) > 0:
		c.fail(t.off, "%s must be at most %d, not %s", what, most, c.equation(t, x))
	default:
		*out = i.Int64()
		return true
	}
	return false
}

// plain refuses numbers with a unit.
func (c *valueContext) plain(x num, t *term) bool {
	switch x.unit {
	case "%":
		c.fail(t.off, "%s takes a number, not a share; write %s", c.key(), strconv.FormatFloat(x.float(), 'g', 6, 64))
	case "bytes":
		c.fail(t.off, "%s takes a plain number, not an amount of memory", c.key())
	default:
		return true
	}
	return false
}
