package cudagen

import (
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// linearQuantize is a product of e4m3 whose end quantises, for Hopper alone. In the steps that measure it is made twice, first for the largest magnitude of
// what it gives. What two products keep between them is theirs to lay out, and so nobody else may read it.
func linearQuantize(e *emitter, op *ir.Op) {
	x, w, q, of := op.Args[0], op.Args[1], op.Results[0], op.Str("of")
	p := e.over(op, nil)
	p.M, p.N, p.K, p.TransB, p.Gated = x.Type.Rows(), w.Type.Rows(), w.Type.Cols(), true, strings.HasPrefix(of, "glu")
	p.LDA, p.LDB, p.LDD = e.stride(x), e.stride(w), e.stride(q)
	p.A, p.B, p.D = x.Type.DType, w.Type.DType, q.Type.DType
	if p.M%16 != 0 || p.N%16 != 0 || q.Type.Cols()%16 != 0 || p.K%16 != 0 {
		e.fail(op, "%v is %v, and no whole pieces of 16×16", q, q.Type)
		return
	}
	if !e.has(q) || !e.has(op.Results[1]) {
		e.fail(op, "%v is read in one layout alone", q)
		return
	}
	args := operands{d: e.written(q, "q"), a: e.in(op, 0, "x"), b: e.in(op, 1, "w"), scales: []param{e.in(op, 2, "x_scale"), e.in(op, 3, "w_scale")}}
	if op.Args[4] != nil {
		p.Epilogue, args.bias = "bias", e.copied(op, 4, "bias")
	}
	switch kept := op.Args[5]; {
	case kept != nil:
		p.Own, p.LDAux, args.pre = "times", e.stride(kept), e.read(kept, "kept")
	case len(e.f.Uses()[op.Results[3]]) > 0:
		kept = op.Results[3]
		p.Own, p.Act, p.LDAux, args.pre = "slope", op.Str("fn"), e.stride(kept), e.written(kept, "kept")
	default:
		p.Own, p.Act = "act", op.Str("fn")
	}
	columns := q.Type.Cols()
	if len(op.Into) > 0 {
		p.Sums, args.sums = true, e.scratch("float *", "partial", 4*sumRows(p.M)*columns)
	}
	most := e.scratch("unsigned *", "most", 4)
	found, top := most, null("unsigned *", "top")
	found.operand.Found = true
	with := func(amax, top param) operands {
		args.quantized = []param{e.written(op.Results[1], "t"), e.out(op, 2, "scale"), e.history(op), amax, top}
		return args
	}
	e.measures = true
	e.clear(op, most, 4)
	e.product(op, p, with(null("const unsigned *", "amax"), most))
	e.measures = false
	e.product(op, p, with(found, top))
	if p.Sums {
		e.addPartials(op, args.sums, sumRows(p.M), 1, columns, e.grad(op, 0, "first"), null("float *", "second"))
	}
}
