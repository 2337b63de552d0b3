package cudagen

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// productRows are the matrix products. Weights are [out, in], so y = x·wᵀ.
var productRows = map[string]lowering{
	"linear": func(e *emitter, op *ir.Op) {
		if op.Str("kernel") == "small_linear" {
			smallLinear(e, op)
			return
		}
		x, w, residual := op.Args[0], op.Args[1], op.Args[3]
		p := e.over(op, x)
		p.M, p.N, p.K, p.TransB = x.Type.Rows(), w.Type.Rows(), w.Type.Cols(), true
		p.LDA, p.LDB = e.stride(x), p.K
		p.A, p.B = x.Type.DType, e.g.code.Element
		args := operands{a: e.in(op, 0, "x"), b: e.copied(op, 1, "w")}
		if op.Args[2] != nil {
			p.Epilogue, args.bias = "bias", e.copied(op, 2, "bias")
		}
		if residual != nil {
			p.Beta, p.C, p.LDC, args.c = 1, residual.Type.DType, e.stride(residual), e.read(residual, "residual")
		}
		byCuBLASLt := func() { e.linear(op, p, args) }
		if len(op.Results) < 2 || !e.keepsSlope(op.Results[1]) {
			byCuBLASLt()
			return
		}
		e.choose(hopper, func() {
			y, slope := op.Results[0], op.Results[1]
			p, args := p, args
			p.Own, p.Act, p.D, p.LDD, p.LDAux = "slope", op.Str("act"), y.Type.DType, e.stride(y), e.stride(slope)
			args.d, args.pre = e.written(y, "y"), e.written(slope, "slope")
			e.product(op, p, args)
		}, byCuBLASLt)
	},
	"linear_dx": func(e *emitter, op *ir.Op) {
		dy, w, residual, dx := op.Args[0], op.Args[1], op.Args[2], op.Results[0]
		p := e.over(op, dy)
		p.M, p.N, p.K = dy.Type.Rows(), w.Type.Cols(), w.Type.Rows()
		p.LDA, p.LDB, p.LDD = e.stride(dy), p.N, e.stride(dx)
		p.A, p.B, p.D = dy.Type.DType, e.g.code.Element, dx.Type.DType
		args := operands{d: e.written(dx, "dx"), a: e.in(op, 0, "dy"), b: e.copied(op, 1, "w")}
		if residual != nil {
			p.Beta, p.C, p.LDC, args.c = 1, residual.Type.DType, e.stride(residual), e.read(residual, "residual")
		}
		fn := op.Str("act")
		byCuBLASLt := func() {
			p, args, fn := p, args, fn
			if fn == "gelu_tanh" && dx.Type.DType != ir.F32 && e.vec(dx.Type.Cols(), dx, op.Args[3]) == 8 {
				p.Epilogue, p.LDAux, args.pre, fn = "gelu_tanh_grad", e.stride(op.Args[3]), e.in(op, 3, "pre"), ""
			}
			e.product(op, p, args)
			if fn != "" {
				e.activateGrad(op, fn, dx, op.Args[3], dx)
			}
			if len(op.Into) > 0 {
				rows, _ := e.rows(dx)
				e.biasGrad(op, dx, rows, dx.Type.Cols(), e.read(dx, "dy"), e.grad(op, 0, "first"))
			}
		}
		if fn == "" || !e.keepsSlope(op.Args[3]) {
			byCuBLASLt()
			return
		}
		e.choose(hopper, func() {
			p, args := p, args
			args.pre = e.in(op, 3, "slope")
			e.timesSlope(op, p, args, op.Args[3])
		}, byCuBLASLt)
	},
	"linear_dw": func(e *emitter, op *ir.Op) {
		dy, x := op.Args[0], op.Args[1]
		p := e.over(op, nil)
		p.M, p.N, p.K, p.TransA = dy.Type.Cols(), x.Type.Cols(), dy.Type.Rows(), true
		p.LDA, p.LDB, p.LDD = e.stride(dy), e.stride(x), x.Type.Cols()
		p.A, p.B, p.D = dy.Type.DType, x.Type.DType, ir.F32
		args := operands{d: e.grad(op, 0, "dw"), a: e.in(op, 0, "dy"), b: e.in(op, 1, "x")}
		if !ir.Overwritten(e.f)[op.Into[0].Param] {
			p.C, p.LDC, p.Beta, args.c = ir.F32, x.Type.Cols(), 1, args.d
		}
		e.product(op, p, args)
	},
}

// timesSlope is product p times what the forward product kept in slope, whose columns are summed where op has a bias to add that to.
func (e *emitter) timesSlope(op *ir.Op, p ir.Product, args operands, slope *ir.Value) {
	p.Own, p.LDAux = "times", e.stride(slope)
	if len(op.Into) == 0 {
		e.product(op, p, args)
		return
	}
	d := op.Results[0]
	rows, _ := e.rows(d)
	p.Sums = true
	parts, cols := sumRows(rows), d.Type.Cols()
	args.sums = e.scratch("float *", "partial", 4*parts*cols)
	e.product(op, p, args)
	e.addPartials(op, args.sums, parts, 1, cols, e.grad(op, 0, "first"), null("float *", "second"))
}

// linear is a linear op's product p by cuBLASLt, and what that leaves to do.
func (e *emitter) linear(op *ir.Op, p ir.Product, args operands) {
	residual, y := op.Args[3], op.Results[0]
	fn, to := op.Str("act"), y
	if fn != "" && e.has(op.Results[1]) {
		to = op.Results[1]
	}
	if op.Args[2] != nil && e.roundsTwice(op) {
		e.finished(op, p, args, to, residual)
		if fn != "" {
			e.activate(op, fn, to, y)
		}
		return
	}
	if fn == "gelu_tanh" && residual == nil && e.fusesGELU(op) {
		p.Epilogue = "gelu_tanh"
		if to != y {
			p.Epilogue, p.LDAux, args.pre = "gelu_tanh_pre", e.stride(to), e.written(to, "pre")
		}
		fn, to = "", y
	}
	p.D, p.LDD, args.d = to.Type.DType, e.stride(to), e.written(to, "y")
	e.product(op, p, args)
	if fn != "" {
		e.activate(op, fn, to, y)
	}
}

// roundsTwice says whether cuBLASLt's kernels for a linear with a bias in 16 bits round the product before they add the
// bias: they do where rows do not start at multiples of 16 bytes.
func (e *emitter) roundsTwice(op *ir.Op) bool {
	x, w, y := op.Args[0], op.Args[1], op.Results[0]
	beside := append(slices.Clone(op.Args[3:]), op.Results...)
	return x.Type.DType != ir.F32 && (w.Type.Cols()%8 != 0 || e.vec(x.Type.Cols(), x) < 8 || e.vec(y.Type.Cols(), beside...) < 8)
}

// finished is a linear whose product comes in float, and whose bias and residual are added by a kernel of its own.
func (e *emitter) finished(op *ir.Op, p ir.Product, args operands, to, residual *ir.Value) {
	acc := e.scratch("float *", "acc", 4*p.M*p.N)
	p.Epilogue, p.Beta, p.C, p.LDC, p.D, p.LDD = "", 0, "", 0, ir.F32, p.N
	e.product(op, p, operands{d: acc, a: args.a, b: args.b})
	acc.ctype = "const float *"
	r := null("const "+ctype(to.Type.DType)+" *", "residual")
	if residual != nil {
		r = args.c
	}
	cols := to.Type.Cols()
	vec := e.vec(cols, to, residual)
	e.emit(op, kernel{
		file: "elementwise.cuh", body: "finish", rows: to,
		config: []constant{
			typ("T", to.Type.DType), integer("cols", cols), integer("vec", vec), integer("threads", elementThreads), integer("y_stride", e.stride(to)),
			integer("acc_stride", p.N), boolean("has_residual", residual != nil), integer("residual_stride", e.stride(residual)),
		},
		params:  []param{e.written(to, "y"), acc, e.weight(op, 2, "b"), r},
		threads: elementThreads, grid: e.accesses(to, cols/vec, elementThreads),
	})
}

// operands are those of a product; those it has not stay zero. scales are those of a and b, in 8 bits, and quantized what else a
// product has that quantises.
type operands struct {
	d, a, b, c, bias, pre, sums param
	scales, quantized           []param
}

// over starts a product of op whose M is the rows of v, or a constant where v is nil.
func (e *emitter) over(op *ir.Op, v *ir.Value) ir.Product {
	_, dynamic := e.rows(v)
	return ir.Product{Rows: dynamic, TF32: op.Bool("tf32"), About: about(op)}
}

// product launches a matrix product.
func (e *emitter) product(op *ir.Op, p ir.Product, o operands) {
	l := ir.Launch{Product: &p}
	bits := 256
	for _, x := range []param{o.d, o.a, o.b, o.c, o.bias, o.pre} {
		l.Args = append(l.Args, x.operand)
		bits |= e.address(x.operand)
	}
	p.Align = bits & -bits
	for _, s := range o.scales {
		p.Scaled = true
		l.Args = append(l.Args, s.operand)
	}
	if p.Sums || p.Quantizes() {
		l.Args = append(l.Args, o.sums.operand)
	}
	for _, q := range o.quantized {
		l.Args = append(l.Args, q.operand)
	}
	e.rivals(op, p)
	e.add(op, l)
}

// address is a number that has no more factors of 2 than the operand's address, wherever its buffer starts.
func (e *emitter) address(o ir.Operand) int {
	at := o.Offset | o.Step
	switch o.Kind {
	case ir.OperandValue:
		if p, ok := e.f.Plan.Places[o.Value]; ok {
			at |= p.Buffer.Offset | p.Column*o.Value.Type.DType.Bytes()
			if p.Buffer.Slots > 1 {
				at |= p.Buffer.Slot
			}
		}
	case ir.OperandCopy: // weights start at multiples of 16 elements
		at |= 16 * e.g.code.Element.Bytes()
	case ir.OperandWeight, ir.OperandGrad:
		at |= 16 * 4
	}
	return at
}

// fusesGELU says whether cuBLASLt can apply GELU to the result of a linear: in 16 bits, with rows of whole 16-byte pieces.
func (e *emitter) fusesGELU(op *ir.Op) bool {
	return e.g.code.Element != ir.F32 && op.Args[2] != nil && e.vec(op.Results[0].Type.Cols(), op.Results...) == 8
}
