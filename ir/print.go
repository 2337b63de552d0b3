package ir

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Print writes f as text, one op a line, attributes sorted; parser.IR reads it back.
func Print(f *Func) string {
	p := &printer{}
	p.line("dims %s", strings.Join(symbols(f), " "))
	for _, q := range f.Params {
		p.param(q)
	}
	ins := make([]string, len(f.Inputs))
	for i, v := range f.Inputs {
		ins[i] = v.String() + " " + v.Type.String()
		if v.Axis != "" {
			ins[i] += " per " + v.Axis
		}
	}
	p.line("func %s(%s) {", f.Name, strings.Join(ins, ", "))
	p.block(f.Body)
	p.line("  return %s", p.values(f.Results, f.Body))
	p.line("}")
	return p.b.String()
}

// PrintOp writes one op as Print does, without its loop's body.
func PrintOp(op *Op) string {
	p := &printer{}
	p.op(op)
	head, _, _ := strings.Cut(p.b.String(), "\n")
	return strings.TrimSpace(head)
}

type printer struct {
	b      strings.Builder
	indent int
}

func (p *printer) line(format string, args ...any) {
	p.b.WriteString(strings.Repeat("  ", p.indent))
	fmt.Fprintf(&p.b, format, args...)
	p.b.WriteByte('\n')
}

func symbols(f *Func) []string {
	var out []string
	for _, s := range f.Symbols {
		eq := "="
		if s.Dynamic {
			eq = "<="
		}
		out = append(out, fmt.Sprintf("%s%s%d", s.Name, eq, s.Size))
	}
	return out
}

func (p *printer) param(q *Param) {
	kind := "param"
	if q.Cache {
		kind = "cache"
	}
	s := fmt.Sprintf("%s @%s %v", kind, q.Name, q.Type)
	if q.Axis != "" {
		s += fmt.Sprintf(" per %s %d..%d", q.Axis, q.From, q.To)
	}
	if len(q.Parts) > 0 {
		names := make([]string, len(q.Parts))
		for i, part := range q.Parts {
			names[i] = "@" + part.Name
		}
		s += " = rows(" + strings.Join(names, ", ") + ")"
	} else if !q.Cache {
		a := Attrs{"init": q.Init.Kind, "scale": q.Init.Scale}
		if q.Decay {
			a["decay"] = true
		}
		s += " " + attrText(a)
	}
	p.line("%s%s", s, comment(q.Pos, ""))
}

func comment(pos spec.Pos, by string) string {
	var parts []string
	if pos.IsValid() {
		parts = append(parts, pos.String())
	}
	if by != "" {
		parts = append(parts, "by "+by)
	}
	if len(parts) == 0 {
		return ""
	}
	return " // " + strings.Join(parts, " ")
}

func (p *printer) block(b *Block) {
	p.indent++
	for _, op := range b.Ops {
		p.op(op)
	}
	p.indent--
}

func results(vs []*Value) string {
	s := make([]string, len(vs))
	for i, v := range vs {
		s[i] = v.String() + " " + v.Type.String()
	}
	return strings.Join(s, ", ")
}

func (p *printer) op(op *Op) {
	if op.Loop != nil {
		p.loop(op)
		return
	}
	s := ""
	if len(op.Results) > 0 {
		s = results(op.Results) + " = "
	}
	s += op.Kind + "(" + p.values(op.Args, op.Block) + ")"
	if len(op.Into) > 0 {
		s += " into " + p.values(op.Into, op.Block)
	}
	if len(op.Attrs) > 0 {
		s += " " + attrText(op.Attrs)
	}
	p.line("%s%s", s, comment(op.Pos, op.By))
}

func (p *printer) loop(op *Op) {
	l := op.Loop
	s := ""
	if len(op.Results) > 0 {
		s = results(op.Results) + " = "
	}
	s += fmt.Sprintf("for %s in %s %s", l.Var, l.Axis, l.bounds())
	if len(l.Carries) > 0 {
		carries := make([]string, len(l.Carries))
		for i, c := range l.Carries {
			carries[i] = fmt.Sprintf("%v %v = %s", c, c.Type, Ref(op.Args[i], op.Block))
		}
		s += " carry " + strings.Join(carries, ", ")
	}
	p.line("%s {%s", s, comment(op.Pos, op.By))
	p.block(l.Body)
	if len(l.Yield) > 0 {
		p.line("  yield %s", p.values(l.Yield, l.Body))
	}
	p.line("}")
}

// bounds writes the range of a loop: 0..8, 8..0 downwards, s..s+2 within the loop over s; then its step.
func (l *Loop) bounds() string {
	at := func(n int) string {
		switch {
		case l.Within == "":
			return strconv.Itoa(n)
		case n == 0:
			return l.Within
		}
		return fmt.Sprintf("%s+%d", l.Within, n)
	}
	from, to := at(l.From), at(l.To)
	if l.Reverse {
		from, to = to, from
	}
	s := from + ".." + to
	if l.Within != "" {
		s += fmt.Sprintf(" below %d", l.Limit)
	}
	if l.Step != 1 {
		s += fmt.Sprintf(" step %d", l.Step)
	}
	return s
}

func (p *printer) values(vs []*Value, from *Block) string {
	s := make([]string, len(vs))
	for i, v := range vs {
		s[i] = Ref(v, from)
	}
	return strings.Join(s, ", ")
}

// Ref writes v as an op in block from reads it: %h, %h[l] for the instance of an earlier loop, @w[l] for a family's
// member, %tokens[m] for an input's instance, _ for none.
func Ref(v *Value, from *Block) string {
	if v == nil {
		return "_"
	}
	if l := RefLoop(v, from); l != nil {
		return fmt.Sprintf("%v[%s]", v, l.Var)
	}
	return v.String()
}

// RefLoop returns the loop whose index chooses v's instance when an op in block from reads it: nil when v is a single
// value, or the instance of the iteration that runs.
func RefLoop(v *Value, from *Block) *Loop {
	axis := v.Axis
	switch {
	case v.Param != nil:
		axis = v.Param.Axis
	case v.Block != nil:
		if v.Block.Encloses(from) || v.Block.Loop == nil {
			return nil
		}
		// A loop beside v's own, or where another stands there, the innermost one over v's axis within that.
		axis = v.Block.Loop.Loop.Axis
		var inner, beside *Loop
		for b := from; b != nil; b = b.Parent() {
			if b.Loop == nil {
				continue
			}
			if b.Parent() == v.Block.Parent() {
				beside = b.Loop.Loop
			}
			if inner == nil && b.Loop.Loop.Axis == axis {
				inner = b.Loop.Loop
			}
		}
		if inner == nil || beside != nil && beside.Axis == axis {
			return beside
		}
		return inner
	}
	for b := from; b != nil && axis != ""; b = b.Parent() {
		if b.Loop != nil && b.Loop.Loop.Axis == axis {
			return b.Loop.Loop
		}
	}
	return nil
}

func attrText(a Attrs) string {
	names := make([]string, 0, len(a))
	for n := range a {
		names = append(names, n)
	}
	sort.Strings(names)
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = n + ": " + attrValue(a[n])
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func attrValue(v any) string {
	switch v := v.(type) {
	case int:
		return strconv.Itoa(v)
	case bool:
		return strconv.FormatBool(v)
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s
	case string:
		return strconv.Quote(v)
	case []string:
		q := make([]string, len(v))
		for i, s := range v {
			q[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case []spec.Pattern:
		q := make([]string, len(v))
		for i, s := range v {
			q[i] = strconv.Quote(s.String())
		}
		return "[" + strings.Join(q, ", ") + "]"
	}
	panic(fmt.Sprintf("ir: attribute of type %T", v))
}
