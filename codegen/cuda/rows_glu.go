package cudagen

import "github.com/tfc-dev/tfc/ir"

// gluRows are products with a gated activation, or its derivative. On Hopper they are products of our own, which between them keep the
// derivatives by gate and up in the place of these; elsewhere a product and a kernel.
var gluRows = map[string]lowering{
	"linear_glu": func(e *emitter, op *ir.Op) {
		if op.Str("kernel") == "small_linear" {
			smallLinear(e, op)
			return
		}
		x, w, y, pre := op.Args[0], op.Args[1], op.Results[0], op.Results[1]
		p := e.over(op, x)
		p.M, p.N, p.K, p.TransB = x.Type.Rows(), w.Type.Rows(), w.Type.Cols(), true
		p.LDA, p.LDB = e.stride(x), p.K
		p.A, p.B, p.D = x.Type.DType, e.g.code.Element, y.Type.DType
		args := operands{a: e.in(op, 0, "x"), b: e.copied(op, 1, "w")}
		if op.Args[2] != nil {
			p.Epilogue, args.bias = "bias", e.copied(op, 2, "bias")
		}
		byCuBLASLt := func() {
			p, args := p, args
			if op.Args[2] != nil && e.roundsTwice(op) {
				e.finished(op, p, args, pre, nil)
			} else {
				p.LDD, args.d = e.stride(pre), e.written(pre, "gate_up")
				e.product(op, p, args)
			}
			gate, up := halves(e.read(pre, "gate"), y, "up")
			e.elementwise(op, "glu", y, strides{"y": y, "a": pre, "b": pre}, []constant{fn(op.Str("fn"))}, e.written(y, "y"), gate, up)
		}
		if !e.keepsSlope(pre) {
			byCuBLASLt()
			return
		}
		e.choose(hopper, func() {
			p, args := p, args
			p.Own, p.Act, p.Gated, p.LDD, args.d = "act", op.Str("fn"), true, e.stride(y), e.written(y, "y")
			if len(e.f.Uses()[pre]) > 0 {
				p.Own, p.LDAux, args.pre = "slope", e.stride(pre), e.written(pre, "slopes")
			}
			e.product(op, p, args)
		}, byCuBLASLt)
	},
	"linear_glu_dx": func(e *emitter, op *ir.Op) {
		dy, w, pre, dPre := op.Args[0], op.Args[1], op.Args[2], op.Results[0]
		p := e.over(op, dy)
		p.M, p.N, p.K = dy.Type.Rows(), w.Type.Cols(), w.Type.Rows()
		p.LDA, p.LDB, p.LDD = e.stride(dy), p.N, e.stride(dPre)
		p.A, p.B, p.D = dy.Type.DType, e.g.code.Element, dPre.Type.DType
		args := operands{d: e.written(dPre, "d_pre"), a: e.in(op, 0, "dy"), b: e.copied(op, 1, "w")}
		byCuBLASLt := func() {
			e.product(op, p, args) // to the gates' columns, which the kernel behind it reads and then writes
			like := &ir.Value{Name: dPre.Name, Type: dPre.Type.WithLast(w.Type.Last())}
			dGate, dUp := halves(e.written(dPre, "dgate"), like, "dup")
			gate, up := halves(e.in(op, 2, "gate"), like, "up")
			d := dGate.constant()
			d.name = "dy"
			e.elementwise(op, "glu_grad", like, strides{"dgate": dPre, "dup": dPre, "dy": dPre, "gate": pre, "up": pre}, []constant{fn(op.Str("fn"))}, dGate, dUp, d, gate, up)
			if len(op.Into) > 0 {
				rows, _ := e.rows(dPre)
				e.biasGrad(op, dPre, rows, dPre.Type.Cols(), e.read(dPre, "dy"), e.grad(op, 0, "first"))
			}
		}
		if !e.keepsSlope(pre) {
			byCuBLASLt()
			return
		}
		e.choose(hopper, func() {
			p, args := p, args
			p.Gated, args.pre = true, e.in(op, 2, "slopes")
			e.timesSlope(op, p, args, pre)
		}, byCuBLASLt)
	},
}

// halves are the columns of a value that is as wide as two of half's, the right ones by a name of their own.
func halves(p param, half *ir.Value, right string) (param, param) {
	p.moved = moved{p.moved.bytes / 2, p.moved.perRow / 2}
	q := p.at(half.Type.Cols() * half.Type.DType.Bytes())
	q.name = right
	return p, q
}
