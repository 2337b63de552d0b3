package passes

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// split cuts the loops of p after the first k layers: the forward loop becomes one over these and one over the rest,
// the backward loop one over the rest and one over these.
//
//	for l in 0..L, for l in L..0   ▶   for l in 0..k, for l in k..L, for l in L..k, for l in k..0
func split(f *ir.Func, p pair, k int, name func(string) string) (first, rest pair) {
	c := ir.NewCloner(name)
	rest.forward = c.Op(p.forward, p.forward.Block)
	rest.backward = c.Op(p.backward, p.backward.Block)
	rest.forward.By, rest.backward.By = "checkpoint", "checkpoint"
	for i, r := range p.forward.Results {
		f.Replace(r, rest.forward.Results[i])
		rest.forward.Args[i] = r
	}
	rest.backward.Args, p.backward.Args = p.backward.Args, slices.Clone(rest.backward.Results)
	at := p.forward.Loop.From + k
	p.forward.Loop.To, p.backward.Loop.To = at, at
	rest.forward.Loop.From, rest.backward.Loop.From = at, at
	insert(rest.forward, indexOf(p.forward)+1)
	insert(rest.backward, indexOf(p.backward))
	return p, rest
}

// insert puts op into its block at index i.
func insert(op *ir.Op, i int) { op.Block.Ops = slices.Insert(op.Block.Ops, i, op) }

// segment makes the loops of p, of more than n layers, run in segments of n, and returns the pair of loops within a segment of the
// backward pass: the first computes the segment again from the stream at its start and keeps its values, the second
// reads them.
//
//	for l in 0..L { F }     ▶   for s in 0..L step n { for l in s..s+n { F } }
//	for l in L..0 { B }         for s in L..0 step n { for l in s..s+n { F again }, for l in s+n..s { B } }
func segment(p pair, n int, name func(string) string) pair {
	forward := within(p.forward, n, name)
	backward := within(p.backward, n, name)
	c := ir.NewCloner(name)
	once := onceMore(c, p.forward, backward.Loop.Body)
	once.Args = slices.Clone(forward.Loop.Carries)
	insert(once, 0)
	for _, op := range p.backward.Loop.Body.Ops {
		op.Args = c.ValueList(op.Args)
	}
	return pair{once, p.backward}
}

// repeat makes the backward pass of ps, consecutive loops that are one segment together, compute the whole segment again
// from the stream at its start, and changes ps to the pairs that then belong together.
//
//	F1, F2, B2, B1   ▶   F1, F2, F1 again, F2 again, B2, B1
func repeat(ps []pair, name func(string) string) {
	at := indexOf(ps[len(ps)-1].backward)
	c := ir.NewCloner(name)
	for i, p := range ps {
		once := onceMore(c, p.forward, p.backward.Block)
		insert(once, at+i)
		ps[i].forward = once
	}
	for _, p := range ps {
		for _, op := range p.backward.Loop.Body.Ops {
			op.Args = c.ValueList(op.Args)
		}
	}
}

// onceMore copies a forward loop for the backward pass.
func onceMore(c *ir.Cloner, forward *ir.Op, block *ir.Block) *ir.Op {
	once := c.Op(forward, block)
	once.By = "checkpoint"
	for _, op := range once.Loop.Body.Ops {
		op.By = "checkpoint"
	}
	return once
}

// within puts loop op into a new loop over segments of n, which takes its place.
func within(op *ir.Op, n int, name func(string) string) *ir.Op {
	l := op.Loop
	outer := &ir.Loop{Var: "s", Axis: l.Axis, From: l.From, To: l.To, Step: n, Reverse: l.Reverse}
	seg := &ir.Op{Kind: "for", Args: op.Args, Attrs: ir.Attrs{}, Results: op.Results, Loop: outer, Pos: op.Pos, By: "checkpoint", Block: op.Block}
	outer.Body = &ir.Block{Loop: seg, Ops: []*ir.Op{op}}
	seg.Block.Ops[indexOf(op)] = seg
	op.Block = outer.Body
	op.Args, op.Results = nil, nil
	for i, r := range seg.Results {
		r.Op = seg
		fresh := func(v *ir.Value, op *ir.Op) *ir.Value {
			w := &ir.Value{Name: v.Name, Type: v.Type, Op: op, Block: outer.Body}
			if name != nil {
				w.Name = name(v.Name)
			}
			return w
		}
		c := fresh(l.Carries[i], nil)
		outer.Carries = append(outer.Carries, c)
		op.Args = append(op.Args, c)
		op.Results = append(op.Results, fresh(r, op))
	}
	outer.Yield = slices.Clone(op.Results)
	l.Within, l.Limit, l.From, l.To = outer.Var, outer.To, 0, n
	return seg
}
