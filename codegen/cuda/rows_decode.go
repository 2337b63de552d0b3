package cudagen

import "github.com/tfc-dev/tfc/ir"

// decodeRows are the ops of generation.
var decodeRows = map[string]lowering{
	// The rows of a decode step have a slot each, and the attention kernel itself stores their keys and values. Those of a
	// prefill are consecutive positions of one slot. Of other functions nothing is known: each row goes by itself over the cache.
	"attention_cached": func(e *emitter, op *ir.Op) {
		a := e.cached(op)
		if e.f.Name != "decode" {
			e.kvAppend(op, a)
		}
		if e.f.Name == "prefill" {
			e.prefillAttention(op, a)
			return
		}
		e.decodeAttention(op, a)
	},
}

// cachedAttention is what the kernels of an attention_cached op have in common.
type cachedAttention struct {
	q                              *ir.Value
	rows                           int // the most there can be
	heads, kvHeads, width, context int
	vec                            int
	tensorCores                    bool
	config                         []constant
	masks                          [][]constant // of layers in turn
}

func (e *emitter) cached(op *ir.Op) cachedAttention {
	q, k, v, o := op.Args[0], op.Args[1], op.Args[2], op.Results[0]
	a := cachedAttention{q: q, heads: op.Int("heads"), kvHeads: op.Int("kv_heads"), width: op.Int("head_dim"), context: op.Args[3].Type.Dims[1].Size}
	a.rows, _ = e.rows(q)
	a.vec = e.vec(a.width, q, k, v, o)
	a.tensorCores = q.Type.DType != ir.F32 && a.vec == 8 && a.width <= 256
	a.config = []constant{
		typ("T", q.Type.DType), integer("heads", a.heads), integer("kv_heads", a.kvHeads), integer("head_dim", a.width),
		integer("context", a.context), boolean("own_slots", e.f.Name == "decode"),
		e.apart("q", q), e.apart("k", k), e.apart("v", v), e.apart("o", o), integer("vec", a.vec),
		number("scale", op.Float("scale")), number("softcap", op.Float("softcap")), boolean("alibi", op.Bool("alibi")),
	}
	if op.Bool("alibi") {
		a.config = append(a.config, numbers("slopes", ir.AlibiSlopes(a.heads)))
	}
	for _, p := range op.Patterns("mask") {
		a.masks = append(a.masks, []constant{alias("Mask", maskType(p))})
	}
	return a
}

// key is what a key of the cache costs: its own bytes and its value's, and for each row two products.
func (a cachedAttention) key() ir.Cost {
	return ir.Cost{KeyBytes: 2 * a.kvHeads * a.width * a.q.Type.DType.Bytes(), KeyFLOPs: 4 * a.heads * a.width}
}

// kernel is a kernel under the common fields and more.
func (a cachedAttention) kernel(file, body string, more ...constant) kernel {
	k := kernel{file: file, body: body, rows: a.q, config: append(append([]constant(nil), a.config...), more...), layers: a.masks}
	if len(a.masks) == 1 {
		k.config, k.layers = append(k.config, a.masks[0]...), nil
	}
	return k
}

// kvAppend stores k and v in the cache.
func (e *emitter) kvAppend(op *ir.Op, a cachedAttention) {
	k := a.kernel("kv_cache.cuh", "kv_append")
	if k.layers != nil { // which it does not ask
		k.config, k.layers = append(k.config, k.layers[0]...), nil
	}
	k.threads = 256
	k.params = []param{e.cache(op, 3, "k_cache").moving(e.size(op.Args[1])), e.cache(op, 4, "v_cache").moving(e.size(op.Args[2])), e.in(op, 1, "k"), e.in(op, 2, "v"), e.in(op, 5, "positions"), e.in(op, 6, "slots")}
	k.grid = e.accesses(a.q, a.kvHeads*a.width/a.vec, k.threads)
	e.emit(op, k)
}

// prefillAttention is attention of many rows of one slot.
func (e *emitter) prefillAttention(op *ir.Op, a cachedAttention) {
	k := a.kernel("prefill.cuh", "prefill_attention")
	if a.tensorCores {
		t := prefillTile(a.width, a.heads, a.rows)
		k = a.kernel("prefill.cuh", "prefill_attention_mma",
			integer("warps", t.warps), integer("tile", t.tile), integer("step", t.step), boolean("keep", t.keep > 0))
		k.threads, k.shared = 32*t.warps, pitch(a.width)*(t.owned()+4*t.tile)
		k.grid = e.grid(a.q, t.owned(), a.heads)
	} else {
		p := newPanel(a.width, 1)
		k.threads, k.shared = 128, 4*((p.owned+p.streamed)*p.pitch+p.owned*p.scorePitch)
		k.grid = e.grid(a.q, p.owned, a.heads)
	}
	k.params = []param{e.out(op, 0, "o"), e.in(op, 0, "q"), e.cache(op, 3, "k_cache"), e.cache(op, 4, "v_cache"), e.in(op, 5, "positions"), e.in(op, 6, "slots")}
	k.key = a.key()
	e.emit(op, k)
}

// prefillTile chooses by what fits in registers and 96 KiB of shared memory, and for some blocks a processor where rows
// are few.
func prefillTile(width, heads, rows int) attentionTile {
	t := attentionTile{warps: 4, warpRows: 16, tile: 64, step: 64, keep: 1}
	switch {
	case width > 128:
		t = attentionTile{warps: 4, warpRows: 16, tile: 32, step: 32}
	case width > 64:
		t.step = 32
	}
	if (rows+t.owned()-1)/t.owned()*heads < processors {
		t.warps = 2
	}
	return t
}

// decodeAttention is attention of single rows.
func (e *emitter) decodeAttention(op *ir.Op, a cachedAttention) {
	body, t := "decode_attention", decodeTile(a)
	if a.tensorCores {
		body = "decode_attention_mma"
	}
	perRow := ir.Count{N: a.rows}
	if _, dynamic := e.rows(a.q); dynamic {
		perRow = ir.Count{N: 1, Per: 1}
	}
	fields := []constant{integer("warps", t.warps), integer("splits", t.splits), integer("stretch", t.stretch)}
	sums, stats := null("float *", "sums"), null("float2 *", "stats")
	if t.splits > 1 { // how many of them a row needs depends on its position
		sums = e.scratch("float *", "sums", 4*a.rows*a.heads*t.splits*a.width).moving(moved{})
		stats = e.scratch("float2 *", "stats", 8*a.rows*a.heads*t.splits).moving(moved{})
	}
	keys, values := e.cache(op, 3, "k_cache"), e.cache(op, 4, "v_cache")
	if e.f.Name == "decode" {
		keys, values = keys.moving(e.size(op.Args[1])), values.moving(e.size(op.Args[2]))
	}
	k := a.kernel("decode.cuh", body, append(fields, integer("pieces", t.pieces), integer("heads_at_once", t.headsAtOnce))...)
	k.params = []param{
		e.out(op, 0, "o"), sums, stats, e.in(op, 0, "q"), e.in(op, 1, "k"), e.in(op, 2, "v"),
		keys, values, e.in(op, 5, "positions"), e.in(op, 6, "slots"),
	}
	k.key = a.key()
	k.threads, k.grid = 32*t.warps, [3]ir.Count{{N: t.splits}, {N: t.blocks}, perRow}
	e.emit(op, k)
	if t.splits == 1 {
		return
	}
	fields[0] = integer("warps", 4)
	sums.ctype, stats.ctype = "const float *", "const float2 *"
	c := a.kernel("decode.cuh", "decode_combine", fields...)
	c.params = []param{e.out(op, 0, "o"), sums, stats, e.in(op, 5, "positions"), e.in(op, 6, "slots")}
	c.threads, c.grid = 128, [3]ir.Count{{N: (a.heads + 3) / 4}, perRow}
	e.emit(op, c)
}

// decodeSplit is how the bodies of decode.cuh cut their work; its fields are described there.
type decodeSplit struct{ warps, pieces, headsAtOnce, stretch, splits, blocks int } // blocks for each row and split

// decodeTile shares out the cache among blocks until they fill the device, unless it is so short that one block is through
// with it in two rounds. The most rows there can be decide, not those of a call: a row's result does not depend on these.
func decodeTile(a cachedAttention) decodeSplit {
	t := decodeSplit{warps: 4, pieces: 1, headsAtOnce: 1}
	group, heads, columns := a.heads/a.kvHeads, 0, a.width
	if a.tensorCores {
		if a.width <= 64 {
			t.pieces = 2
		}
		heads, columns = min(group, 16), min(a.width, 128)
		t.blocks = a.kvHeads * ((group + 15) / 16) * ((a.width + 127) / 128)
		t.stretch = 16 * t.pieces * t.warps
	} else {
		lanes := 1
		for lanes < 32 && lanes < a.width/a.vec {
			lanes *= 2
		}
		held := (a.width + lanes*a.vec - 1) / (lanes * a.vec) * a.vec // columns of a head that a lane has
		t.headsAtOnce = max(1, min(group, 8, 32/held))
		heads = t.headsAtOnce
		t.blocks = a.kvHeads * ((group + heads - 1) / heads)
		t.stretch = 128
	}
	if a.rows*t.blocks < 2*processors && a.tensorCores && a.context <= 4*t.stretch || !a.tensorCores && a.context <= 2*t.stretch {
		t.splits = 1
		if a.tensorCores && 8*heads*(columns+2)*4 <= 48<<10 {
			t.warps, t.stretch = 8, 2*t.stretch
		}
		return t
	}
	stretches := (a.context + t.stretch - 1) / t.stretch
	t.splits = min(max((2*processors+a.rows*t.blocks-1)/(a.rows*t.blocks), 1), stretches, 64)
	return t
}

// smallLinear is a linear of few rows, bound by the bytes of its weights.
func smallLinear(e *emitter, op *ir.Op) {
	x, w, y := op.Args[0], op.Args[1], op.Results[0]
	rows, dynamic := e.rows(x)
	in, out := w.Type.Cols(), y.Type.Cols()
	glu := op.Kind == "linear_glu"
	act, to, residual, added := op.Str("act"), y, (*ir.Value)(nil), null("const "+ctype(x.Type.DType)+" *", "residual")
	if glu {
		act = op.Str("fn")
	} else {
		residual, added = op.Args[3], e.in(op, 3, "residual")
	}
	if !glu && act != "" && e.has(op.Results[1]) { // somebody reads the value before the activation
		to = op.Results[1]
	}
	config := []constant{
		typ("T", x.Type.DType), integer("in", in), integer("out", out), e.apart("x", x), e.apart("y", to), e.apart("residual", residual),
		boolean("glu", glu), boolean("active", act != "" && to == y), fn("relu"),
	}
	if act != "" {
		config[len(config)-1] = fn(act)
	}
	k := kernel{
		file: "small_linear.cuh", rows: x,
		params: []param{e.written(to, "y"), e.in(op, 0, "x"), e.copied(op, 1, "w"), e.weight(op, 2, "bias"), added},
	}
	vec, across, perBlock := e.vec(in, x), 0, 8
	if vec == 8 && x.Type.DType != ir.F32 {
		t := linearTile(rows, in, out, glu)
		k.body, k.threads, k.waits = "small_linear_mma", 32*t.warpsM*t.warpsK, true
		k.config = append(config, integer("m_tiles", t.mTiles), integer("halves", t.halves), integer("n_tiles", t.nTiles), integer("warps_m", t.warpsM), integer("warps_k", t.warpsK), integer("depth", t.depth))
		across, perBlock = (out+t.outputs()-1)/t.outputs(), 8*t.nTiles
	} else {
		const warps = 4
		columns := 1 // outputs a warp
		for columns < 4 && out/(2*columns*warps) >= 2*processors {
			columns *= 2
		}
		k.body, k.threads = "small_linear", 32*warps
		k.config = append(config, integer("vec", vec), integer("columns", columns), integer("warps", warps))
		across = (out + columns*warps - 1) / (columns * warps)
	}
	down := ir.Count{N: (rows + perBlock - 1) / perBlock}
	if dynamic {
		down = ir.Count{N: 1, Per: perBlock}
	}
	k.grid = [3]ir.Count{{N: across}, down}
	e.emit(op, k)
	if to != y {
		e.activate(op, act, to, y)
	}
}

// linearSplit is how small_linear_mma cuts its work; its fields are described there.
type linearSplit struct{ mTiles, halves, nTiles, warpsM, warpsK, depth int }

// outputs are those of a block.
func (t linearSplit) outputs() int { return 8 * t.halves * t.mTiles * t.warpsM }

// linearTile chooses, for up to eight rows, blocks of 16 outputs whose warps all share the inner dimension: memory gets the
// most requests at once. They have 8 where that leaves fewer processors idle in the last round. For more rows a block reads the rows as well, so it takes as many outputs as leave a block for
// each processor. With glu an output has two rows of weights: tiles are half as wide, and half as many loads are on their way.
func linearTile(rows, in, out int, glu bool) linearSplit {
	steps := (in + 63) / 64 // of a warp's 64 columns
	if rows <= 8 {
		t := linearSplit{mTiles: 1, halves: 2, nTiles: 1, warpsM: 1, warpsK: shareOut(steps, 12)}
		if idle((out+7)/8)+0.05 < idle((out+15)/16) {
			t.halves = 1
		}
		t.depth = min((steps+t.warpsK-1)/t.warpsK, 4)
		if t.depth > 2 && out/16 > 2*processors { // more blocks at once, in fewer registers
			t.depth = 2
		}
		if glu {
			t.depth = max(1, t.depth/2)
		}
		return t
	}
	var t linearSplit
	for _, t = range []linearSplit{
		{mTiles: 2, nTiles: 4, warpsM: 2, depth: 1}, {mTiles: 2, nTiles: 4, warpsM: 1, depth: 1},
		{mTiles: 1, nTiles: 4, warpsM: 1, depth: 1}, {mTiles: 1, nTiles: 2, warpsM: 1, depth: 2},
	} {
		t.halves = 2
		if glu {
			t.mTiles, t.depth = 1, 1
		}
		if rows <= 16 {
			t.nTiles = 2
		}
		if (out+t.outputs()-1)/t.outputs()*((rows+8*t.nTiles-1)/(8*t.nTiles)) >= processors {
			break
		}
	}
	t.warpsK = shareOut(steps, 8/t.warpsM)
	return t
}

// idle is the share of a large device that has nothing to do while the processors with most of some blocks still have.
func idle(blocks int) float64 {
	rounds := (blocks + processors - 1) / processors
	return 1 - float64(blocks)/float64(rounds*processors)
}

// shareOut is the number of warps, up to most, that get equal shares of some steps, or nearly: the one that wastes least,
// of those that are half of most at least.
func shareOut(steps, most int) int {
	best, least := 1, steps+most
	for n := min(most, steps); n >= max(1, min(most, steps)/2); n-- {
		if waste := (steps+n-1)/n*n - steps; waste < least {
			best, least = n, waste
		}
	}
	return best
}
