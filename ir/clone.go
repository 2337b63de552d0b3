package ir

import "maps"

// Cloner copies ops and loops. A copy reads, for every value with an entry in Values, that entry, and every other value
// as it is; the results and carries of what is copied get entries, so that later copies read the earlier ones.
type Cloner struct {
	Values map[*Value]*Value
	Name   func(string) string // names the copies' values; nil gives them the names of the originals
}

// NewCloner returns a cloner that knows no values yet.
func NewCloner(name func(string) string) *Cloner {
	return &Cloner{Values: map[*Value]*Value{}, Name: name}
}

// Value returns what stands for v in copies.
func (c *Cloner) Value(v *Value) *Value {
	if w := c.Values[v]; w != nil {
		return w
	}
	return v
}

// ValueList returns what stands for each of vs.
func (c *Cloner) ValueList(vs []*Value) []*Value {
	if vs == nil {
		return nil
	}
	out := make([]*Value, len(vs))
	for i, v := range vs {
		out[i] = c.Value(v)
	}
	return out
}

// define makes the copy of v that op defines in block.
func (c *Cloner) define(v *Value, op *Op, block *Block) *Value {
	w := *v
	w.Op, w.Block = op, block
	if c.Name != nil {
		w.Name = c.Name(v.Name)
	}
	c.Values[v] = &w
	return &w
}

// Op copies op, with its loop if it has one, for block; it is not added to the block's list.
func (c *Cloner) Op(op *Op, block *Block) *Op {
	n := *op
	n.Block = block
	n.Args, n.Into, n.Attrs = c.ValueList(op.Args), c.ValueList(op.Into), maps.Clone(op.Attrs)
	if op.Loop != nil {
		l := *op.Loop
		n.Loop = &l
		l.Body = &Block{Loop: &n}
		l.Carries = make([]*Value, len(op.Loop.Carries))
		for i, v := range op.Loop.Carries {
			l.Carries[i] = c.define(v, nil, l.Body)
		}
		c.Block(op.Loop.Body, l.Body)
		l.Yield = c.ValueList(op.Loop.Yield)
	}
	n.Results = make([]*Value, len(op.Results))
	for i, v := range op.Results {
		n.Results[i] = c.define(v, &n, block)
	}
	return &n
}

// Block adds copies of from's ops to the end of to.
func (c *Cloner) Block(from, to *Block) {
	for _, op := range from.Ops {
		to.Ops = append(to.Ops, c.Op(op, to))
	}
}

// Clone copies f, without its plan. The copy shares f's parameters and inputs.
func (f *Func) Clone() *Func {
	c := NewCloner(nil)
	g := *f
	g.Plan, g.Body = nil, &Block{}
	g.Params, g.Inputs = append([]*Param(nil), f.Params...), append([]*Value(nil), f.Inputs...)
	c.Block(f.Body, g.Body)
	g.Results = c.ValueList(f.Results)
	return &g
}
