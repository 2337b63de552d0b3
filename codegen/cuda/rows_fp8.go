package cudagen

import "github.com/tfc-dev/tfc/ir"

// fp8Rows are products of operands in 8 bits, and what makes these. Both operands of a product have the summed index as columns, which
// is the one layout that the matrix units of sm_89 and sm_90a take.
var fp8Rows = map[string]lowering{
	"amax": func(e *emitter, op *ir.Op) {
		most := e.out(op, 0, "most")
		most.ctype = "unsigned *"
		e.clear(op, most, 4)
		x, from := e.activation(op, "x")
		cols := x.Type.Cols()
		vec := e.vec(cols, x)
		const threads, per = 256, 8
		e.emit(op, kernel{
			file: "quantize.cuh", body: "amax", rows: x,
			config: []constant{typ("T", e.typeOf(x)), integer("cols", cols), integer("vec", vec), integer("x_stride", e.stride(x)),
				integer("per", per), integer("threads", threads)},
			params: []param{most, from}, threads: threads, grid: blocks((x.Type.Elems()/vec + per*threads - 1) / (per * threads)),
		})
	},
	"quantize": func(e *emitter, op *ir.Op) {
		x, from := e.activation(op, "x")
		rows, cols := x.Type.Rows(), x.Type.Cols()
		if rows%16 != 0 || cols%16 != 0 {
			e.fail(op, "%v is %v, and no whole pieces of 16×16", x, x.Type)
			return
		}
		most := e.in(op, 1, "most")
		most.ctype = "const unsigned *"
		const threads, side = 256, 128
		e.emit(op, kernel{
			file: "quantize.cuh", body: "quantize", rows: x,
			config: []constant{typ("T", e.typeOf(x)), integer("cols", cols), integer("vec", e.vec(cols, x)), integer("x_stride", e.stride(x)),
				boolean("e5m2", op.Str("to") == string(ir.E5M2)), boolean("has_q", e.has(op.Results[0])), boolean("has_t", e.has(op.Results[1])),
				integer("threads", threads)},
			params:  []param{e.out(op, 0, "q"), e.out(op, 1, "t"), e.out(op, 2, "scale"), from, most},
			threads: threads, grid: blocks((rows + side - 1) / side * ((cols + side - 1) / side)),
		})
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
	"linear_dw_fp8": func(e *emitter, op *ir.Op) {
		dy, x := op.Args[0], op.Args[1]
		p := e.over(op, nil)
		p.M, p.N, p.K, p.TransB = dy.Type.Rows(), x.Type.Rows(), x.Type.Cols(), true
		p.LDA, p.LDB, p.LDD = e.stride(dy), e.stride(x), x.Type.Rows()
		p.A, p.B, p.D = dy.Type.DType, x.Type.DType, ir.F32
		args := operands{d: e.grad(op, 0, "dw"), a: e.in(op, 0, "dy"), b: e.in(op, 1, "x"), scales: []param{e.in(op, 2, "dy_scale"), e.in(op, 3, "x_scale")}}
		if !e.overwritten()[op.Into[0].Param] {
			p.C, p.LDC, p.Beta, args.c = ir.F32, p.LDD, 1, args.d
		}
		e.product(op, p, args)
	},
}

// activation is argument 0 of op, read: an activation, or a weight as products read it.
func (e *emitter) activation(op *ir.Op, name string) (*ir.Value, param) {
	x := op.Args[0]
	if x.Param != nil {
		return x, e.copied(op, 0, name)
	}
	return x, e.in(op, 0, name)
}

// typeOf is the type that activation reads v in.
func (e *emitter) typeOf(v *ir.Value) ir.DType {
	if v.Param != nil {
		return e.g.code.Element
	}
	return v.Type.DType
}
