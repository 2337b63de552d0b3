package parser

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// number evaluates dimension arithmetic. It reports what is wrong, except what is wrong with the keys that t names,
// which is told where they stand.
func (c *valueContext) number(t *term) (num, bool) {
	switch t.op {
	case "number":
		n, wrong := parseNumber(t.text)
		if wrong != "" {
			c.fail(t.off, "%s", wrong)
			return num{}, false
		}
		return n, true
	case "neg":
		x, ok := c.number(t.args[0])
		if !ok {
			return num{}, false
		}
		if x.unit == "%" {
			c.fail(t.off, "a share cannot be negative")
			return num{}, false
		}
		return c.apply(t, func() (num, string) { return arithmetic("*", x, intNum(-1)) })
	case "+", "-", "*", "/":
		a, okA := c.number(t.args[0])
		b, okB := c.number(t.args[1])
		if !okA || !okB {
			return num{}, false
		}
		return c.apply(t, func() (num, string) { return arithmetic(t.op, a, b) })
	case "call":
		if t.open {
			return c.function(t)
		}
		return c.name(t)
	}
	c.fail(t.off, "%s must be a number or arithmetic, not %s", c.key(), clip(t.String()))
	return num{}, false
}

// apply computes t and reports what is wrong with the result, with the equation.
func (c *valueContext) apply(t *term, f func() (num, string)) (num, bool) {
	x, wrong := f()
	if wrong != "" {
		text := t.String()
		if with := c.filledIn(t); with != text {
			text += " = " + with
		}
		c.fail(t.off, "%s %s", clipEquation(text), wrong)
		return num{}, false
	}
	return x, true
}

func clipEquation(s string) string {
	if rs := []rune(s); len(rs) > 160 {
		return string(rs[:160]) + "…"
	}
	return s
}

// function evaluates min, max, sqrt, floor and round_up.
func (c *valueContext) function(t *term) (num, bool) {
	f, ok := functions[t.text]
	if !ok {
		names := make([]string, 0, len(functions))
		for name := range functions {
			names = append(names, name)
		}
		sort.Strings(names)
		e := c.fail(t.off, "unknown function %q in arithmetic; there are %s", t.text, enumerate(names, "and"))
		e.Suggestion = closest(t.text, names)
		return num{}, false
	}
	if f.args != len(t.args) && (f.args >= 0 || len(t.args) == 0) {
		c.fail(t.off, "%s takes %s, not %d", t.text, map[int]string{1: "one number", 2: "two numbers", -1: "one number or more"}[f.args], len(t.args))
		return num{}, false
	}
	var args []num
	for i, a := range t.args {
		if t.names[i].text != "" {
			c.fail(t.names[i].off, "%s takes numbers without names", t.text)
			return num{}, false
		}
		x, ok := c.number(a)
		if !ok || !c.plain(x, a) {
			return num{}, false
		}
		args = append(args, x)
	}
	return c.apply(t, func() (num, string) { return f.call(args) })
}

// name evaluates a key's name.
func (c *valueContext) name(t *term) (num, bool) {
	e, sc := c.sc.find(t.text)
	if e == nil || !isNumeric(e.field.Type) {
		names := c.numericNames()
		if e != nil {
			c.fail(t.off, "%s is not a number", t.text)
			return num{}, false
		}
		er := c.fail(t.off, "unknown name %q in arithmetic", t.text)
		er.Suggestion = suggestWord(t.text, names)
		return num{}, false
	}
	if e.state == 1 {
		if !c.d.round[e] {
			c.fail(t.off, "%s, and that is a circle", c.d.cycle(e))
		}
		c.d.round[e] = true
		return num{}, false
	}
	if !c.d.decode(e, sc) {
		return num{}, false
	}
	v := e.value
	if isPerLayer(v.Type()) {
		switch {
		case c.layer >= 0 && c.layer < v.Len():
			v = v.Index(c.layer)
		case varies(v):
			c.fail(t.off, "%s is not the same in all layers, so %s must be given", t.text, c.key())
			return num{}, false
		default:
			v = v.Index(0)
		}
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		return intNum(v.Int()), true
	case reflect.Uint64:
		return floatNum(float64(v.Uint())), true
	}
	return floatNum(v.Float()), true
}

// isNumeric says whether arithmetic may name a field of type t.
func isNumeric(t reflect.Type) bool {
	if isPerLayer(t) {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Int, reflect.Float64:
		return true
	}
	return false
}

// numericNames lists the names that arithmetic may use here.
func (c *valueContext) numericNames() (names []string) {
	for sc := c.sc; sc != nil; sc = sc.parent {
		for _, e := range sc.order {
			if isNumeric(e.field.Type) && !slices.Contains(names, e.key) {
				names = append(names, e.key)
			}
		}
	}
	return names
}

// filledIn writes t with the values of the names in it.
func (c *valueContext) filledIn(t *term) string {
	return t.print(func(name string) string {
		e, _ := c.sc.find(name)
		if e == nil || e.state != 2 || !isNumeric(e.field.Type) {
			return ""
		}
		v := e.value
		if isPerLayer(v.Type()) {
			v = v.Index(max(0, min(c.layer, v.Len()-1)))
		}
		if v.Kind() == reflect.Float64 {
			return floatNum(v.Float()).String()
		}
		return fmt.Sprint(v.Int())
	})
}

// equation writes a number with how it came about: 512 / 7, hidden_size / num_heads = 512 / 7, or just the number.
func (c *valueContext) equation(t *term, x num) string {
	parts := []string{t.String()}
	if with := c.filledIn(t); with != parts[0] {
		parts = append(parts, with)
	}
	if _, whole := x.whole(); whole && x.String() != parts[len(parts)-1] && t.op != "number" {
		parts = append(parts, x.String())
	}
	return clipEquation(strings.Join(parts, " = "))
}
