package ir

import (
	"fmt"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Builder appends ops to a block, with the types that the op table gives them and names that do not clash.
type Builder struct {
	Func  *Func
	Block *Block
	Pos   spec.Pos // of the ops it makes
	By    string   // the pass it works for

	names map[string]bool
	at    int // ops go before this index when inserting; -1 appends
}

// NewBuilder returns a builder that appends to block of f.
func NewBuilder(f *Func, block *Block) *Builder {
	b := &Builder{Func: f, Block: block, names: map[string]bool{}, at: -1}
	for _, v := range f.Inputs {
		b.names[v.Name] = true
	}
	f.Walk(func(op *Op) {
		for _, r := range op.Results {
			b.names[r.Name] = true
		}
		if op.Loop != nil {
			for _, c := range op.Loop.Carries {
				b.names[c.Name] = true
			}
		}
	})
	return b
}

// Before makes the builder insert before op, in op's block.
func (b *Builder) Before(op *Op) {
	b.Block = op.Block
	for i, o := range op.Block.Ops {
		if o == op {
			b.at = i
			return
		}
	}
	panic("ir: Before an op that is not in its block")
}

// AtEnd makes the builder append to block.
func (b *Builder) AtEnd(block *Block) { b.Block, b.at = block, -1 }

// Name returns name, or name with the smallest number that makes it new, and takes it.
func (b *Builder) Name(name string) string {
	unique := name
	for i := 1; b.names[unique]; i++ {
		unique = fmt.Sprintf("%s%d", strings.TrimRight(name, "0123456789"), i)
	}
	b.names[unique] = true
	return unique
}

// Free gives a name back, for a value that was replaced.
func (b *Builder) Free(name string) { delete(b.names, name) }

// Op appends an op. The names are those wanted for its results; the op table gives their types.
// It panics where the arguments do not fit the op's row: a bug of the caller.
func (b *Builder) Op(kind string, names []string, args []*Value, attrs Attrs, into ...*Value) *Op {
	op := &Op{Kind: kind, Args: args, Into: into, Attrs: attrs, Pos: b.Pos, By: b.By}
	if op.Attrs == nil {
		op.Attrs = Attrs{}
	}
	def := Table[kind]
	if def == nil {
		panic("ir: no op " + kind)
	}
	types, err := def.Shape(op)
	if err != nil {
		panic(fmt.Sprintf("ir: %s: %v", kind, err))
	}
	if len(types) != len(names) {
		panic(fmt.Sprintf("ir: %s has %d results, %d names given", kind, len(types), len(names)))
	}
	for i, t := range types {
		op.Results = append(op.Results, &Value{Name: b.Name(names[i]), Type: t, Op: op, Block: b.Block})
	}
	b.Insert(op)
	return op
}

// Insert puts a ready op at the builder's place.
func (b *Builder) Insert(op *Op) {
	op.Block = b.Block
	for _, r := range op.Results {
		r.Block = b.Block
	}
	if b.at < 0 {
		b.Block.Ops = append(b.Block.Ops, op)
		return
	}
	ops := append(b.Block.Ops, nil)
	copy(ops[b.at+1:], ops[b.at:])
	ops[b.at] = op
	b.Block.Ops = ops
	b.at++
}

// For appends a loop with carries that start as inits, and returns it; fill its Body, then call EndFor.
func (b *Builder) For(l Loop, names []string, inits []*Value) *Op {
	if l.Step == 0 {
		l.Step = 1
	}
	op := &Op{Kind: "for", Args: inits, Attrs: Attrs{}, Pos: b.Pos, By: b.By, Loop: &l}
	l.Body = &Block{Loop: op}
	for i, v := range inits {
		l.Carries = append(l.Carries, &Value{Name: b.Name(names[i]), Type: v.Type, Block: l.Body})
	}
	b.Insert(op)
	return op
}

// EndFor ends a loop: yields are its carries' next values, names those of its results.
func (b *Builder) EndFor(op *Op, yields []*Value, names []string) []*Value {
	op.Loop.Yield = yields
	for i, y := range yields {
		op.Results = append(op.Results, &Value{Name: b.Name(names[i]), Type: y.Type, Op: op, Block: op.Block})
	}
	return op.Results
}

// AddParam adds a parameter to the function and returns its value.
func (b *Builder) AddParam(p Param) *Value {
	np := &p
	np.Value = &Value{Name: p.Name, Type: p.Type, Param: np}
	b.Func.Params = append(b.Func.Params, np)
	return np.Value
}
