package cudagen

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
)

// How sample.cuh is used.
const (
	sampleVocabulary = 1<<20 - 1 // its limit
	sampleAlone      = 8192      // logits that one block looks through for the first token; longer rows are cut into parts, a block each
	samplePart       = 2048
)

// pick lowers the picking of the next tokens, which is no op of any job: the CPU picks from logits in the runtime. It takes
// the rows of logits of a decode step, or the one of a prefill. A vocabulary too large for the kernels is left to the
// runtime, too.
func (g *generator) pick() error {
	f := g.Funcs["decode"]
	logits := f.Results[0]
	vocab := logits.Type.Cols()
	if vocab > sampleVocabulary {
		return nil
	}
	vec := 8
	for _, job := range []string{"prefill", "decode"} {
		e := &emitter{g: g, f: g.Funcs[job]}
		r := e.f.Results[0]
		if e.stride(r) != vocab {
			return fmt.Errorf("the rows of logits that %s gives do not lie one after another", job)
		}
		vec = min(vec, e.vec(vocab, r))
	}
	e := &emitter{g: g, f: f}
	op := &ir.Op{Kind: "pick", Args: []*ir.Value{logits}, Results: []*ir.Value{{Name: "tokens"}}}
	parts := 1
	if vocab > sampleAlone {
		parts = (vocab + samplePart - 1) / samplePart
	}
	d := logits.Type.DType
	config := []constant{
		typ("T", d), integer("vocab", vocab), integer("stride", vocab), integer("vec", vec),
		integer("parts", parts), integer("part", samplePart),
	}
	perRow := e.perRows(logits, 1)
	row := param{"const " + ctype(d) + " *", "logits", ir.Operand{Kind: ir.OperandBuffer, Name: "logits"}, e.size(logits)}
	perRowOf := func(ctype, name string, bytes int) param {
		return param{ctype, name, ir.Operand{Kind: ir.OperandBuffer, Name: name}, moved{perRow: bytes}}
	}
	options := perRowOf("const SampleOptions *", "options", 40)
	best := null("const Whole *", "best")
	if parts > 1 {
		rows, _ := e.rows(logits)
		best = e.scratch("Whole *", "best", 8*rows*parts)
		e.emit(op, kernel{
			file: "sample.cuh", body: "sample_best", rows: logits, config: append(config[:len(config):len(config)], integer("threads", 256)),
			params: []param{best, row, options}, threads: 256, grid: [3]ir.Count{{N: parts}, perRow[0]},
		})
		best.ctype = "const Whole *"
	}
	e.emit(op, kernel{
		file: "sample.cuh", body: "sample", rows: logits, config: append(config[:len(config):len(config)], integer("threads", 1024)),
		params:  []param{perRowOf("int *", "tokens", 4), perRowOf("int *", "positions", 8), row, options, best},
		threads: 1024, grid: perRow,
	})
	e.count(op)
	g.code.Pick, g.code.Scratch[op.Kind] = op, e.scratchBytes
	return e.err
}
