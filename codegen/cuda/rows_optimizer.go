package cudagen

import "github.com/tfc-dev/tfc/ir"

// Dynamic loss scaling of f16 (Micikevicius et al., arXiv 1710.03740): the scale doubles after so many updates in a row, and
// halves where overflows outlast the hysteresis, down to the least.
const (
	scaleWindow     = 2000
	scaleHysteresis = 2
	leastScale      = 1
)

// optimizerRows work on the whole buffers of weights, gradients and moments.
var optimizerRows = map[string]lowering{
	"zero_grads": func(e *emitter, op *ir.Op) {
		for _, s := range ir.SpansWithout(e.f, ir.Overwritten(e.f)) {
			n := 4 * (s.To - s.From)
			e.clear(op, e.buffer(ir.F32, "g", "gradients").moving(moved{bytes: n}).at(4*s.From), n)
		}
	},
	"grad_norm": func(e *emitter, op *ir.Op) {
		const threads, chunk = 256, 16 * 4 * 256
		n := (e.g.WeightFloats + chunk - 1) / chunk
		partial := e.scratch("double *", "partial", 8*n)
		e.emit(op, kernel{
			file: "optimizer.cuh", body: "square_sums", config: []constant{long("count", e.g.WeightFloats), integer("chunk", chunk), integer("threads", threads)},
			params: []param{partial, e.buffer(ir.F32, "g", "gradients").constant()}, threads: threads, grid: blocks(n),
		})
		partial.ctype = "const double *"
		e.emit(op, kernel{
			file: "optimizer.cuh", body: "grad_norm", config: []constant{integer("parts", n), boolean("scaled", e.g.code.Element == ir.F16), integer("threads", 1024)},
			params: []param{e.out(op, 0, "norm"), partial, e.state("state")}, threads: 1024, grid: blocks(1),
		})
	},
	"adamw": func(e *emitter, op *ir.Op) {
		loss := op.Args[0]
		if r := e.f.Results[0]; len(r.Type.Dims) == 0 {
			loss = r
		}
		e.emit(op, kernel{
			file: "optimizer.cuh", body: "adamw_begin",
			config: []constant{
				double("beta1", op.Float("beta1")), double("beta2", op.Float("beta2")), number("eps", op.Float("eps")), double("weight_decay", op.Float("weight_decay")),
				number("clip", op.Float("clip")), boolean("scaled", e.g.code.Element == ir.F16), integer("window", scaleWindow), integer("hysteresis", scaleHysteresis), number("least_scale", leastScale),
			},
			params: []param{e.state("state"), e.read(loss, "loss"), e.in(op, 0, "norm")}, threads: 32, grid: blocks(1),
		})
		const threads = 256
		d := e.g.code.Element
		copies := null(ctype(d)+" *", "copies")
		if d != ir.F32 {
			copies = e.buffer(d, "copies", "copies")
		}
		e.emit(op, kernel{
			file: "optimizer.cuh", body: "adamw",
			config: []constant{typ("T", d), long("count", e.g.WeightFloats), long("decayed", e.g.DecayedFloats), boolean("copied", d != ir.F32), integer("threads", threads)},
			params: []param{e.buffer(ir.F32, "w", "weights").updated(), e.buffer(ir.F32, "m", "first").updated(), e.buffer(ir.F32, "v", "second").updated(), copies,
				e.buffer(ir.F32, "g", "gradients").constant(), e.state("state")},
			threads: threads, grid: blocks((e.g.WeightFloats/8 + threads) / threads),
		})
	},
}
