package cudagen

import "github.com/tfc-dev/tfc/ir"

// headLossFP8 makes the logits of a tile of rows in 16 bits, takes their losses, and has their gradient in 8 bits, which it multiplies on;
// then the next tile.
func (e *emitter) headLossFP8(op *ir.Op) {
	losses, tile := op.Results[2], op.Results[3]
	e.headTiles(op, losses, tile, func(from, rows int) { e.headTileFP8(op, from, rows, losses, tile) })
	e.sumLosses(op, losses, op.Args[3])
}

// headTileFP8 is headTile of it.
func (e *emitter) headTileFP8(op *ir.Op, from, rows int, losses, tile *ir.Value) {
	x, targets, n, dx := op.Args[0], op.Args[2], op.Args[3], op.Results[1]
	vocab, cols, all := tile.Type.Cols(), x.Type.Cols(), x.Type.Rows()
	c := e.headLogits(op, from, rows, targets, losses, tile)
	e.crossEntropy(op, c)

	of := moved{bytes: rows * vocab}
	scale := c.scale
	if scale == 0 {
		scale = 1
	}
	count := null("const float *", "n")
	if n != nil {
		count = e.read(n, "n")
	}
	const threads, side = 256, 128
	e.emit(op, kernel{
		file: "quantize_loss.cuh", body: "quantize_loss", items: rows,
		config: []constant{
			typ("T", tile.Type.DType), integer("cols", vocab), integer("stride", e.stride(tile)), number("scale", scale), number("cap", c.cap), boolean("counted", n != nil),
			integer("threads", threads),
		},
		params:  []param{e.out(op, 4, "q").moving(of), e.out(op, 5, "t").moving(of), e.out(op, 6, "by"), c.at, c.targets, e.read(losses, "losses").part(from, rows, 4), count},
		threads: threads, blocks: 4, grid: blocks((rows + side - 1) / side * ((vocab + side - 1) / side)),
	})

	d := e.read(op.Results[6], "by")
	p := e.over(op, nil)
	p.M, p.N, p.K, p.TransB, p.LDA, p.LDB, p.LDC, p.LDD, p.Beta = vocab, cols, rows, true, rows, all, cols, cols, 1
	p.A, p.B, p.C, p.D = ir.E5M2, ir.E4M3, ir.F32, ir.F32
	e.product(op, p, operands{
		d: e.grad(op, 0, "dw"), a: e.read(op.Results[5], "t").moving(of), b: e.in(op, 5, "x_transposed").part(from, rows, 1), c: e.grad(op, 0, "dw"),
		scales: []param{d, e.in(op, 7, "x_scale")},
	})
	// Last, for the gradient may lie where x does.
	p = e.over(op, nil)
	p.M, p.N, p.K, p.TransB, p.LDA, p.LDB, p.LDD = rows, cols, vocab, true, vocab, vocab, e.stride(dx)
	p.A, p.B, p.D = ir.E5M2, ir.E4M3, dx.Type.DType
	e.product(op, p, operands{
		d: e.written(dx, "dx").part(from, rows, e.stride(dx)*dx.Type.DType.Bytes()), a: e.read(op.Results[4], "q").moving(of), b: e.in(op, 4, "w_transposed"),
		scales: []param{d, e.in(op, 6, "w_scale")},
	})
}
