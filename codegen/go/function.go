package gogen

import (
	"fmt"
	"go/token"
	"strconv"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
)

// emitter writes the Go function of one IR function.
type emitter struct {
	g   *generator
	f   *ir.Func
	mem *memory
	err error
}

// results are the Go results of each job, and what they are.
var signatures = map[string]struct{ receiver, params, results, doc string }{
	"train": {"t *trainer", "tokens, targets []int32, lr float32, step int, seed uint64", "float32, float32",
		"train is one optimizer step: every micro-batch forward and backward, then the update. It returns the mean loss over\n" +
			"the targets that count, and the norm of the whole gradient before clipping."},
	"eval":    {"t *trainer", "tokens, targets []int32", "float32, float32", "eval returns the summed loss of one micro-batch, and how many targets it counts."},
	"logits":  {"g *generator", "tokens []int32", "[]float32", "logits gives the logits [n, VocabSize] of every position of one sequence of n tokens."},
	"prefill": {"g *generator", "tokens, positions, slots []int32", "[]float32", "prefill puts n tokens into the key-value cache and gives the logits [VocabSize] after the last."},
	"decode":  {"g *generator", "tokens, positions, slots []int32", "[]float32", "decode puts one token into each of n slots of the cache and gives their logits [n, VocabSize]."},
}

// dynamic says whether a job's rows are known only when it is called.
func dynamic(f *ir.Func) bool {
	for _, s := range f.Symbols {
		if s.Dynamic {
			return true
		}
	}
	return false
}

func (g *generator) function(f *ir.Func) (*jen.File, error) {
	e := &emitter{g: g, f: f, mem: newMemory(f)}
	file := g.file()
	e.mem.declare(file, f.Name, dynamic(f))
	sig := signatures[f.Name]
	for _, line := range strings.Split(sig.doc, "\n") {
		file.Comment(line)
	}
	file.Func().Params(raw("%s", sig.receiver)).Id(f.Name).Params(raw("%s", sig.params)).Params(raw("%s", sig.results)).BlockFunc(func(b *jen.Group) {
		e.locals(b, sig.receiver[:1])
		e.block(b, f.Body)
		b.Return(e.returned()...)
	})
	return file, e.err
}

// locals names what the function works on: the pool, the weights w, their gradients d, its values v, the positions.
func (e *emitter) locals(b *jen.Group, self string) {
	job := e.f.Name
	grads, positions := false, false
	e.f.Walk(func(op *ir.Op) {
		grads = grads || len(op.Into) > 0
		for _, a := range op.Args {
			positions = positions || a != nil && a == e.f.Input("positions")
		}
	})
	b.List(jen.Id("pool"), jen.Id("w")).Op(":=").Add(raw("%s.pool, &%s.weights", self, self))
	if grads {
		b.Id("d").Op(":=").Add(raw("&t.gradients"))
	}
	if dynamic(e.f) {
		b.Id("n").Op(":=").Len(jen.Id("tokens"))
		b.Id("v").Op(":=").Add(raw("new%sValues(%s.arena, n)", title(job), self))
	} else {
		b.Id("v").Op(":=").Add(raw("&t.%sValues", job))
	}
	if positions {
		switch job {
		case "train", "eval":
			b.Id("positions").Op(":=").Add(raw("t.positions"))
		case "logits":
			b.Id("positions").Op(":=").Add(raw("g.positions[:n]"))
		}
	}
}

func (e *emitter) returned() []jen.Code {
	var out []jen.Code
	for _, r := range e.f.Results {
		if len(r.Type.Dims) > 0 {
			out = append(out, raw("%s.Data", e.mem.ref(r, e.f.Body)))
			continue
		}
		out = append(out, raw("%s", e.scalar(r)))
	}
	return out
}

// comment says which IR op a statement is, where in the spec it comes from, and which pass wrote it.
func (e *emitter) comment(b *jen.Group, op *ir.Op) {
	var results []string
	for _, r := range op.Results {
		results = append(results, r.Name)
	}
	args, into := names(op.Args, op.Block), names(op.Into, op.Block)
	text := op.Kind + "(" + strings.Join(args, ", ") + ")"
	if len(into) > 0 {
		text += " into " + strings.Join(into, ", ")
	}
	if len(results) > 0 {
		text = strings.Join(results, ", ") + " = " + text
	}
	var origin []string
	if op.Pos.IsValid() {
		origin = append(origin, fmt.Sprintf("%s:%d", base(op.Pos.File), op.Pos.Line))
	}
	if op.By != "" {
		origin = append(origin, op.By)
	}
	if len(origin) > 0 {
		text += "  [" + strings.Join(origin, ", ") + "]"
	}
	b.Comment(text)
}

// names writes values as an op in a block reads them, those absent left out.
func names(vs []*ir.Value, from *ir.Block) []string {
	var out []string
	for _, v := range vs {
		if v != nil {
			out = append(out, strings.TrimLeft(ir.Ref(v, from), "%@"))
		}
	}
	return out
}

func base(file string) string { return file[strings.LastIndexByte(file, '/')+1:] }

func (e *emitter) block(b *jen.Group, block *ir.Block) {
	for _, op := range block.Ops {
		if op.Loop != nil {
			e.loop(b, op)
			continue
		}
		write := emitters[op.Kind]
		if write == nil {
			if e.err == nil {
				e.err = fmt.Errorf("%s (%v): the Go generator does not know this op", op.Kind, op.Pos)
			}
			continue
		}
		if op.Kind != "zero" && op.Kind != "cast" {
			e.comment(b, op)
		}
		write(e, b, op)
	}
}

// loop writes a loop over micro-batches or layers.
func (e *emitter) loop(b *jen.Group, op *ir.Op) {
	l := op.Loop
	b.Line()
	for i, c := range l.Carries {
		if len(c.Type.Dims) == 0 {
			b.Id(e.scalar(c)).Op(":=").Float32().Call(raw("%s", e.scalar(op.Args[i])))
			continue
		}
		start := *l
		if into := e.carried(c, &start, 0); into != e.mem.ref(op.Args[i], op.Block) {
			b.Add(cpu("Copy").Call(jen.Id("pool"), raw("%s", into), raw("%s", e.mem.ref(op.Args[i], op.Block))))
		}
	}
	b.Comment(about(op))
	b.Add(e.header(l)).BlockFunc(func(body *jen.Group) {
		if l.Axis == "micro" {
			e.slices(body, l)
		}
		e.block(body, l.Body)
		for i, c := range l.Carries {
			y := l.Yield[i]
			if len(c.Type.Dims) == 0 {
				body.Id(e.scalar(c)).Op("=").Id(e.scalar(y))
				continue
			}
			if next, from := e.next(c, l), e.mem.ref(y, l.Body); next != from {
				body.Add(cpu("Copy").Call(jen.Id("pool"), raw("%s", next), raw("%s", from)))
			}
		}
	})
	b.Line()
}

// about says what a loop runs over.
func about(op *ir.Op) string {
	l := op.Loop
	text := map[string]string{"layers": "The layers", "micro": "The micro-batches"}[l.Axis]
	switch {
	case l.Within != "":
		text += " of the segment"
	case l.Step > 1:
		text += fmt.Sprintf(", a segment of %d at a time", l.Step)
	}
	if l.Reverse {
		text += ", last to first"
	}
	if op.By != "" {
		text += "  [" + op.By + "]"
	}
	return text
}

// header is the for clause of a loop.
func (e *emitter) header(l *ir.Loop) *jen.Statement {
	v := l.Var
	from, to := fmt.Sprint(l.From), fmt.Sprint(l.To)
	switch {
	case l.Axis == "micro":
		to = "MicroBatches"
	case l.To == e.g.Spec.Model.NumLayers:
		to = "NumLayers"
	}
	if l.Within != "" {
		from, to = l.Within, fmt.Sprintf("min(%s+%d, %d)", l.Within, l.To, l.Limit)
	}
	if l.Reverse {
		first := to + " - 1"
		if _, err := strconv.Atoi(to); err == nil || l.Step > 1 {
			first = fmt.Sprint(l.From + (l.Iterations()-1)*l.Step)
		}
		step := v + "--"
		if l.Step > 1 {
			step = fmt.Sprintf("%s -= %d", v, l.Step)
		}
		return jen.For(raw("%s := %s", v, first), raw("%s >= %s", v, from), raw("%s", step))
	}
	if l.From == 0 && l.Within == "" && l.Step == 1 {
		return jen.For(raw("%s := range %s", v, to))
	}
	step := v + "++"
	if l.Step > 1 {
		step = fmt.Sprintf("%s += %d", v, l.Step)
	}
	return jen.For(raw("%s := %s", v, from), raw("%s < %s", v, to), raw("%s", step))
}

// slices cuts this micro-batch out of the inputs.
func (e *emitter) slices(b *jen.Group, l *ir.Loop) {
	for _, in := range e.f.Inputs {
		if in.Axis == l.Axis {
			n := size(in.Type)
			b.Id(in.Name).Op(":=").Add(raw("%s[%s*%s:][:%s]", in.Name, l.Var, n, n))
		}
	}
}

// carried is where carry c lives in iteration k of loop l, a constant.
func (e *emitter) carried(c *ir.Value, l *ir.Loop, k int) string {
	fd, p := e.mem.of[c], e.f.Plan.Places[c]
	if p.Buffer.Slots == 1 {
		return "v." + fd.name
	}
	return fmt.Sprintf("v.%s[%d]", fd.name, (k+p.Shift)%p.Buffer.Slots)
}

// next is where carry c lives in the next iteration.
func (e *emitter) next(c *ir.Value, l *ir.Loop) string {
	fd, p := e.mem.of[c], e.f.Plan.Places[c]
	if p.Buffer.Slots == 1 {
		return "v." + fd.name
	}
	p.Shift++
	return fmt.Sprintf("v.%s[%s]", fd.name, slot(p, l))
}

// scalar is the Go variable of a value without axes.
func (e *emitter) scalar(v *ir.Value) string {
	if v.Op != nil && v.Op.Kind == "zero" {
		return "0"
	}
	if v.Op != nil && v.Op.Loop != nil { // what the loop carried last
		for i, r := range v.Op.Results {
			if r == v {
				return e.scalar(v.Op.Loop.Carries[i])
			}
		}
	}
	if v.Block == nil { // an input
		return v.Name
	}
	if name := goName(v.Name); !taken[name] && !token.IsKeyword(name) {
		return name
	}
	return goName(v.Name) + "Value"
}
