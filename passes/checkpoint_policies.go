package passes

import (
	"sort"

	"github.com/tfc-dev/tfc/ir"
)

// policy is what the backward pass does for one layer of a loop.
type policy struct {
	ways  []way   // by op of the forward loop's body
	bytes int     // kept of a layer, as far as it is known before the plan
	time  float64 // seconds to compute the rest of it again
}

// seconds estimates how long op takes: as long as its arithmetic or its memory traffic, whichever is more.
func seconds(op *ir.Op, t *ir.Target) float64 {
	if op.Kind == "split" || op.Kind == "cast" {
		return 0
	}
	return max(ir.Table[op.Kind].FLOPs(op)/t.Rate(op), ir.Bytes(op)/t.Bandwidth) + t.Launch
}

// policies returns the ways to run p's backward loop of which none keeps less and takes less time than another: first
// that which keeps all, last that which keeps the carries alone. storage names the memory that a value lives in, and its
// size: values that share memory are paid for once.
//
// The ops are decided from the last to the first, since an op that runs again makes its operands needed. After each op,
// partial choices that leave the same things open are compared, and the worse dropped.
func policies(p pair, t *ir.Target, storage func(*ir.Value) (any, int)) []policy {
	b := p.forward.Loop.Body
	e := &chooser{id: map[*ir.Value]int{}, memory: map[any]int{}}
	for _, c := range p.forward.Loop.Carries {
		e.add(c, -1, storage)
	}
	for i, op := range b.Ops {
		for _, r := range op.Results {
			e.add(r, i, storage)
		}
	}
	start := choice{needed: make([]byte, len(e.id)), paid: make([]byte, len(e.size)), policy: policy{ways: make([]way, len(b.Ops))}}
	for _, op := range p.backward.Loop.Body.Ops {
		e.need(&start, op.Args)
	}
	open := []choice{start}
	for i := len(b.Ops) - 1; i >= 0; i-- {
		op := b.Ops[i]
		cost := seconds(op, t)
		d, derivable := derivationOf(op)
		next := newFrontier()
		for _, c := range open {
			if !e.needs(c, op.Results) {
				next.add(c)
				continue
			}
			kept := c.copy()
			e.pay(&kept, op.Results)
			next.add(e.close(kept, op, i))
			if derivable && e.needs(c, d.op.Results) {
				some := c.copy()
				some.ways[i] = derive
				some.time += seconds(d.op, t)
				e.need(&some, d.op.Args)
				e.pay(&some, op.Results[d.from:d.from+1])
				next.add(e.close(some, op, i))
			}
			redone := c.copy()
			redone.ways[i] = again
			redone.time += cost
			e.need(&redone, op.Args)
			next.add(e.close(redone, op, i))
		}
		open = next.all()
	}
	last := newFrontier()
	for _, c := range open {
		e.pay(&c, p.forward.Loop.Carries)
		clear(c.needed)
		clear(c.paid)
		last.add(c)
	}
	var front []policy
	for _, c := range last.all() {
		front = append(front, c.policy)
	}
	sort.SliceStable(front, func(i, j int) bool { return front[i].time < front[j].time })
	return front
}

// chooser numbers the values of a layer and the memory they live in.
type chooser struct {
	id       map[*ir.Value]int
	memory   map[any]int // its number
	of       []int       // by value
	size     []int       // by memory
	earliest []int       // by memory: the first op with a result in it
}

func (e *chooser) add(v *ir.Value, op int, storage func(*ir.Value) (any, int)) {
	key, bytes := storage(v)
	m, ok := e.memory[key]
	if !ok {
		m = len(e.size)
		e.memory[key] = m
		e.size = append(e.size, bytes)
		e.earliest = append(e.earliest, op)
	}
	e.id[v] = len(e.of)
	e.of = append(e.of, m)
}

// choice is a policy in the making: what is decided for the last ops, and what this leaves open for those before.
type choice struct {
	policy
	needed []byte // 1 for a value that is read and not decided yet
	paid   []byte // 1 for memory that is kept already
}

func (c choice) copy() choice {
	c.needed, c.paid, c.ways = append([]byte(nil), c.needed...), append([]byte(nil), c.paid...), append([]way(nil), c.ways...)
	return c
}

func (e *chooser) need(c *choice, vs []*ir.Value) {
	for _, v := range vs {
		if i, ok := e.id[v]; ok {
			c.needed[i] = 1
		}
	}
}

func (e *chooser) needs(c choice, vs []*ir.Value) bool {
	for _, v := range vs {
		if c.needed[e.id[v]] == 1 {
			return true
		}
	}
	return false
}

// pay keeps those of vs that are needed.
func (e *chooser) pay(c *choice, vs []*ir.Value) {
	for _, v := range vs {
		i := e.id[v]
		if m := e.of[i]; c.needed[i] == 1 && c.paid[m] == 0 {
			c.paid[m] = 1
			c.bytes += e.size[m]
		}
	}
}

// close forgets what cannot matter any more once op i is decided.
func (e *chooser) close(c choice, op *ir.Op, i int) choice {
	for _, r := range op.Results {
		c.needed[e.id[r]] = 0
	}
	for m, first := range e.earliest {
		if first >= i {
			c.paid[m] = 0
		}
	}
	return c
}

// frontier holds choices, and of those that leave the same open only the best: less kept, or less time.
type frontier struct {
	order []string
	best  map[string][]choice
}

func newFrontier() *frontier { return &frontier{best: map[string][]choice{}} }

func (f *frontier) add(c choice) {
	key := string(c.needed) + string(c.paid)
	list, seen := f.best[key]
	if !seen {
		f.order = append(f.order, key)
	}
	kept := list[:0:0]
	for _, d := range list {
		if d.bytes <= c.bytes && d.time <= c.time {
			return
		}
		if c.bytes > d.bytes || c.time > d.time {
			kept = append(kept, d)
		}
	}
	f.best[key] = append(kept, c)
}

func (f *frontier) all() []choice {
	var list []choice
	for _, key := range f.order {
		list = append(list, f.best[key]...)
	}
	return list
}

// hull returns the policies of a front that lie on its lower convex hull, by index: mixing two of them over the layers
// beats every policy between.
func hull(front []policy) []int {
	var h []int
	for i, p := range front {
		for len(h) > 1 {
			a, b := front[h[len(h)-2]], front[h[len(h)-1]]
			// b is above the line from a to p where its slope from a is no less than p's.
			if (b.time-a.time)*float64(a.bytes-p.bytes) < (p.time-a.time)*float64(a.bytes-b.bytes) {
				break
			}
			h = h[:len(h)-1]
		}
		h = append(h, i)
	}
	return h
}
