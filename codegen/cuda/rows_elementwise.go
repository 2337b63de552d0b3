package cudagen

import "github.com/tfc-dev/tfc/ir"

// elementwiseRows are the ops that compute each element from those at its place, and copies.
var elementwiseRows = map[string]lowering{
	"embed": func(e *emitter, op *ir.Op) {
		y := op.Results[0]
		e.elementwise(op, "embed", y, strides{"y": y}, []constant{number("scale", op.Float("scale"))},
			e.out(op, 0, "y"), e.in(op, 0, "tokens"), e.table(op, 1, "table"))
	},
	"add_positions": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "add_positions", op.Args[0], strides{"y": op.Results[0], "x": op.Args[0]}, nil,
			e.out(op, 0, "y"), e.in(op, 0, "x"), e.table(op, 1, "table"), e.in(op, 2, "positions"))
	},
	"bias": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "bias", op.Args[0], strides{"y": op.Results[0], "x": op.Args[0]}, nil, e.out(op, 0, "y"), e.in(op, 0, "x"), e.weight(op, 1, "b"))
	},
	"act":      func(e *emitter, op *ir.Op) { e.activate(op, op.Str("fn"), op.Args[0], op.Results[0]) },
	"act_grad": func(e *emitter, op *ir.Op) { e.activateGrad(op, op.Str("fn"), op.Args[0], op.Args[1], op.Results[0]) },
	"glu": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "glu", op.Args[0], strides{"y": op.Results[0], "a": op.Args[0], "b": op.Args[1]}, []constant{fn(op.Str("fn"))},
			e.out(op, 0, "y"), e.in(op, 0, "gate"), e.in(op, 1, "up"))
	},
	"glu_grad": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "glu_grad", op.Args[0],
			strides{"dgate": op.Results[0], "dup": op.Results[1], "dy": op.Args[0], "gate": op.Args[1], "up": op.Args[2]}, []constant{fn(op.Str("fn"))},
			e.out(op, 0, "dgate"), e.out(op, 1, "dup"), e.in(op, 0, "dy"), e.in(op, 1, "gate"), e.in(op, 2, "up"))
	},
	"add": func(e *emitter, op *ir.Op) {
		if len(op.Result().Type.Dims) == 0 {
			e.emit(op, kernel{file: "reduce.cuh", body: "add_scalars", params: []param{e.out(op, 0, "y"), e.in(op, 0, "a"), e.in(op, 1, "b")}, threads: 32, grid: blocks(1)})
			return
		}
		by := op.Float("by")
		if by == 0 {
			by = 1
		}
		e.elementwise(op, "add", op.Args[0], strides{"y": op.Results[0], "a": op.Args[0], "b": op.Args[1]}, []constant{number("by", by)},
			e.out(op, 0, "y"), e.in(op, 0, "a"), e.in(op, 1, "b"))
	},
	"scale": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "scale", op.Args[0], strides{"y": op.Results[0], "x": op.Args[0]}, []constant{number("by", op.Float("by"))}, e.out(op, 0, "y"), e.in(op, 0, "x"))
	},
	"softcap": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "softcap", op.Args[0], strides{"y": op.Results[0], "x": op.Args[0]}, []constant{number("cap", op.Float("cap"))}, e.out(op, 0, "y"), e.in(op, 0, "x"))
	},
	"softcap_grad": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "softcap_grad", op.Args[1], strides{"y": op.Results[0], "a": op.Args[0], "b": op.Args[1]}, []constant{number("cap", op.Float("cap"))},
			e.out(op, 0, "dx"), e.in(op, 0, "dy"), e.in(op, 1, "x"))
	},
	"dropout": func(e *emitter, op *ir.Op) {
		e.elementwise(op, "dropout", op.Args[0], strides{"y": op.Results[0], "x": op.Args[0]}, []constant{number("p", op.Float("p")), integer("stream", op.Int("stream"))},
			e.out(op, 0, "y"), e.in(op, 0, "x"), e.state("state"), e.micro("micro"), e.layer("layer"))
	},
	"concat": func(e *emitter, op *ir.Op) {
		whole := op.Results[0]
		to, at := e.f.Plan.Places[whole], 0
		for i, a := range op.Args {
			from, placed := e.f.Plan.Places[a]
			if !placed || from.Buffer != to.Buffer || from.Column != to.Column+at || from.Shift != to.Shift {
				y := e.out(op, 0, "y").at(at * whole.Type.DType.Bytes())
				e.copyInto(op, y, whole, to.Column+at, e.in(op, i, "x"), a)
			}
			at += a.Type.Cols()
		}
	},
	"last": func(e *emitter, op *ir.Op) {
		x := op.Args[0]
		vec := e.vec(x.Type.Cols(), x, op.Results[0])
		const threads = 256
		e.emit(op, kernel{
			file: "elementwise.cuh", body: "last", rows: x,
			config: []constant{typ("T", x.Type.DType), integer("cols", x.Type.Cols()), integer("vec", vec), integer("threads", threads), integer("x_stride", e.stride(x))},
			params: []param{e.out(op, 0, "y"), e.in(op, 0, "x").moving(e.size(op.Results[0]))}, threads: threads, grid: blocks((x.Type.Cols()/vec + threads - 1) / threads),
		})
	},
	"rope": func(e *emitter, op *ir.Op) {
		x, y := op.Args[0], op.Results[0]
		freqs, _ := ir.Rotary(op)
		heads, width, pairs := op.Int("heads"), op.Int("head_dim"), len(freqs)
		vec := e.vec(width, x, y)
		for pairs%vec != 0 {
			vec /= 2
		}
		from, placed := e.f.Plan.Places[x]
		to := e.f.Plan.Places[y]
		inPlace := placed && from.Buffer == to.Buffer && from.Column == to.Column && from.Shift == to.Shift && from.Loop == to.Loop
		items := pairs / vec
		all := e.size(x)
		moves := moved{all.bytes * 2 * pairs / width, all.perRow * 2 * pairs / width} // what is rotated
		if !inPlace {
			items += (width - 2*pairs) / vec
			moves = all
		}
		const threads = 256
		e.emit(op, kernel{
			file: "rope.cuh", body: "rope", rows: x,
			config: []constant{
				typ("T", x.Type.DType), integer("heads", heads), integer("head_dim", width), integer("pairs", pairs), integer("vec", vec),
				boolean("interleaved", op.Bool("interleaved")), boolean("inverse", op.Bool("inverse")), boolean("in_place", inPlace),
				integer("y_stride", e.stride(y)), integer("x_stride", e.stride(x)), integer("threads", threads),
			},
			params:  []param{e.out(op, 0, "y").moving(moves), e.in(op, 0, "x").moving(moves), e.rotary(op, "cos", false), e.rotary(op, "sin", true), e.in(op, 1, "positions")},
			threads: threads, grid: e.accesses(x, heads*items, threads),
		})
	},
}

// elementThreads is the size of blocks that compute element by element.
const elementThreads = 256

// elementwise launches a body of elementwise.cuh over the rows and columns of a value.
func (e *emitter) elementwise(op *ir.Op, body string, of *ir.Value, s strides, config []constant, params ...param) {
	cols := of.Type.Cols()
	vec := e.vec(cols, s.values()...)
	fields := append([]constant{typ("T", of.Type.DType), integer("cols", cols), integer("vec", vec), integer("threads", elementThreads)}, config...)
	fields = append(fields, e.strides(s, "y", "x", "a", "b", "dgate", "dup", "dy", "gate", "up")...)
	e.emit(op, kernel{
		file: "elementwise.cuh", body: body, rows: of, config: fields, params: params,
		threads: elementThreads, grid: e.accesses(of, cols/vec, elementThreads),
	})
}

// accesses is a grid of a thread for each of n accesses of every row of v.
func (e *emitter) accesses(v *ir.Value, n, threads int) [3]ir.Count {
	rows, dynamic := e.rows(v)
	if !dynamic {
		return blocks((rows*n + threads - 1) / threads)
	}
	if n <= threads {
		return [3]ir.Count{{N: 1, Per: threads / n}}
	}
	return [3]ir.Count{{N: (n + threads - 1) / threads, Per: 1}}
}

// activate computes y = fn(x), for an op that may have more to do than that; x may be y.
func (e *emitter) activate(op *ir.Op, name string, x, y *ir.Value) {
	e.elementwise(op, "act", x, strides{"y": y, "x": x}, []constant{fn(name)}, e.written(y, "y"), e.read(x, "x"))
}

// activateGrad launches dx = dy * fn'(x).
func (e *emitter) activateGrad(op *ir.Op, name string, dy, x, dx *ir.Value) {
	e.elementwise(op, "act_grad", x, strides{"y": dx, "a": dy, "b": x}, []constant{fn(name)}, e.written(dx, "dx"), e.read(dy, "dy"), e.read(x, "x"))
}

// copyInto copies x to columns of whole from column at on.
func (e *emitter) copyInto(op *ir.Op, y param, whole *ir.Value, at int, from param, x *ir.Value) {
	vec := e.vec(x.Type.Cols(), x)
	for at%vec != 0 || e.stride(whole)%vec != 0 {
		vec /= 2
	}
	e.emit(op, kernel{
		file: "elementwise.cuh", body: "copy", rows: x,
		config: []constant{
			typ("T", x.Type.DType), integer("cols", x.Type.Cols()), integer("vec", vec), integer("threads", elementThreads),
			integer("y_stride", e.stride(whole)), integer("x_stride", e.stride(x)),
		},
		params: []param{y.moving(from.moved), from}, threads: elementThreads, grid: e.accesses(x, x.Type.Cols()/vec, elementThreads),
	})
}

// fn is an activation as a field of Config.
func fn(name string) constant {
	return constant("static constexpr Activation fn = Activation::" + name)
}
