package ir

import (
	"fmt"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Verify says what is wrong with f: an op that does not fit its row, a value read before it is written or outside of
// where it lives, a name used twice, a wrong type. Every pass must leave a function that verifies.
func Verify(f *Func) error {
	v := &verifier{f: f, names: map[string]bool{}, params: map[*Value]bool{}, seen: map[*Value]bool{}}
	for _, p := range f.Params {
		if p.Value == nil || v.names["@"+p.Name] {
			return fmt.Errorf("%s: parameter @%s is there twice", f.Name, p.Name)
		}
		v.names["@"+p.Name], v.params[p.Value] = true, true
		if err := v.packed(p); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	for _, in := range f.Inputs {
		if err := v.define(in); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	if err := v.block(f.Body); err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	for _, r := range f.Results {
		if r == nil {
			return fmt.Errorf("%s: returns _", f.Name)
		}
		if err := v.read(r, f.Body); err != nil {
			return fmt.Errorf("%s: return: %w", f.Name, err)
		}
	}
	return nil
}

type verifier struct {
	f      *Func
	names  map[string]bool
	params map[*Value]bool
	seen   map[*Value]bool // defined so far
}

func (v *verifier) packed(p *Param) error {
	if len(p.Parts) == 0 {
		return nil
	}
	rows := 0
	for _, part := range p.Parts {
		if !v.params[part.Value] || len(part.Parts) > 0 || part.Axis != p.Axis || part.From != p.From || part.To != p.To || part.Decay != p.Decay {
			return fmt.Errorf("@%s cannot be packed from @%s", p.Name, part.Name)
		}
		rows += part.Type.Elems()
	}
	if rows != p.Type.Elems() {
		return fmt.Errorf("@%s has %d elements, its parts %d", p.Name, p.Type.Elems(), rows)
	}
	return nil
}

func (v *verifier) define(x *Value) error {
	if v.names["%"+x.Name] {
		return fmt.Errorf("%v is defined twice", x)
	}
	v.names["%"+x.Name], v.seen[x] = true, true
	return nil
}

// read checks that an op in block from may read x.
func (v *verifier) read(x *Value, from *Block) error {
	if x.Param != nil {
		if !v.params[x] {
			return fmt.Errorf("%v is not a parameter of the function", x)
		}
		if l := RefLoop(x, from); x.Param.Axis != "" && !covers(l, from, x.Param.From, x.Param.To) {
			return fmt.Errorf("%v is read outside of a loop over %s %d..%d", x, x.Param.Axis, x.Param.From, x.Param.To)
		}
		return nil
	}
	if !v.seen[x] {
		return fmt.Errorf("%v is read before it is written", x)
	}
	if x.Block == nil || x.Block.Encloses(from) {
		return nil
	}
	l, own := RefLoop(x, from), x.Block.Loop.Loop
	if l != nil && l.Within != "" && own.Within == "" && own.Step == 1 { // a segment's layers, of values that are kept for all
		if !covers(l, from, own.From, own.To) {
			return fmt.Errorf("%v is read beyond %d..%d, where it lives", x, own.From, own.To)
		}
		return nil
	}
	if l == nil || l.Axis != own.Axis || l.Within != own.Within && (l.Within == "" || own.Within == "") || l.Step != own.Step {
		return fmt.Errorf("%v is read outside of a loop over its own %s", x, own.Axis)
	}
	if l.From < own.From || l.To > own.To {
		return fmt.Errorf("%v is read by a loop over %d..%d, but lives in %d..%d", x, l.From, l.To, own.From, own.To)
	}
	return nil
}

// covers says whether every index of loop l, in block from, lies in [lo, hi).
func covers(l *Loop, from *Block, lo, hi int) bool {
	if l == nil {
		return false
	}
	if l.Within == "" {
		return l.From >= lo && l.To <= hi
	}
	for b := from; b != nil; b = b.Parent() {
		if b.Loop != nil && b.Loop.Loop.Var == l.Within {
			return b.Loop.Loop.From >= lo && l.Limit <= hi
		}
	}
	return false
}

func (v *verifier) block(b *Block) error {
	for _, op := range b.Ops {
		if op.Block != b {
			return fmt.Errorf("%s: is not in the block that holds it", PrintOp(op))
		}
		if err := v.op(op); err != nil {
			return fmt.Errorf("%s: %w", PrintOp(op), err)
		}
		for _, r := range op.Results {
			if r.Op != op || r.Block != b {
				return fmt.Errorf("%s: result %v does not point back", PrintOp(op), r)
			}
			if err := v.define(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) op(op *Op) error {
	for _, a := range op.Args {
		if a == nil {
			continue
		}
		if err := v.read(a, op.Block); err != nil {
			return err
		}
	}
	if op.Loop != nil {
		return v.loop(op)
	}
	def := Table[op.Kind]
	if def == nil {
		return fmt.Errorf("no such op")
	}
	if err := fits(def.Args, op.Args, "arguments"); err != nil {
		return err
	}
	if err := fits(def.Into, op.Into, "gradients"); err != nil && (len(op.Into) > 0 || lacks(def.Into)) { // an op that need not add to any says nothing of them
		return err
	}
	for _, w := range op.Into {
		if w != nil && w.Param == nil {
			return fmt.Errorf("%v is no parameter to add a gradient to", w)
		}
		if w != nil {
			if err := v.read(w, op.Block); err != nil {
				return err
			}
		}
	}
	if err := checkAttrs(def, op); err != nil {
		return err
	}
	types, err := shape(def, op)
	if err != nil {
		return err
	}
	if len(types) != len(op.Results) {
		return fmt.Errorf("has %d results, want %d", len(op.Results), len(types))
	}
	for i, t := range types {
		if !op.Results[i].Type.SameShape(t) {
			return fmt.Errorf("result %v is %v, want %v", op.Results[i], op.Results[i].Type, t)
		}
	}
	return nil
}

// shape calls the row's rule. Rules index axes freely: operands of another rank end here.
func shape(def *OpDef, op *Op) (types []Type, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("operands of the wrong rank")
		}
	}()
	return def.Shape(op)
}

func (v *verifier) loop(op *Op) error {
	l := op.Loop
	if len(op.Args) != len(l.Carries) || len(l.Yield) != len(l.Carries) || len(op.Results) != len(l.Carries) {
		return fmt.Errorf("starts %d, carries %d, yields %d and returns %d values", len(op.Args), len(l.Carries), len(l.Yield), len(op.Results))
	}
	if l.Step < 1 || l.From < 0 || l.To < l.From {
		return fmt.Errorf("runs over %d..%d by %d", l.From, l.To, l.Step)
	}
	if l.Body.Loop != op {
		return fmt.Errorf("the body does not point back")
	}
	if err := nests(op); err != nil {
		return err
	}
	for i, c := range l.Carries {
		if err := v.define(c); err != nil {
			return err
		}
		if c.Block != l.Body || !c.Type.Same(op.Args[i].Type) || !c.Type.Same(op.Results[i].Type) {
			return fmt.Errorf("carry %v is %v, starts as %v, ends as %v", c, c.Type, op.Args[i].Type, op.Results[i].Type)
		}
	}
	if err := v.block(l.Body); err != nil {
		return err
	}
	for i, y := range l.Yield {
		if err := v.read(y, l.Body); err != nil {
			return fmt.Errorf("yield: %w", err)
		}
		if y.Param != nil || !y.Type.Same(l.Carries[i].Type) {
			return fmt.Errorf("yields %v for %v", y.Type, l.Carries[i].Type)
		}
	}
	return nil
}

// nests checks that a loop has an index and an axis of its own, or goes on along that of the loop it is within.
func nests(op *Op) error {
	l := op.Loop
	found := false
	for b := op.Block; b.Loop != nil; b = b.Parent() {
		outer := b.Loop.Loop
		switch {
		case outer.Var == l.Var:
			return fmt.Errorf("its index %s is that of the loop around it", l.Var)
		case outer.Var == l.Within:
			found = outer.Axis == l.Axis
		case outer.Axis == l.Axis:
			return fmt.Errorf("a loop around it runs over %s too", l.Axis)
		}
	}
	if l.Within != "" && !found {
		return fmt.Errorf("no loop over %s with the index %s is around it", l.Axis, l.Within)
	}
	return nil
}

// fits checks a list of values against the names in a row: "?" ends an optional one, "..." a repeated one, "?..." one that may not be
// there at all.
func fits(names []string, vs []*Value, what string) error {
	if n := len(names); n > 0 && len(names[n-1]) > 3 && names[n-1][len(names[n-1])-3:] == "..." {
		if strings.HasSuffix(names[n-1], "?...") {
			n--
		}
		if len(vs) < n {
			return fmt.Errorf("has %d %s, want at least %d", len(vs), what, n)
		}
		return nil
	}
	if len(vs) > len(names) {
		return fmt.Errorf("has %d %s, want %d", len(vs), what, len(names))
	}
	for i, n := range names {
		if n[len(n)-1] == '?' {
			continue
		}
		if i >= len(vs) || vs[i] == nil {
			return fmt.Errorf("lacks %s", n)
		}
	}
	if len(vs) != len(names) {
		return fmt.Errorf("has %d %s, want %d, _ for those absent", len(vs), what, len(names))
	}
	return nil
}

// lacks says whether one of the names must be there.
func lacks(names []string) bool {
	for _, n := range names {
		if n[len(n)-1] != '?' {
			return true
		}
	}
	return false
}

func checkAttrs(def *OpDef, op *Op) error {
	known := map[string]bool{}
	for _, a := range append([]Attr{{"kernel", "string", true}}, def.Attrs...) {
		known[a.Name] = true
		v, ok := op.Attrs[a.Name]
		if !ok {
			if !a.Optional {
				return fmt.Errorf("lacks the attribute %s", a.Name)
			}
			continue
		}
		switch v.(type) {
		case int:
			ok = a.Kind == "int"
		case float64:
			ok = a.Kind == "float"
		case bool:
			ok = a.Kind == "bool"
		case string:
			ok = a.Kind == "string"
		case []string:
			ok = a.Kind == "strings"
		case []spec.Pattern:
			ok = a.Kind == "patterns"
		}
		if !ok {
			return fmt.Errorf("attribute %s is %v, want %s", a.Name, v, a.Kind)
		}
	}
	for name := range op.Attrs {
		if !known[name] {
			return fmt.Errorf("takes no attribute %s", name)
		}
	}
	for _, in := range []string{"tf32", "bf16"} {
		if op.Bool(in) && op.Args[0] != nil && op.Args[0].Type.DType != F32 {
			return fmt.Errorf("multiplies %v in %s, which is for f32", op.Args[0].Type.DType, in)
		}
	}
	return nil
}
