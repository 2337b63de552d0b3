package cudagen

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// attentionRows are attention and its gradient.
var attentionRows = map[string]lowering{
	"attention": func(e *emitter, op *ir.Op) {
		q, k, v, o := op.Args[0], op.Args[1], op.Args[2], op.Results[0]
		a := e.attention(op, q)
		vec := e.vec(a.width, q, k, v, o)
		config := append(a.config, e.apart("q", q), e.apart("k", k), e.apart("v", v), e.apart("o", o))
		n := kernel{
			rows: q, layers: a.masks,
			params: append([]param{e.out(op, 0, "o"), e.out(op, 1, "lse"), e.in(op, 0, "q"), e.in(op, 1, "k"), e.in(op, 2, "v")}, e.draws(op)...),
		}
		onGroups := func() {
			n, t := n, groupForwardTile(a)
			n.arch, n.file, n.body, n.config = hopper, "attention_wgmma.cuh", "attention_wgmma", append(config, t.config()...)
			n.blocks, n.threads = t.blocks, 128*t.groups
			n.shared = t.panels(a.width, 64*t.groups+2*t.stages*t.tile)
			n.grid = a.blocks(64*t.groups, a.heads)
			e.emit(op, n)
		}
		onWarps := func() {
			n, t := n, forwardTile(a)
			n.file, n.body, n.config = "attention_mma.cuh", "attention_mma", append(append(config, integer("vec", vec)), t.config()...)
			n.blocks = 2
			n.threads, n.shared = 32*t.warps, pitch(a.width)*(t.owned()+4*t.tile)
			n.grid = a.blocks(t.owned(), a.heads)
			e.emit(op, n)
		}
		switch {
		case a.onGroups(vec):
			e.choose(hopper, onGroups, onWarps)
		case a.tensorCores:
			onWarps()
		default:
			p := newPanel(a.width, 1)
			n.file, n.body, n.config = "attention_tiled.cuh", "attention_tiled", append(config, integer("vec", vec))
			n.blocks = 2
			n.threads, n.shared = 128, 4*((p.owned+p.streamed)*p.pitch+p.owned*p.scorePitch)
			n.grid = a.blocks(p.owned, a.heads)
			e.emit(op, n)
		}
	},
	"attention_grad": func(e *emitter, op *ir.Op) {
		do, q, k, v, o := op.Args[0], op.Args[1], op.Args[2], op.Args[3], op.Args[4]
		dq, dk, dv := op.Results[0], op.Results[1], op.Results[2]
		a := e.attention(op, q)
		vec := e.vec(a.width, do, q, k, v, o, dq, dk, dv)
		config := append(a.config, e.apart("do", do), e.apart("q", q), e.apart("k", k), e.apart("v", v), e.apart("dq", dq), e.apart("dk", dk), e.apart("dv", dv))
		kernelOf := func(results []param, more ...param) kernel {
			reads := []param{e.in(op, 0, "d_o"), e.in(op, 1, "q"), e.in(op, 2, "k"), e.in(op, 3, "v")}
			return kernel{rows: q, layers: a.masks, params: append(append(append(results, reads...), more...), e.draws(op)...)}
		}
		group := a.heads / a.kvHeads
		sums, cols := len(op.Into) > 0, (a.heads+2*a.kvHeads)*a.width
		// sumColumns has kernels of their own sum.
		sumColumns := func() {
			if !sums {
				return
			}
			rows, _ := e.rows(q)
			at := 0
			for i, d := range op.Results {
				e.biasGrad(op, d, rows, d.Type.Cols(), e.out(op, i, "dy").constant(), e.grad(op, 0, "first").at(4*at))
				at += d.Type.Cols()
			}
		}
		onGroups := func() {
			const tickets = 8 // one of each kernel, bytes
			ticket, stats := e.scratch("unsigned *", "ticket", tickets).moving(moved{}), e.attentionStats(a, 64)
			partial, finish := null("float *", "partial"), func() {}
			if sums {
				shares := a.batch * ((a.context + 63) / 64)
				partial = e.scratch("float *", "partial", 4*shares*cols)
				finish = func() { e.addPartials(op, partial, shares, 1, cols, e.grad(op, 0, "first"), null("float *", "second")) }
			}
			e.clear(op, ticket, tickets)
			for _, half := range []struct {
				body   string
				keys   bool
				heads  int
				kernel kernel
				share  int // of the products, scores that both compute included
			}{
				{"attention_wgmma_dq", false, a.heads, kernelOf([]param{e.out(op, 0, "dq"), partial, ticket, stats}, e.in(op, 4, "o"), e.in(op, 5, "lse")), 3},
				{"attention_wgmma_dkv", true, a.kvHeads, kernelOf([]param{e.out(op, 1, "dk"), e.out(op, 2, "dv"), partial, ticket.at(4)}, stats.constant()), 4},
			} {
				n, t := half.kernel, groupGradTile(a, half.keys, sums)
				n.arch, n.share, n.file, n.body = hopper, half.share, "attention_wgmma_grad.cuh", half.body
				n.config = append(slices.Clone(config), e.apart("o", o), boolean("column_sums", sums), integer("groups", t.groups), integer("stages", t.stages))
				n.blocks, n.threads, n.shared = 1, 128*t.groups+128, t.shared
				n.grid = blocks(min(processors, (a.context+64*t.groups-1)/(64*t.groups)*half.heads*a.batch))
				e.emit(op, n)
			}
			finish()
		}
		onWarps := func() {
			t, passes := backwardTile(op, a), 1 // over the queries, for dk and dv
			if a.width > 128 {
				passes = 2
			}
			n := kernelOf([]param{e.out(op, 0, "dq"), e.out(op, 1, "dk"), e.out(op, 2, "dv")}, e.makeStats(op, a, t.tile))
			n.file, n.body, n.config = "attention_mma.cuh", "attention_mma_grad", append(append(config, integer("vec", vec)), t.config()...)
			n.blocks = 2
			n.threads, n.shared = 32*t.warps, pitch(a.width)*(2*t.owned()+4*t.tile)+16*t.tile
			n.grid = a.blocks(t.owned(), a.kvHeads*(passes+group))
			e.emit(op, n)
			sumColumns()
		}
		switch {
		case a.onGroups(vec):
			e.choose(hopper, onGroups, onWarps)
		case a.tensorCores:
			onWarps()
		default:
			p := newPanel(a.width, 2)
			n := kernelOf([]param{e.out(op, 0, "dq"), e.out(op, 1, "dk"), e.out(op, 2, "dv")}, e.makeStats(op, a, 1))
			n.file, n.body, n.config = "attention_tiled.cuh", "attention_tiled_grad", append(config, integer("vec", vec))
			n.blocks = 2
			n.threads, n.shared = 128, 4*((2*p.owned+p.streamed)*p.pitch+p.owned*p.scorePitch)
			n.grid = a.blocks(p.owned, a.kvHeads*(1+group))
			e.emit(op, n)
			sumColumns()
		}
	},
}

// attentionStats is what the gradient needs of each query, a pair, padded to a multiple of padding.
func (e *emitter) attentionStats(a attentionShape, padding int) param {
	padded := (a.context + padding - 1) / padding * padding
	return e.scratch("float2 *", "stats", 8*a.batch*a.heads*padded)
}

// makeStats launches what computes them, where the kernels of the gradient do not.
func (e *emitter) makeStats(op *ir.Op, a attentionShape, padding int) param {
	do, o := op.Args[0], op.Args[4]
	padded := (a.context + padding - 1) / padding * padding
	vec := e.vec(a.width, do, o)
	lanes := 1 // of a row's sum: a power of two, as lanes_for in attention.cuh
	for lanes < 32 && lanes < a.width/vec {
		lanes *= 2
	}
	stats := e.attentionStats(a, padding)
	e.emit(op, kernel{
		file: "attention.cuh", body: "attention_stats", rows: op.Args[1],
		config: []constant{
			typ("T", o.Type.DType), integer("batch", a.batch), integer("context", a.context), integer("heads", a.heads),
			integer("head_dim", a.width), e.apart("do", do), e.apart("o", o), integer("vec", vec), integer("padding", padding),
		},
		params:  []param{stats, e.in(op, 0, "d_o"), e.in(op, 4, "o"), e.in(op, 5, "lse")},
		threads: 256, grid: blocks((a.batch*padded*a.heads*lanes + 255) / 256),
	})
	return stats.constant()
}

// attentionShape is what the kernels of an attention op have in common.
type attentionShape struct {
	batch, context, heads, kvHeads, width int
	dynamic                               bool // context is the most there can be
	tensorCores                           bool
	alibi                                 bool
	extras                                int // of cap, ALiBi and dropout; without any, scores are products
	terms                                 int // comparisons of positions that a mask takes: of the layers, the most
	config                                []constant
	masks                                 [][]constant // of layers in turn; nil where all have one, which is in config
}

func (e *emitter) attention(op *ir.Op, q *ir.Value) attentionShape {
	a := attentionShape{context: q.Type.Dims[len(q.Type.Dims)-2].Size, heads: op.Int("heads"), kvHeads: op.Int("kv_heads"), width: op.Int("head_dim")}
	rows, dynamic := e.rows(q)
	a.batch, a.dynamic = rows/a.context, dynamic
	switch op.Str("kernel") {
	case "tiled":
	case "": // a gradient without its attention
		a.tensorCores = q.Type.DType != ir.F32 && a.width%8 == 0 && a.width <= 256
	default:
		a.tensorCores = true
	}
	a.alibi = op.Bool("alibi")
	for _, has := range []bool{op.Float("softcap") != 0, a.alibi, op.Float("dropout") != 0} {
		if has {
			a.extras++
		}
	}
	for _, p := range op.Patterns("mask") {
		a.terms = max(a.terms, terms(p))
	}
	a.config = []constant{
		typ("T", q.Type.DType), integer("batch", a.batch), integer("context", a.context),
		integer("heads", a.heads), integer("kv_heads", a.kvHeads), integer("head_dim", a.width),
		number("scale", op.Float("scale")), number("softcap", op.Float("softcap")), boolean("alibi", op.Bool("alibi")),
	}
	if op.Bool("alibi") {
		a.config = append(a.config, numbers("slopes", ir.AlibiSlopes(a.heads)))
	}
	a.config = append(a.config, number("dropout", op.Float("dropout")), integer("stream", op.Int("stream")))
	patterns := op.Patterns("mask")
	for _, p := range patterns {
		a.masks = append(a.masks, []constant{alias("Mask", maskType(p))})
	}
	if len(patterns) == 1 {
		a.config, a.masks = append(a.config, a.masks[0]...), nil
	}
	return a
}

// blocks is a grid of times blocks for each `owned` positions of a sequence.
func (a attentionShape) blocks(owned, times int) [3]ir.Count {
	if a.dynamic { // one sequence
		return [3]ir.Count{{N: times, Per: owned}}
	}
	return blocks((a.context + owned - 1) / owned * times * a.batch)
}

// draws are the parameters that dropout needs.
func (e *emitter) draws(op *ir.Op) []param {
	if op.Float("dropout") == 0 {
		return nil
	}
	state := e.state("state")
	state.ctype = "const State *"
	return []param{state, e.micro("micro"), e.layer("layer")}
}

// apart is the field name_stride: how far the rows of v are apart.
func (e *emitter) apart(name string, v *ir.Value) constant {
	return integer(name+"_stride", e.stride(v))
}

// maskType is a pattern as a type of mask.cuh.
func maskType(p spec.Pattern) string {
	var args []string
	for _, a := range p.Args {
		args = append(args, maskType(a))
	}
	if p.Op != "and" && p.Op != "or" {
		if p.Op != "causal" {
			args = append(args, fmt.Sprint(p.N))
		}
		if p.Block > 1 {
			args = append(args, fmt.Sprint(p.Block))
		}
	}
	return strings.ToUpper(p.Op[:1]) + p.Op[1:] + "<" + strings.Join(args, ", ") + ">"
}

// attentionTile is how the bodies of attention_mma.cuh cut their work; its fields are described there.
type attentionTile struct{ warps, warpRows, tile, step, keep int }

func (t attentionTile) owned() int { return t.warps * t.warpRows }

func (t attentionTile) config() []constant {
	return []constant{integer("warps", t.warps), integer("warp_rows", t.warpRows), integer("tile", t.tile), integer("step", t.step), integer("keep", t.keep)}
}

// forwardTile and backwardTile choose what fits in registers and 96 KiB of shared memory. Columns that pad, and scores that
// are more than a product, take registers.
func forwardTile(a attentionShape) attentionTile {
	t := attentionTile{warps: 4, warpRows: 16, tile: 64, step: 32}
	if a.width%16 == 0 && a.width <= 128 {
		t.keep = 1
	}
	switch {
	case a.width%16 == 0 && a.width <= 64 && (a.extras == 0 || a.extras == 1 && a.terms <= 2):
		t.warpRows = 32
	case a.width > 128:
		t.tile = 32
	}
	return t
}

func backwardTile(op *ir.Op, a attentionShape) attentionTile {
	width := op.Int("head_dim")
	plain := width%16 == 0 && op.Float("softcap") == 0 && !op.Bool("alibi")
	t := attentionTile{warps: 4, warpRows: 16, tile: 64, step: 16}
	if plain && width <= 128 && op.Float("dropout") == 0 && (width <= 32 || a.terms <= 2) {
		t.keep = 1
	}
	switch {
	case plain && (width <= 32 || width <= 64 && a.terms <= 2):
		t.warpRows = 32
	case width > 128:
		t.warps, t.tile = 3, 16
	case width > 64:
		t.tile = 32
	}
	return t
}

// hopper is the architecture that has warpgroups.
const hopper = "sm_90a"

// onGroups says whether the bodies of attention_wgmma.cuh take the op: padding to panels must be worth it, and what they hold
// fit in registers.
func (a attentionShape) onGroups(vec int) bool {
	if !a.tensorCores || vec != 8 {
		return false
	}
	switch simple := a.terms <= 2; {
	case a.width <= 32 || a.width > 128:
		return false
	case a.width > 64:
		return a.extras == 0 && simple
	default:
		return a.extras < 2 || a.extras == 2 && simple
	}
}

// terms counts the comparisons of positions that a mask takes. What counts in blocks or strides takes many.
func terms(p spec.Pattern) int {
	switch p.Op {
	case "and":
		n := 0
		for _, t := range p.Args {
			n += terms(t)
		}
		return n
	case "causal", "window", "prefix", "global":
		if p.Block <= 1 {
			return 1
		}
	}
	return 10
}

// groupTile is how the bodies of attention_wgmma.cuh cut their work; its fields are described there. blocks share a processor.
type groupTile struct{ groups, tile, stages, blocks int }

func (t groupTile) config() []constant {
	return []constant{integer("groups", t.groups), integer("tile", t.tile), integer("stages", t.stages)}
}

// panels is the bytes of so many rows.
func (t groupTile) panels(width, rows int) int { return (width + 63) / 64 * 128 * rows }

// The tiles fill a processor's registers: 128 for each thread of four groups, 168 of three, 255 of two. Small blocks let it start
// the next head while another ends; where the queries' kernel has room, two groups share what is streamed.
func groupForwardTile(a attentionShape) groupTile {
	switch {
	case a.demanding():
		return roomyTile
	case a.width <= 64 && !a.alibi:
		return groupTile{groups: 2, tile: 64, stages: 3, blocks: 2}
	}
	return groupTile{groups: 3, tile: 64, stages: 3, blocks: 1}
}

// gradTile is how the bodies of attention_wgmma_grad.cuh cut their work; its fields are described there.
type gradTile struct{ groups, stages, shared int }

// groupGradTile gives a third group to heads whose scores and masks fit in the registers that it leaves, and to the ring what is left of shared
// memory (GradTiles).
func groupGradTile(a attentionShape, keys, sums bool) gradTile {
	t := gradTile{groups: 2, stages: 6}
	if a.width <= 64 && a.extras == 0 && !a.demanding() {
		t.groups = 3
	}
	panels := (a.width + 63) / 64
	ownStages, operands, stats, ways := 2, 3, 0, 1
	if panels > 1 {
		ownStages = 1
	}
	if keys {
		operands, stats, ways = 2, 64*8, 2
	}
	fixed, stage := ownStages*operands*panels*64*t.groups*128+(16+8)*ownStages, 2*panels*64*128+stats+16
	if sums {
		fixed += t.groups * ways * 4 * 64 * panels * 4
	}
	t.stages = min(t.stages, (227*1024-fixed)/stage)
	t.shared = (fixed + t.stages*stage + 1023) / 1024 * 1024
	return t
}

// demanding says whether scores and masks take more registers than the tiles of three and four groups leave.
func (a attentionShape) demanding() bool {
	return a.terms > 2 || a.extras > 1 || a.extras == 1 && a.terms > 1
}

var roomyTile = groupTile{groups: 2, tile: 64, stages: 3, blocks: 1}

// pitch is TileOf<width>::pitch of mma_tile.cuh.
func pitch(width int) int {
	chunks := (width + 15) / 16 * 2
	if chunks%8 != 0 && chunks != 4 && chunks != 2 {
		chunks++
	}
	return 16 * chunks
}

// panel is Panel<width, results> of attention_tiled.cuh.
type panel struct{ owned, streamed, pitch, scorePitch int }

func newPanel(width, results int) panel {
	padded := (width + 15) / 16 * 16
	rows, n := 8, 4
	for most := 64; padded > most; most *= 2 {
		rows /= 2
	}
	if results == 1 && padded > 64 {
		rows *= 2
	}
	for most := 128; padded > most; most *= 2 {
		n /= 2
	}
	return panel{8 * rows, 16 * n, padded + 4, 16*n + 4}
}
