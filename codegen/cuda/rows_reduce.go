package cudagen

import "github.com/tfc-dev/tfc/ir"

// reduceRows are sums over rows.
var reduceRows = map[string]lowering{
	"bias_grad": func(e *emitter, op *ir.Op) {
		dy := op.Args[0]
		rows, _ := e.rows(dy)
		e.biasGrad(op, dy, rows, dy.Type.Cols(), e.in(op, 0, "dy"), e.grad(op, 0, "first"))
	},
	"embed_grad": func(e *emitter, op *ir.Op) {
		e.tableGrad(op, op.Float("scale"))
	},
	"positions_grad": func(e *emitter, op *ir.Op) {
		e.tableGrad(op, 1)
	},
	"count": func(e *emitter, op *ir.Op) {
		const threads = 1024
		targets := op.Args[0]
		n, _ := e.rows(targets)
		if targets.Axis != "" && loopOver(op, targets.Axis) == nil { // those of every micro-batch
			n *= e.f.Symbol("A")
		}
		e.emit(op, kernel{file: "reduce.cuh", body: "count", items: n, config: []constant{integer("threads", threads)},
			params: []param{e.out(op, 0, "n"), e.in(op, 0, "targets").moving(moved{bytes: 4 * n})}, threads: threads, grid: blocks(1)})
	},
	"zero": func(e *emitter, op *ir.Op) { e.clear(op, e.out(op, 0, "y"), 4) },
	"cast": func(*emitter, *ir.Op) {}, // no program has one
}

// loopOver is the innermost loop over an axis that op stands in.
func loopOver(op *ir.Op, axis string) *ir.Loop {
	for b := op.Block; b != nil && b.Loop != nil; b = b.Parent() {
		if b.Loop.Loop.Axis == axis {
			return b.Loop.Loop
		}
	}
	return nil
}

// biasGrad adds the sums of the first cols columns of rows of v to a gradient.
func (e *emitter) biasGrad(op *ir.Op, v *ir.Value, rows, cols int, dy, to param) {
	const threads = 256
	vec := e.vec(cols, v)
	across := (cols + 32*vec - 1) / (32 * vec)
	n := max(1, min(2*partThreads/threads/across, (rows+31)/32))
	partial := e.scratch("float *", "partial", 4*n*cols)
	e.emit(op, kernel{
		file: "reduce.cuh", body: "bias_grad", items: rows,
		config: []constant{typ("T", v.Type.DType), integer("cols", cols), integer("vec", vec), integer("dy_stride", e.stride(v)), integer("parts", n), integer("threads", threads)},
		params: []param{partial, dy}, threads: threads, grid: [3]ir.Count{{N: across}, {N: n}},
	})
	e.addPartials(op, partial, n, 1, cols, to, null("float *", "second"))
}

// tableGrad adds scale times rows of dy to the rows of a table that the second argument names.
func (e *emitter) tableGrad(op *ir.Op, scale float64) {
	dy, index := op.Args[0], op.Args[1]
	rows, _ := e.rows(dy)
	cols := dy.Type.Cols()
	vec := e.vec(cols, dy)
	tile := 64
	for tile < min(rows, 2048) {
		tile *= 2
	}
	tiles := (rows + tile - 1) / tile
	keys := e.scratch("uint32_t *", "keys", 4*tiles*tile)
	sorted := e.scratch("Entry *", "sorted", 8*rows)
	e.emit(op, kernel{file: "embed_grad.cuh", body: "embed_sort", rows: dy, config: []constant{integer("tile", tile), integer("threads", tile/2)},
		params: []param{keys, e.read(index, "tokens")}, threads: tile / 2, grid: blocks(tiles)})
	keys.ctype = "const uint32_t *"
	e.emit(op, kernel{file: "embed_grad.cuh", body: "embed_merge", rows: dy, config: []constant{integer("tile", tile), integer("threads", 256)},
		params: []param{sorted, keys}, threads: 256, grid: blocks((tiles*tile + 255) / 256)})
	threads := min(256, max(32, (cols/vec+31)/32*32))
	const chunk = 32
	chunks := (rows + chunk - 1) / chunk
	// Only rows that go on in the next chunk have partial sums, and there may be none.
	partial := e.scratch("float *", "partial", 4*chunks*2*cols).moving(moved{})
	d := e.gathered(e.grad(op, 0, "d"), dy, op.Into[0].Type.Rows(), 2*4*cols)
	config := []constant{
		typ("T", dy.Type.DType), integer("cols", cols), integer("vec", vec), integer("dy_stride", e.stride(dy)), number("scale", scale),
		integer("chunk", chunk), integer("threads", threads),
	}
	grid := [3]ir.Count{{N: chunks}, {N: (cols + threads*vec - 1) / (threads * vec)}}
	sorted.ctype = "const Entry *"
	e.emit(op, kernel{file: "embed_grad.cuh", body: "embed_sums", rows: dy, config: config,
		params: []param{d, partial, sorted, e.in(op, 0, "dy")}, threads: threads, grid: grid})
	partial.ctype = "const float *"
	e.emit(op, kernel{file: "embed_grad.cuh", body: "embed_finish", rows: dy, config: config,
		params: []param{d.moving(moved{}), partial, sorted}, threads: threads, grid: grid})
}
