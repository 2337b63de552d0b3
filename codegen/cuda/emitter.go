package cudagen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// processors is how many the largest devices have (H100 SXM, H200). Kernels are cut by it, and never by the device's, so that sums have one order
// on all.
const processors = 132

// emitter lowers the ops of one function.
type emitter struct {
	g            *generator
	f            *ir.Func
	scratchBytes int // the most any op needs
	scratchUsed  int // of the op at hand
	group        *ir.Group
	on, off      string // of the groups at hand
	measures     bool   // and whether they run in the first steps only
	err          error
}

// lower runs the row of op.
func (e *emitter) lower(op *ir.Op) {
	row := table[op.Kind]
	if row == nil {
		e.fail(op, "there is no CUDA kernel for it")
		return
	}
	e.scratchUsed = 0
	row(e, op)
	e.count(op)
}

func (e *emitter) fail(op *ir.Op, format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf("%s (%v): %s", op.Kind, op.Pos, fmt.Sprintf(format, args...))
	}
}

// emit launches a kernel.
func (e *emitter) emit(op *ir.Op, k kernel) {
	n, dynamic := e.rows(k.rows)
	if k.items > 0 {
		n = k.items
	}
	base := append([]constant{integer("rows", n)}, k.config...)
	l := ir.Launch{Grid: k.grid, Cost: k.cost(), Share: k.share}
	for i := range l.Grid {
		if l.Grid[i] == (ir.Count{}) {
			l.Grid[i].N = 1
		}
	}
	if k.layers == nil {
		l.Kernels = []*ir.Kernel{e.g.kernel(op, &k, base, dynamic)}
	}
	for _, more := range k.layers {
		l.Kernels = append(l.Kernels, e.g.kernel(op, &k, append(append([]constant(nil), base...), more...), dynamic))
	}
	for _, p := range k.params {
		l.Args = append(l.Args, p.operand)
	}
	if dynamic {
		l.Args = append(l.Args, ir.Operand{Kind: ir.OperandRows})
	}
	e.add(op, l)
}

// add appends a launch to op's, in the group at hand if there is one.
func (e *emitter) add(op *ir.Op, l ir.Launch) {
	if e.group != nil {
		e.group.Launches = append(e.group.Launches, l)
		return
	}
	stay(l)
	groups := e.g.code.Launches[op]
	if n := len(groups) - 1; n >= 0 && groups[n].Times == 1 && groups[n].On == e.on && groups[n].Off == e.off && groups[n].Measures == e.measures {
		groups[n].Launches = append(groups[n].Launches, l)
	} else {
		groups = append(groups, ir.Group{Times: 1, On: e.on, Off: e.off, Measures: e.measures, Launches: []ir.Launch{l}})
	}
	e.g.code.Launches[op] = groups
}

// stay makes the operands of a launch that runs once stay where they are.
func stay(l ir.Launch) {
	for i := range l.Args {
		l.Args[i].Step = 0
	}
}

// choose launches what on does on devices of an architecture, and what others does on all others that the program is for.
func (e *emitter) choose(arch string, on, others func()) {
	has := slices.Contains(e.g.Archs, arch)
	both, used := has && len(e.g.Archs) > 1, e.scratchUsed
	if has {
		if both {
			e.on = arch
		}
		on()
		e.on = ""
	}
	if !has || both {
		if both {
			e.off = arch
		}
		e.scratchUsed = used
		others()
		e.off = ""
	}
}

// repeat runs what body launches so many times, one after another; the operands say how far they advance (param.step).
func (e *emitter) repeat(op *ir.Op, times int, body func()) {
	e.group = &ir.Group{Times: times, On: e.on, Off: e.off}
	body()
	if times == 1 {
		for _, l := range e.group.Launches {
			stay(l)
		}
	}
	e.g.code.Launches[op] = append(e.g.code.Launches[op], *e.group)
	e.group = nil
}

// step is p advancing by so many bytes each time a repeated launch runs.
func (p param) step(bytes int) param { p.operand.Step = bytes; return p }

// at is p moved by so many bytes.
func (p param) at(bytes int) param { p.operand.Offset += bytes; return p }

// clear sets bytes of a parameter's memory to zero.
func (e *emitter) clear(op *ir.Op, p param, bytes int) {
	e.add(op, ir.Launch{Clear: bytes, Args: []ir.Operand{p.operand}})
}

// rows returns the rows of v, the most where they are known only at the call.
func (e *emitter) rows(v *ir.Value) (n int, dynamic bool) {
	if v == nil {
		return 1, false
	}
	dims := v.Type.Dims
	if v.Type.DType != ir.I32 && len(dims) > 0 { // the last axis of anything but indices is its columns
		dims = dims[:len(dims)-1]
	}
	n = 1
	for _, d := range dims {
		n *= d.Size
		for _, s := range e.f.Symbols {
			if s.Dynamic && strings.Contains(d.Expr, s.Name) {
				dynamic = true
			}
		}
	}
	return n, dynamic
}

// perRows is a grid of one block for each per rows of v.
func (e *emitter) perRows(v *ir.Value, per int) [3]ir.Count { return e.grid(v, per, 1) }

// grid is a grid of times blocks for each per rows of v, in x.
func (e *emitter) grid(v *ir.Value, per, times int) [3]ir.Count {
	n, dynamic := e.rows(v)
	if dynamic {
		return [3]ir.Count{{N: times, Per: per}}
	}
	return [3]ir.Count{{N: (n + per - 1) / per * times}}
}

// blocks is a grid of n blocks.
func blocks(n int) [3]ir.Count { return [3]ir.Count{{N: n}} }

// has says whether v has memory: whether somebody reads it, or its kernel cannot do without.
func (e *emitter) has(v *ir.Value) bool {
	if v == nil {
		return false
	}
	_, ok := e.f.Plan.Places[v]
	return ok || v.Param != nil || v.Block == nil
}

// stride is how many elements lie from row to row of v.
func (e *emitter) stride(v *ir.Value) int {
	if v == nil {
		return 0
	}
	if p, ok := e.f.Plan.Places[v]; ok {
		return p.Stride
	}
	return v.Type.Cols()
}

// column is where v's columns start in its rows.
func (e *emitter) column(v *ir.Value) int { return e.f.Plan.Places[v].Column }

// vec is how many elements of 16 bits (or of 32, then half as many) an access of up to 16 bytes may take: a power of two
// that divides cols, and the strides and column offsets of all values with memory.
func (e *emitter) vec(cols int, values ...*ir.Value) int {
	n := 8
	fits := func(x int) {
		for x%n != 0 {
			n /= 2
		}
	}
	fits(cols)
	for _, v := range values {
		if v == nil || !e.has(v) {
			continue
		}
		for n*v.Type.DType.Bytes() > 16 && n > 4 {
			n /= 2
		}
		fits(e.stride(v))
		fits(e.column(v))
	}
	return n
}

// in is argument i of op, read: null where it is absent.
func (e *emitter) in(op *ir.Op, i int, name string) param {
	if i >= len(op.Args) || op.Args[i] == nil {
		return null("const "+ctype(e.g.code.Element)+" *", name)
	}
	return e.read(op.Args[i], name)
}

// read is a value, read.
func (e *emitter) read(v *ir.Value, name string) param {
	return param{"const " + ctype(v.Type.DType) + " *", name, ir.Operand{Kind: ir.OperandValue, Value: v}, e.size(v)}
}

// written is a value, written.
func (e *emitter) written(v *ir.Value, name string) param {
	return param{ctype(v.Type.DType) + " *", name, ir.Operand{Kind: ir.OperandValue, Value: v}, e.size(v)}
}

// out is result i of op, written: null where nobody reads it and the kernel can do without.
func (e *emitter) out(op *ir.Op, i int, name string) param {
	r := op.Results[i]
	if len(r.Type.Dims) > 0 && !e.has(r) {
		return null(ctype(r.Type.DType)+" *", name)
	}
	return e.written(r, name)
}

func null(ctype, name string) param { return param{ctype: ctype, name: name} }

// weight is parameter argument i, f32; null where it is absent.
func (e *emitter) weight(op *ir.Op, i int, name string) param {
	return e.param(op.Args[i], "const float *", name, ir.OperandWeight, ir.F32)
}

// copied is parameter argument i as products read it, in the activations' type.
func (e *emitter) copied(op *ir.Op, i int, name string) param {
	return e.param(op.Args[i], "const "+ctype(e.g.code.Element)+" *", name, ir.OperandCopy, e.g.code.Element)
}

// grad is the gradient i that op adds to, f32, read and written; null where it is absent.
func (e *emitter) grad(op *ir.Op, i int, name string) param {
	if i >= len(op.Into) {
		return null("float *", name)
	}
	return e.param(op.Into[i], "float *", name, ir.OperandGrad, ir.F32).updated()
}

// cache is a key-value cache argument, in the activations' type. What moves of it depends on positions: see ir.Cost.
func (e *emitter) cache(op *ir.Op, i int, name string) param {
	return e.param(op.Args[i], ctype(e.g.code.Element)+" *", name, ir.OperandCache, e.g.code.Element).moving(moved{})
}

// param is a parameter of the model in elements of type d, all of which move.
func (e *emitter) param(v *ir.Value, ctype, name string, kind ir.OperandKind, d ir.DType) param {
	if v == nil {
		return null(ctype, name)
	}
	return param{ctype, name, ir.Operand{Kind: kind, Value: v}, moved{bytes: v.Type.Elems() * d.Bytes()}}
}

// state is the device's state (state.cuh).
func (e *emitter) state(name string) param {
	return param{ctype: "State *", name: name, operand: ir.Operand{Kind: ir.OperandState}}
}

// buffer is a whole buffer of elements of type d: weights, copies, gradients, first, second.
func (e *emitter) buffer(d ir.DType, name, which string) param {
	return param{ctype(d) + " *", name, ir.Operand{Kind: ir.OperandBuffer, Name: which}, moved{bytes: e.g.WeightFloats * d.Bytes()}}
}

// scratch is workspace for this op: bytes from the next multiple of 256 on.
func (e *emitter) scratch(ctype, name string, bytes int) param {
	p := param{ctype, name, ir.Operand{Kind: ir.OperandScratch, Offset: e.scratchUsed}, moved{bytes: bytes}}
	e.scratchUsed += (bytes + 255) / 256 * 256
	e.scratchBytes = max(e.scratchBytes, e.scratchUsed)
	return p
}

// rotary is the table of cosines, or sines, of a rope op: [max, pairs] floats, of which a row of x reads one.
func (e *emitter) rotary(op *ir.Op, name string, sine bool) param {
	freqs, scale := ir.Rotary(op)
	t := ir.RotaryTable{Freqs: freqs, Scale: scale, Max: op.Int("max"), Sine: sine}
	p := param{ctype: "const float *", name: name, operand: ir.Operand{Kind: ir.OperandTable, N: e.g.table(t)}}
	return e.gathered(p, op.Args[0], t.Max, 4*len(freqs))
}

// layer and micro are the loop variables that op stands under, 0 outside of loops.
func (e *emitter) layer(name string) param {
	return param{ctype: "int ", name: name, operand: ir.Operand{Kind: ir.OperandLayer}}
}
func (e *emitter) micro(name string) param {
	return param{ctype: "int ", name: name, operand: ir.Operand{Kind: ir.OperandMicro}}
}
