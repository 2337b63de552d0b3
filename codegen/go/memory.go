package gogen

import (
	"fmt"
	"go/token"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
)

// field is a planned place as generated code knows it: a field of the function's values struct. Values that share a
// place share the field, under the name of the first.
type field struct {
	name   string
	place  ir.Place
	typ    ir.Type
	vector bool     // []float32 instead of cpu.Mat
	values []string // IR names of the values that live here
}

// memory is how a function's values are reached from Go.
type memory struct {
	f      *ir.Func
	fields []*field
	of     map[*ir.Value]*field
}

// newMemory makes the fields of f's plan, in the order of the program.
func newMemory(f *ir.Func) *memory {
	m := &memory{f: f, of: map[*ir.Value]*field{}}
	names := map[string]bool{}
	type key struct {
		buffer       *ir.Buffer
		column, cols int
		dtype        ir.DType
	}
	byPlace := map[key]*field{}
	add := func(v *ir.Value) {
		p, ok := f.Plan.Places[v]
		if !ok {
			return
		}
		k := key{p.Buffer, p.Column, v.Type.Cols(), v.Type.DType}
		fd := byPlace[k]
		if fd == nil {
			fd = &field{name: unique(fieldName(v.Name), names), place: p, typ: v.Type, vector: isVector(v)}
			byPlace[k] = fd
			m.fields = append(m.fields, fd)
		}
		fd.values = append(fd.values, v.Name)
		m.of[v] = fd
	}
	f.Walk(func(op *ir.Op) {
		for _, r := range op.Results {
			if op.Loop == nil {
				add(r)
			}
		}
		if op.Loop != nil {
			for _, c := range op.Loop.Carries {
				add(c)
			}
		}
	})
	f.Walk(func(op *ir.Op) { // results of loops live where their last yield does
		if op.Loop != nil {
			for _, r := range op.Results {
				add(r)
			}
		}
	})
	return m
}

// fieldName is the Go name of a value as a field.
func fieldName(name string) string {
	if n := goName(name); !token.IsKeyword(n) {
		return n
	}
	return goName(name) + "Value"
}

func unique(name string, taken map[string]bool) string {
	u := name
	for i := 2; taken[u]; i++ {
		u = fmt.Sprintf("%s%d", strings.TrimRight(name, "0123456789"), i)
	}
	taken[u] = true
	return u
}

// isVector says whether kernels take v as a plain slice: statistics and losses by row.
func isVector(v *ir.Value) bool {
	if v.Op == nil {
		return false
	}
	for i, r := range v.Op.Results {
		if r != v {
			continue
		}
		switch v.Op.Kind {
		case "layernorm", "rmsnorm", "attention", "cross_entropy", "head_loss", "cross_entropy_grad":
			return i == 1
		case "add_layernorm", "add_rmsnorm", "head_loss_grad":
			return i == 2
		}
	}
	return false
}

// declare writes the struct of a function's values and the function that lays it over an arena.
//
//	type trainValues struct {
//		x [9]cpu.Mat // [B,T,D] x, x3: 9 slots at 0
//	}
//
//	func newTrainValues(arena []float32) trainValues { … }
func (m *memory) declare(file *jen.File, job string, dynamic bool) {
	typeName := job + "Values"
	file.Comment(fmt.Sprintf("%s are the values of %s, each in its planned place; those that share memory share a field.", typeName, job))
	file.Type().Id(typeName).StructFunc(func(s *jen.Group) {
		for _, fd := range m.fields {
			st := s.Id(fd.name)
			if n := fd.place.Buffer.Slots; n > 1 {
				st.Index(jen.Lit(n))
			}
			if fd.vector {
				st.Index().Float32()
			} else {
				st.Add(cpu("Mat"))
			}
			st.Comment(fmt.Sprintf("%s %s", fd.typ, strings.Join(fd.values, ", ")))
		}
	})
	file.Line()
	params := []jen.Code{raw("arena []float32")}
	if dynamic {
		params = append(params, raw("n int"))
		file.Comment(fmt.Sprintf("new%s lays the values of n rows over an arena.", title(typeName)))
	} else {
		file.Comment(fmt.Sprintf("new%s lays the values over an arena.", title(typeName)))
	}
	file.Func().Id("new" + title(typeName)).Params(params...).Id(typeName).BlockFunc(func(b *jen.Group) {
		b.Var().Id("v").Id(typeName)
		for _, fd := range m.fields {
			at := fmt.Sprint(fd.place.Buffer.Offset/4 + fd.place.Column)
			if fd.place.Buffer.Slots == 1 {
				b.Id("v." + fd.name).Op("=").Add(fd.view(at))
				continue
			}
			at += fmt.Sprintf("+i*%d", fd.place.Buffer.Slot/4)
			b.For(raw("i := range v.%s", fd.name)).Block(raw("v.%s[i]", fd.name).Op("=").Add(fd.view(at)))
		}
		b.Return(raw("v"))
	})
	file.Line()
}

// view is the Go expression of the field's slot at an offset of the arena.
func (fd *field) view(at string) *jen.Statement {
	if fd.vector {
		return raw("arena[%s:][:%s]", at, size(fd.typ))
	}
	stride := fmt.Sprint(fd.place.Stride)
	if fd.place.Stride == fd.typ.Cols() {
		stride = expr(fd.typ.Last().Expr)
	}
	return cpu("At").Call(raw("arena"), raw("%s", at), raw("%s", rows(fd.typ)), raw("%s", expr(fd.typ.Last().Expr)), raw("%s", stride))
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// ref is the Go expression for value v as an op in block from reads or writes it.
func (m *memory) ref(v *ir.Value, from *ir.Block) string {
	fd := m.of[v]
	if fd == nil {
		return ""
	}
	p := m.f.Plan.Places[v]
	if p.Buffer.Slots == 1 {
		return "v." + fd.name
	}
	if p.Loop == nil {
		return fmt.Sprintf("v.%s[%d]", fd.name, p.Shift)
	}
	return fmt.Sprintf("v.%s[%s]", fd.name, slot(p, indexLoop(v, p, from)))
}

// indexLoop is the loop whose variable chooses the slot: the one that v belongs to, or where a later loop reads v, that.
func indexLoop(v *ir.Value, p ir.Place, from *ir.Block) *ir.Loop {
	if l := ir.RefLoop(v, from); l != nil {
		own := *p.Loop
		own.Var = l.Var // the same index, counted from the place's own loop
		if own.Within != "" {
			own.Within = l.Within
		}
		return &own
	}
	return p.Loop
}

// slot writes which slot of p holds the instance of loop l's current iteration.
func slot(p ir.Place, l *ir.Loop) string {
	k := iteration(l)
	n := p.Buffer.Slots
	if p.Shift > 0 {
		k += fmt.Sprintf("+%d", p.Shift)
	}
	if n < p.Loop.Iterations()+p.Shift { // in turns
		if p.Shift > 0 || l.Reverse || l.From > 0 {
			k = "(" + k + ")"
		}
		k += fmt.Sprintf("%%%d", n)
	}
	return k
}

// iteration counts the iterations of a loop from 0, in its own order.
func iteration(l *ir.Loop) string {
	var k string
	switch {
	case l.Reverse && l.Within == "":
		k = fmt.Sprintf("%d-%s", l.To-1, l.Var)
	case l.Reverse:
		k = fmt.Sprintf("min(%s+%d, %d)-1-%s", l.Within, l.To, l.Limit, l.Var)
	case l.Within != "":
		k = l.Var + "-" + l.Within
	default:
		k = index(l.Var, l.From)
	}
	if l.Step > 1 {
		if strings.Contains(k, "-") && !strings.HasPrefix(k, "(") {
			k = "(" + k + ")"
		}
		k += fmt.Sprintf("/%d", l.Step)
	}
	return k
}

// index is a loop's variable less its start.
func index(v string, from int) string {
	if from == 0 {
		return v
	}
	return fmt.Sprintf("(%s-%d)", v, from)
}
