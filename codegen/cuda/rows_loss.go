package cudagen

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// lossRows are the cross-entropy on stored logits, and the output head with it.
var lossRows = map[string]lowering{
	"cross_entropy": func(e *emitter, op *ir.Op) {
		e.crossEntropy(op, crossEntropy{rows: rowCount(e, op.Args[0]), cols: op.Args[0].Type.Cols(), logits: op.Args[0], at: e.in(op, 0, "logits"), targets: e.in(op, 1, "targets"), losses: e.out(op, 1, "losses")})
		e.sumLosses(op, op.Results[1], op.Args[2])
	},
	"cross_entropy_grad": func(e *emitter, op *ir.Op) {
		e.crossEntropy(op, crossEntropy{rows: rowCount(e, op.Args[0]), cols: op.Args[0].Type.Cols(), logits: op.Args[0], at: e.in(op, 0, "logits"), targets: e.in(op, 1, "targets"), losses: e.out(op, 1, "losses"),
			d: op.Results[0], to: e.out(op, 0, "d"), n: op.Args[2]})
	},
	"head_loss":      func(e *emitter, op *ir.Op) { e.headLoss(op, false) },
	"head_loss_grad": func(e *emitter, op *ir.Op) { e.headLoss(op, true) },
}

func rowCount(e *emitter, v *ir.Value) int { n, _ := e.rows(v); return n }

// crossEntropy is a launch of the body of that name on some rows.
type crossEntropy struct {
	rows, cols      int
	logits, d       *ir.Value // of cols columns at least; d is nil without a gradient
	at, to          param
	targets, losses param
	bias            param // its ctype is empty where there is none
	n               *ir.Value
	scale, cap      float64
}

func (e *emitter) crossEntropy(op *ir.Op, c crossEntropy) {
	t := c.logits.Type
	vec := 16 / t.DType.Bytes()
	threads, kept := e.crossEntropyTile(t.DType, c.cols, vec)
	if c.d == nil {
		kept = 0
	}
	stride := e.stride(c.logits)
	to, toStride := null(ctype(t.DType)+" *", "d"), stride
	if c.d != nil {
		to, toStride = c.to, e.stride(c.d)
	}
	for stride%vec != toStride%vec {
		vec /= 2
	}
	bias := null("const float *", "bias")
	if c.bias.ctype != "" {
		bias = c.bias
	}
	n := null("const float *", "n")
	if c.n != nil {
		n = e.read(c.n, "n")
	}
	scale := c.scale
	if scale == 0 {
		scale = 1
	}
	e.emit(op, kernel{
		file: "loss.cuh", body: "cross_entropy", items: c.rows,
		config: []constant{
			typ("T", t.DType), integer("cols", c.cols), integer("vec", vec), integer("d_stride", toStride), integer("logits_stride", stride),
			number("scale", scale), number("cap", c.cap), boolean("bias", c.bias.ctype != ""), boolean("grad", c.d != nil), boolean("counted", c.n != nil),
			boolean("scaled", c.d != nil && e.g.code.Element == ir.F16), integer("threads", threads), integer("kept", kept),
		},
		shared:  keptBytes(kept, vec, t.DType),
		params:  []param{c.losses, to, c.at, bias, c.targets, n, e.state("state")},
		threads: threads, grid: blocks(c.rows),
	})
}

// crossEntropyTile chooses a block's threads, and how many columns it keeps: a whole row where that leaves room for other
// blocks; of longer ones so much that the rest of the rows at work at one time stays in the level 2 cache.
func (e *emitter) crossEntropyTile(d ir.DType, cols, vec int) (threads, kept int) {
	kept = min(cols, e.blockShared()/d.Bytes()-2*vec)
	switch {
	case cols <= 16384:
		return 256, kept
	case cols*d.Bytes() <= 104<<10:
		return 512, kept
	}
	return 1024, kept
}

// blockShared is how many bytes of shared memory a block can have on all GPUs that the program is for.
func (e *emitter) blockShared() int {
	if slices.Equal(e.g.Archs, []string{hopper}) {
		return 208 << 10 // of the 227 KiB that a block of Hopper can have
	}
	return 96 << 10 // code for sm_80 runs on sm_86 and sm_89, too, whose blocks have 99 KiB
}

func keptBytes(kept, vec int, d ir.DType) int {
	if kept == 0 {
		return 0
	}
	return (kept + 2*vec) * d.Bytes()
}

// sumLosses sums the losses by row into the op's first result.
func (e *emitter) sumLosses(op *ir.Op, losses, n *ir.Value) {
	const threads = 1024
	count := null("const float *", "n")
	if n != nil {
		count = e.read(n, "n")
	}
	e.emit(op, kernel{
		file: "reduce.cuh", body: "sum_losses", items: losses.Type.Elems(), config: []constant{boolean("counted", n != nil), integer("threads", threads)},
		params: []param{e.out(op, 0, "loss"), e.read(losses, "losses"), count}, threads: threads, grid: blocks(1),
	})
}

// headLoss makes the logits of a tile of rows, takes their losses and, where asked, turns them into their gradient in place
// and multiplies it on; then the next tile.
func (e *emitter) headLoss(op *ir.Op, grad bool) {
	losses, tile := op.Results[1], op.Results[2]
	if grad {
		losses, tile = op.Results[2], op.Results[3]
	}
	rows, each := losses.Type.Elems(), tile.Type.Rows()
	if whole := rows / each; whole > 0 {
		e.repeat(op, whole, func() { e.headTile(op, grad, 0, each, losses, tile) })
	}
	if rest := rows % each; rest > 0 {
		e.headTile(op, grad, rows-rest, rest, losses, tile)
	}
	e.sumLosses(op, losses, op.Args[4])
}

// headTile is the work on rows from on; repeated, on those behind.
func (e *emitter) headTile(op *ir.Op, grad bool, from, rows int, losses, tile *ir.Value) {
	x, targets := op.Args[0], op.Args[3]
	vocab, cols, xStride := op.Args[1].Type.Rows(), x.Type.Cols(), e.stride(x)
	move := func(p param, bytes int) param { return p.at(from * bytes).step(rows * bytes) }
	xAt := move(e.in(op, 0, "x"), xStride*x.Type.DType.Bytes())
	p := e.over(op, nil)
	p.M, p.N, p.K, p.TransB, p.LDA, p.LDB, p.LDD = rows, vocab, cols, true, xStride, cols, e.stride(tile)
	p.A, p.B, p.D = x.Type.DType, e.g.code.Element, tile.Type.DType
	logits := e.read(tile, "logits").moving(moved{bytes: rows * e.stride(tile) * tile.Type.DType.Bytes()})
	e.product(op, p, operands{d: e.written(tile, "logits"), a: xAt, b: e.copied(op, 1, "w")})
	c := crossEntropy{
		rows: rows, cols: vocab, logits: tile, at: logits, targets: move(e.read(targets, "targets"), 4), losses: move(e.written(losses, "losses"), 4),
		scale: op.Float("scale"), cap: op.Float("softcap"), n: op.Args[4],
	}
	if op.Args[2] != nil {
		c.bias = e.weight(op, 2, "bias")
	}
	if !grad {
		c.n = nil
		e.crossEntropy(op, c)
		return
	}
	c.d, c.to = tile, e.written(tile, "d").moving(logits.moved)
	e.crossEntropy(op, c)
	dx := op.Results[1]
	d := e.read(tile, "d").moving(logits.moved)
	// The last tokens of a vocabulary of any number are a product of their own: with as many columns as no access of 16 bytes divides, cuBLASLt's
	// product of all of them reaches half the rate.
	const access = 8
	for from, to := 0, vocab/access*access; from < vocab; from, to = to, vocab {
		if from == to {
			continue
		}
		p := e.over(op, nil)
		p.M, p.N, p.K, p.TransA, p.LDA, p.LDB, p.LDC, p.LDD, p.Beta = to-from, cols, rows, true, e.stride(tile), xStride, cols, cols, 1
		p.A, p.B, p.C, p.D = tile.Type.DType, x.Type.DType, ir.F32, ir.F32
		dw := e.grad(op, 0, "dw").at(4 * from * cols)
		e.product(op, p, operands{d: dw, a: d.at(from * tile.Type.DType.Bytes()), b: xAt, c: dw})
	}
	if op.Args[2] != nil {
		e.biasGrad(op, tile, rows, vocab, d, e.grad(op, 1, "first"))
	}
	// Last, for the gradient may lie where x does.
	p = e.over(op, nil)
	p.M, p.N, p.K, p.LDA, p.LDB, p.LDD = rows, cols, vocab, e.stride(tile), cols, e.stride(dx)
	p.A, p.B, p.D = tile.Type.DType, e.g.code.Element, dx.Type.DType
	e.product(op, p, operands{d: move(e.written(dx, "dx"), e.stride(dx)*dx.Type.DType.Bytes()), a: d, b: e.copied(op, 1, "w")})
}
