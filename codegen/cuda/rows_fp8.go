package cudagen

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// fp8Rows are products of operands in 8 bits, and what makes these. Both operands of a product have the summed index as columns, which
// is the one layout that the matrix units of sm_89 and sm_90a take.
var fp8Rows = map[string]lowering{
	"turn_amax": func(e *emitter, op *ir.Op) {
		const threads = 256
		n := 1 + op.Int("slots")
		history := param{ctype: "unsigned *", name: "history", operand: ir.Operand{Kind: ir.OperandBuffer, Name: "history"}, moved: moved{bytes: 16 * n}}
		e.emit(op, kernel{
			file: "quantize.cuh", body: "turn_amax", config: []constant{integer("slots", n), integer("threads", threads)},
			params: []param{history}, threads: threads, grid: blocks((n + threads - 1) / threads),
		})
	},
	"amax": func(e *emitter, op *ir.Op) {
		most := e.out(op, 0, "most")
		most.ctype = "unsigned *"
		e.measures = op.Int("history") > 0
		defer func() { e.measures = false }()
		e.clear(op, most, 4)
		s := e.source(op, op.Args)
		history := e.history(op).constant()
		const threads, resident = 256, 2 * processors // blocks: of the steps that measure, all but the first mostly leave them nothing to do
		per := 8
		if s.of != "" {
			per = 2
		}
		n := (s.x.Type.Elems()/s.vec + per*threads - 1) / (per * threads)
		if op.Int("history") > 0 {
			n = min(n, resident)
			for i := range s.params {
				s.params[i] = s.params[i].moving(moved{})
			}
		}
		e.emit(op, kernel{
			file: "quantize.cuh", body: "amax", rows: s.x,
			config: append(s.config, boolean("has_history", op.Int("history") > 0), integer("per", per), long("stride", n*per*threads), integer("threads", threads)),
			params: append(append([]param{most}, s.params...), history), threads: threads, grid: blocks(n),
		})
	},
	"quantize": func(e *emitter, op *ir.Op) {
		s := e.source(op, append([]*ir.Value{op.Args[0]}, op.Args[2:]...))
		rows, cols := s.x.Type.Rows(), s.x.Type.Cols()
		if rows%16 != 0 || cols%16 != 0 {
			e.fail(op, "%v is %v, and no whole pieces of 16×16", s.x, s.x.Type)
			return
		}
		most := e.in(op, 1, "most")
		most.ctype, most.operand.Found = "const unsigned *", op.Int("history") > 0
		const threads, side = 256, 128
		width := side
		if ir.Sources[s.of].Doubles {
			width = side / 2
		}
		y, stride := null(ctype(e.typeOf(s.x))+" *", "y"), 0
		if op.Bool("keep") {
			y, stride = e.out(op, 3, "y"), e.stride(op.Results[3])
		}
		resident := 4 // blocks of a processor, that registers are shared among
		for _, more := range []bool{len(op.Into) > 0, op.Bool("keep"), s.of == "act" || s.of == "glu"} {
			if more && resident > 2 {
				resident--
			}
		}
		if s.of == "act_grad" {
			resident = 2
		}
		columns, parts := op.Results[0].Type.Cols(), (rows+side-1)/side
		sums := null("float *", "sums")
		if len(op.Into) > 0 {
			sums = e.scratch("float *", "sums", 4*parts*columns)
		}
		e.emit(op, kernel{
			file: "quantize.cuh", body: "quantize", rows: s.x,
			config: append(s.config, integer("y_stride", stride), boolean("e5m2", op.Str("to") == string(ir.E5M2)),
				boolean("has_q", e.has(op.Results[0])), boolean("has_t", e.has(op.Results[1])), boolean("has_y", op.Bool("keep")), boolean("has_sums", len(op.Into) > 0),
				boolean("has_history", op.Int("history") > 0), integer("threads", threads)),
			params:  append(append([]param{e.out(op, 0, "q"), e.out(op, 1, "t"), e.out(op, 2, "scale"), y, sums}, s.params...), most, e.history(op)),
			threads: threads, blocks: resident, grid: blocks(parts * ((cols + width - 1) / width)),
		})
		for i := range op.Into {
			e.addPartials(op, sums, parts, 1, columns, e.grad(op, i, "first"), null("float *", "second"))
		}
	},
	"linear_fp8": func(e *emitter, op *ir.Op) {
		x, w, residual, y := op.Args[0], op.Args[1], op.Args[5], op.Results[0]
		p := e.over(op, nil)
		p.M, p.N, p.K, p.TransB = x.Type.Rows(), w.Type.Rows(), w.Type.Cols(), true
		p.LDA, p.LDB, p.LDD = e.stride(x), e.stride(w), e.stride(y)
		p.A, p.B, p.D = x.Type.DType, w.Type.DType, y.Type.DType
		args := operands{d: e.written(y, "y"), a: e.in(op, 0, "x"), b: e.in(op, 1, "w"), scales: []param{e.in(op, 2, "x_scale"), e.in(op, 3, "w_scale")}}
		if op.Args[4] != nil {
			p.Epilogue, args.bias = "bias", e.copied(op, 4, "bias")
		}
		if residual != nil {
			p.Beta, p.C, p.LDC, args.c = 1, residual.Type.DType, e.stride(residual), e.read(residual, "residual")
		}
		e.product(op, p, args)
	},
	"linear_quantize": linearQuantize,
	"linear_dw_fp8": func(e *emitter, op *ir.Op) {
		dy, x := op.Args[0], op.Args[1]
		p := e.over(op, nil)
		p.M, p.N, p.K, p.TransB = dy.Type.Rows(), x.Type.Rows(), x.Type.Cols(), true
		p.LDA, p.LDB, p.LDD = e.stride(dy), e.stride(x), x.Type.Rows()
		p.A, p.B, p.D = dy.Type.DType, x.Type.DType, ir.F32
		args := operands{d: e.grad(op, 0, "dw"), a: e.in(op, 0, "dy"), b: e.in(op, 1, "x"), scales: []param{e.in(op, 2, "dy_scale"), e.in(op, 3, "x_scale")}}
		if !ir.Overwritten(e.f)[op.Into[0].Param] {
			p.C, p.LDC, p.Beta, args.c = ir.F32, p.LDD, 1, args.d
		}
		e.product(op, p, args)
	},
}

// source is what amax and quantize compute a tensor of.
type source struct {
	x      *ir.Value // the first operand, whose shape all have
	of     string
	vec    int
	config []constant
	params []param
}

// sourceNames are those of ir.Sources in quantize.cuh.
var sourceNames = map[string]string{"": "value", "act": "act", "act_grad": "act_grad", "glu": "glu", "glu_grad": "glu_grad"}

// source reads the operands of a source: activations, or a weight as products read it.
func (e *emitter) source(op *ir.Op, args []*ir.Value) source {
	x := args[0]
	s := source{x: x, of: op.Str("of")}
	var values []*ir.Value
	for _, v := range slices.Concat(args, op.Results[min(3, len(op.Results)):]) {
		if v != nil && v.Param == nil { // weights start at multiples of 16 elements
			values = append(values, v)
		}
	}
	s.vec = e.vec(x.Type.Cols(), values...)
	s.config = []constant{typ("T", e.typeOf(x)), constant("static constexpr Source of = Source::" + sourceNames[s.of])}
	if s.of != "" {
		s.config = append(s.config, fn(op.Str("fn")))
	}
	s.config = append(s.config, integer("cols", x.Type.Cols()), integer("vec", s.vec))
	for i, name := range []string{"x", "x2", "x3"} {
		var v *ir.Value
		if i < len(args) {
			v = args[i]
		}
		s.config = append(s.config, integer(name+"_stride", e.stride(v)))
		switch {
		case v == nil:
			s.params = append(s.params, null("const "+ctype(e.typeOf(x))+" *", name))
		case v.Param != nil:
			s.params = append(s.params, e.param(v, "const "+ctype(e.typeOf(x))+" *", name, ir.OperandCopy, e.typeOf(x)))
		default:
			s.params = append(s.params, e.read(v, name))
		}
	}
	return s
}

// history is the slot of op's history, before and now: null where it has none.
func (e *emitter) history(op *ir.Op) param {
	p := null("unsigned *", "history")
	if h := op.Int("history"); h > 0 {
		p.operand = ir.Operand{Kind: ir.OperandHistory, N: h}
		p.moved = moved{bytes: 8}
	}
	return p
}

// typeOf is the type that a source reads v in.
func (e *emitter) typeOf(v *ir.Value) ir.DType {
	if v.Param != nil {
		return e.g.code.Element
	}
	return v.Type.DType
}
