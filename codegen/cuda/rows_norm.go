package cudagen

import (
	"cmp"

	"github.com/tfc-dev/tfc/ir"
)

// normRows are the norms and their gradients.
var normRows = map[string]lowering{
	"layernorm": func(e *emitter, op *ir.Op) {
		e.norm(op, op.Args[0], op.Results[0], op.Results[1], op.Args[2] != nil,
			[]param{e.out(op, 0, "y"), e.out(op, 1, "stats"), e.in(op, 0, "x"), e.weight(op, 1, "w"), e.weight(op, 2, "b")},
			strides{"y": op.Results[0], "x": op.Args[0]})
	},
	"rmsnorm": func(e *emitter, op *ir.Op) {
		e.norm(op, op.Args[0], op.Results[0], op.Results[1], false,
			[]param{e.out(op, 0, "y"), e.out(op, 1, "stats"), e.in(op, 0, "x"), e.weight(op, 1, "w")},
			strides{"y": op.Results[0], "x": op.Args[0]})
	},
	"add_layernorm": func(e *emitter, op *ir.Op) {
		e.norm(op, op.Args[0], op.Results[1], op.Results[2], op.Args[3] != nil,
			[]param{e.out(op, 0, "sum"), e.out(op, 1, "y"), e.out(op, 2, "stats"), e.in(op, 0, "a"), e.in(op, 1, "b"), e.weight(op, 2, "w"), e.weight(op, 3, "bias")},
			strides{"sum": op.Results[0], "y": op.Results[1], "a": op.Args[0], "b": op.Args[1]})
	},
	"add_rmsnorm": func(e *emitter, op *ir.Op) {
		e.norm(op, op.Args[0], op.Results[1], op.Results[2], false,
			[]param{e.out(op, 0, "sum"), e.out(op, 1, "y"), e.out(op, 2, "stats"), e.in(op, 0, "a"), e.in(op, 1, "b"), e.weight(op, 2, "w")},
			strides{"sum": op.Results[0], "y": op.Results[1], "a": op.Args[0], "b": op.Args[1]})
	},
	"layernorm_grad": func(e *emitter, op *ir.Op) { e.normGrad(op) },
	"rmsnorm_grad":   func(e *emitter, op *ir.Op) { e.normGrad(op) },
}

// strides are the operands of a kernel that have rows, by the name of their stride in Config.
type strides map[string]*ir.Value

// constants are the strides of operands in the order of names.
func (e *emitter) strides(s strides, names ...string) []constant {
	var out []constant
	for _, n := range names {
		if v, ok := s[n]; ok {
			out = append(out, integer(n+"_stride", e.stride(v)))
		}
	}
	return out
}

func (s strides) values() []*ir.Value {
	var all []*ir.Value
	for _, v := range s {
		all = append(all, v)
	}
	return all
}

// team is how many threads share a group of columns, at accesses of vec. Within a warp they are as many as it takes for each
// to hold 16 elements, or all of the warp with 32; beyond that a block has one team, of up to largest threads with 16.
func team(group, vec, largest int) int {
	held := func(n int) int { return (group + n*vec - 1) / (n * vec) * vec }
	n := 1
	for n < 32 && n*vec < group && (n < 8 || held(n) > 16) {
		n *= 2
	}
	if held(n) <= 32 {
		return n
	}
	for n = 64; n < largest && held(n) > 16; n *= 2 {
	}
	return n
}

// normBlock is how a block of a norm takes its groups.
type normBlock struct {
	config        []constant // the fields that all norms have
	threads       int
	groups, group int // at a time; columns of each
	held, access  int // elements of a group that a thread has; bytes of an access
}

func (e *emitter) normBlock(op *ir.Op, x *ir.Value, vec, largest int) normBlock {
	group := x.Type.Cols()
	if g := op.Int("group"); g > 0 {
		group = g
	}
	if group > 16*largest { // a thread holds more than 16 elements: narrow accesses need fewer registers at once
		vec = min(vec, 4)
	}
	for group%vec != 0 {
		vec /= 2
	}
	size := team(group, vec, largest)
	threads := 128
	if size > 32 {
		threads = size // a large team is a block
	}
	config := []constant{
		typ("T", x.Type.DType), integer("cols", x.Type.Cols()), integer("group", group), integer("vec", vec),
		integer("team", size), integer("threads", threads), number("eps", op.Float("eps")), number("offset", op.Float("offset")),
	}
	return normBlock{config: config, threads: threads, groups: threads / size, group: group, held: (group + size*vec - 1) / (size * vec) * vec, access: vec * x.Type.DType.Bytes()}
}

func (e *emitter) norm(op *ir.Op, x, y, stats *ir.Value, bias bool, params []param, s strides) {
	b := e.normBlock(op, x, e.vec(x.Type.Cols(), s.values()...), 1024)
	config := append(b.config, boolean("bias", bias), boolean("stats", e.has(stats)))
	config = append(config, e.strides(s, "sum", "y", "a", "b", "x")...)
	groups := x.Type.Cols() / b.group
	grid := e.grid(x, b.groups, groups)
	if b.groups%groups == 0 {
		grid = e.perRows(x, b.groups/groups)
	}
	e.emit(op, kernel{file: "norm.cuh", body: op.Kind, rows: x, config: config, params: params, threads: b.threads, grid: grid})
}

// partThreads is how many threads work at once on sums over rows: 512 a processor keep its memory busy.
const partThreads = processors * 512

// parts is how many parts sums over so many items are taken in, each by a block that does per of them at a time, of which a
// processor has so many at once.
func parts(items, per, blocks int) int {
	return max(1, min(processors*blocks, (items+4*per-1)/(4*per)))
}

// normGradStages says how many groups of a team a norm's gradient has in shared memory, where a thread holds so many bytes of a group,
// and how many blocks then share a processor: two groups, of which one is under way, keep memory busy. There are none where they
// do not fit, nor where a team is a whole block: there they were slower than registers (llama-1b).
func (e *emitter) normGradStages(b normBlock, bytes int) (stages, together int) {
	const most = 2
	together = 512 / b.threads
	if bytes > 144 {
		together /= 2
	}
	if b.groups > 1 && b.access == 16 && most*bytes*b.threads <= min(e.blockShared(), 160<<10/together) { // copies are of 16 bytes
		return most, together
	}
	return 0, 0
}

func (e *emitter) normGrad(op *ir.Op) {
	dy, x, dx := op.Args[0], op.Args[1], op.Results[0]
	s := strides{"dx": dx, "dy": dy, "x": x}
	residual := op.Args[4]
	if residual != nil {
		s["residual"] = residual
	}
	b := e.normBlock(op, x, e.vec(x.Type.Cols(), s.values()...), 512)
	bias := len(op.Into) > 1 && op.Into[1] != nil
	gradients := 1
	if bias {
		gradients = 2
	}
	rows, _ := e.rows(x)
	held := 2 * b.held * x.Type.DType.Bytes() // bytes of a group, a thread
	if residual != nil {
		held = 3 * b.held * x.Type.DType.Bytes()
	}
	stages, together := e.normGradStages(b, held)
	n := parts(rows*x.Type.Cols()/b.group, b.groups, cmp.Or(together, 512/b.threads))
	config := append(b.config, boolean("bias", bias), boolean("residual", residual != nil), integer("parts", n), integer("stages", stages))
	config = append(config, e.strides(s, "dx", "dy", "x", "residual")...)
	if residual == nil {
		config = append(config, integer("residual_stride", 0))
	}
	partial := e.scratch("float *", "partial", 4*n*gradients*b.group)
	e.emit(op, kernel{
		file: "norm.cuh", body: op.Kind, rows: x, config: config, threads: b.threads, blocks: together, shared: stages * b.threads * held, grid: blocks(n),
		params: []param{e.out(op, 0, "dx"), partial, e.in(op, 0, "dy"), e.in(op, 1, "x"), e.weight(op, 2, "w"), e.in(op, 3, "stats"), e.in(op, 4, "residual")},
	})
	e.addPartials(op, partial, n, gradients, b.group, e.grad(op, 0, "first"), e.grad(op, 1, "second"))
}

// addPartials adds the sums of parts to gradients of cols floats.
func (e *emitter) addPartials(op *ir.Op, partial param, parts, gradients, cols int, first, second param) {
	threads := 256
	if parts > 64 {
		threads = 1024
	}
	partial.ctype = "const float *"
	e.emit(op, kernel{
		file: "reduce.cuh", body: "add_partials", config: []constant{integer("cols", cols), integer("gradients", gradients), integer("parts", parts), integer("threads", threads)},
		params: []param{first, second, partial}, threads: threads, grid: blocks((gradients*cols + 31) / 32),
	})
}
