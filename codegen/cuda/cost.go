package cudagen

import (
	"maps"
	"reflect"
	"slices"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// What launches cost at least (ir.Cost). Bytes are the sum of the launch's own operands, each moved once, those that a
// kernel updates twice; workspace that one launch of an op leaves to the next counts with both. An op's FLOPs, by the op
// table, count with its products; what is left of them is shared out among those of its kernels that say so, or counts with
// the one that moves most.

// moved is the bytes of an operand that a launch reads or writes: so many, and so many for each row of the call.
type moved struct{ bytes, perRow int }

func (m moved) times(n int) moved { return moved{n * m.bytes, n * m.perRow} }

// size is what reading or writing all of v moves.
func (e *emitter) size(v *ir.Value) moved {
	n := v.Type.Elems() * v.Type.DType.Bytes()
	if rows, dynamic := e.rows(v); dynamic {
		return moved{perRow: n / rows}
	}
	return moved{bytes: n}
}

// moving is p where the launch reads or writes only so many bytes of it.
func (p param) moving(m moved) param { p.moved = m; return p }

// updated is p where the launch reads and writes it.
func (p param) updated() param { p.moved = p.moved.times(2); return p }

// gathered is a table of rows of which the kernel takes one for each row of like, and so no more than there are.
func (e *emitter) gathered(p param, like *ir.Value, tableRows, rowBytes int) param {
	n, dynamic := e.rows(like)
	if dynamic {
		return p.moving(moved{perRow: rowBytes})
	}
	return p.moving(moved{bytes: min(n, tableRows) * rowBytes})
}

// table is parameter argument i, f32, of which each row of the op's first argument reads a row.
func (e *emitter) table(op *ir.Op, i int, name string) param {
	t := op.Args[i].Type
	return e.gathered(e.weight(op, i, name), op.Args[0], t.Rows(), 4*t.Cols())
}

// cost is the bytes of a launch of k; FLOPs come when all launches of the op are known (count).
func (k *kernel) cost() ir.Cost {
	c := k.key
	for _, p := range k.params {
		m := p.moved
		if p.operand.Step > 0 { // each launch of the group has its own part
			m = moved{bytes: p.operand.Step}
		}
		c.Bytes += m.bytes
		c.RowBytes += m.perRow
	}
	return c
}

// count gives the kernels of op's launches what they cost: those that run on one architecture apart from those that run on the
// others.
func (e *emitter) count(op *ir.Op) {
	groups := e.g.code.Launches[op]
	of := func(skip func(ir.Group) bool) (list []*ir.Launch, times []int) {
		for i, gr := range groups {
			for j := range gr.Launches {
				if measured := gr.Measures && gr.Launches[j].Product != nil; !skip(gr) && !measured { // which is made again, to be counted
					list, times = append(list, &groups[i].Launches[j]), append(times, gr.Times)
				}
			}
		}
		return list, times
	}
	list, times := of(func(g ir.Group) bool { return g.Off != "" })
	if len(list) > 0 {
		e.countAll(op, list, times)
	}
	if list, times = of(func(g ir.Group) bool { return g.On != "" }); slices.ContainsFunc(groups, func(g ir.Group) bool { return g.Off != "" }) {
		e.countAll(op, list, times)
	}
}

// countAll is count of launches that run one after another, each so many times.
func (e *emitter) countAll(op *ir.Op, launches []*ir.Launch, times []int) {
	products, shares, cached := 0, 0, false
	largest, most := -1, -1
	for i, l := range launches {
		if p := l.Product; p != nil {
			products += times[i] * 2 * p.M * p.N * p.K
		}
		shares += l.Share
		cached = cached || l.Cost.KeyFLOPs > 0 // attends to a cache: its FLOPs are those of the keys
		if l.Kernels == nil {
			continue
		}
		if bytes := e.most(l.Cost); bytes > most {
			largest, most = i, bytes
		}
	}
	masks := op.Patterns("mask")
	for i, l := range launches {
		for n, k := range l.Kernels {
			c := l.Cost
			rest := func() int { return (flops(op, masks, n, len(l.Kernels)) - products) / times[i] }
			switch {
			case c.KeyFLOPs > 0:
				c.Keys = &masks[n%len(masks)]
			case cached:
			case shares > 0:
				c = e.withFLOPs(c, rest()*l.Share/shares)
			case i == largest:
				c = e.withFLOPs(c, rest())
			}
			l.Kernels[n] = e.g.counted(k, op, c)
		}
	}
}

// most is the bytes of a call of as many rows as there can be.
func (e *emitter) most(c ir.Cost) int { return c.Bytes + c.RowBytes*e.dynamicRows() }

// withFLOPs is c with FLOPs that a call of as many rows as there can be has.
func (e *emitter) withFLOPs(c ir.Cost, n int) ir.Cost {
	n = max(n, 0)
	if c.RowBytes > 0 {
		c.RowFLOPs = n / e.dynamicRows()
	} else {
		c.FLOPs = n
	}
	return c
}

// dynamicRows is the most rows that a call can have, 1 where their number is not the call's.
func (e *emitter) dynamicRows() int {
	n := 1
	for _, s := range e.f.Symbols {
		if s.Dynamic {
			n *= s.Size
		}
	}
	return n
}

// flops are those of op, or, where layers take kernels with masks of their own in turn, of a layer with kernel n.
func flops(op *ir.Op, masks []spec.Pattern, n, kernels int) int {
	if kernels > 1 {
		one := *op
		one.Attrs = maps.Clone(op.Attrs)
		one.Attrs["mask"] = masks[n : n+1]
		op = &one
	}
	row, ok := ir.Table[op.Kind]
	if !ok { // what picks tokens is no op of the language
		return 0
	}
	return int(row.FLOPs(op))
}

// counted is a kernel that costs c: k itself at its first use, or another one of the same entry, which is named after op.
func (g *generator) counted(k *ir.Kernel, op *ir.Op, c ir.Cost) *ir.Kernel {
	for _, same := range g.counts[k.Entry] {
		if reflect.DeepEqual(same.Cost, c) {
			return same
		}
	}
	if len(g.counts[k.Entry]) > 0 {
		other := *k
		other.Name, other.About = g.byEntry[k.Entry]+"_"+label(op), about(op)
		k = &other
	}
	k.Cost = c
	g.counts[k.Entry] = append(g.counts[k.Entry], k)
	g.code.Kernels = append(g.code.Kernels, k)
	return k
}

// name makes the names of all kernels different. Entries come first: they are names of files.
func (g *generator) name() {
	for _, k := range g.code.Kernels {
		if k != g.counts[k.Entry][0] {
			k.Name = unique(k.Name, g.names)
		}
	}
}
