// Package ir is the program a spec compiles to: one function per job (train, eval, logits, prefill, decode), in SSA
// form, with loops over micro-batches and layers, printed as text that parses back.
//
// The nouns: a Func has Params (weights and caches) and a Body; a Block is a list of Ops; an Op computes Values from
// Values; a loop is an Op with a Block of its own. What an op means is its row in the op table (ops.go); Eval runs any
// function in float64 and is the reference for passes and kernels.
package ir

import (
	"fmt"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// DType is the type of a value's elements.
type DType string

// The element types.
const (
	F32  DType = "f32"
	BF16 DType = "bf16"
	F16  DType = "f16"
	E4M3 DType = "e4m3"
	E5M2 DType = "e5m2"
	I32  DType = "i32"
	U64  DType = "u64"
)

// Bytes returns the size of one element.
func (d DType) Bytes() int {
	switch d {
	case E4M3, E5M2:
		return 1
	case BF16, F16:
		return 2
	case U64:
		return 8
	}
	return 4
}

// Dim is one axis: its size, and the expression over the function's symbols that gives it, as H*E.
type Dim struct {
	Expr string
	Size int
}

// Type is the type of a value: element type and axes. No axes is a scalar.
type Type struct {
	DType DType
	Dims  []Dim
}

// Elems returns the number of elements.
func (t Type) Elems() int {
	n := 1
	for _, d := range t.Dims {
		n *= d.Size
	}
	return n
}

// Rows returns the product of all axes but the last.
func (t Type) Rows() int {
	n := 1
	for _, d := range t.Dims[:max(0, len(t.Dims)-1)] {
		n *= d.Size
	}
	return n
}

// Cols returns the last axis's size, 1 for a scalar.
func (t Type) Cols() int {
	if len(t.Dims) == 0 {
		return 1
	}
	return t.Dims[len(t.Dims)-1].Size
}

// Last returns the last axis.
func (t Type) Last() Dim { return t.Dims[len(t.Dims)-1] }

// WithLast returns t with its last axis replaced.
func (t Type) WithLast(d Dim) Type {
	dims := append([]Dim(nil), t.Dims...)
	dims[len(dims)-1] = d
	return Type{t.DType, dims}
}

// Shape returns the sizes of the axes.
func (t Type) Shape() []int {
	s := make([]int, len(t.Dims))
	for i, d := range t.Dims {
		s[i] = d.Size
	}
	return s
}

// Same says whether two types have the same elements and axis sizes.
func (t Type) Same(u Type) bool { return t.DType == u.DType && t.SameShape(u) }

// SameShape says whether two types have the same axis sizes.
func (t Type) SameShape(u Type) bool {
	if len(t.Dims) != len(u.Dims) {
		return false
	}
	for i := range t.Dims {
		if t.Dims[i].Size != u.Dims[i].Size {
			return false
		}
	}
	return true
}

func (t Type) String() string {
	names := make([]string, len(t.Dims))
	for i, d := range t.Dims {
		names[i] = d.Expr
	}
	return string(t.DType) + "[" + strings.Join(names, ",") + "]"
}

// Symbol is a named size of a function. A dynamic symbol's size is the most it can be; a run may use less.
type Symbol struct {
	Name    string
	Size    int
	Dynamic bool
}

// Value is what an op computes, a loop carries, or a function is given.
//
// A value defined in a loop's body has an instance for each iteration. Inside the body its name means this
// iteration's; a later loop over the same axis reads the instance of its own index, printed %h[l].
type Value struct {
	Name  string
	Type  Type
	Op    *Op    // that defines it; nil for parameters, inputs and loop carries
	Block *Block // that defines it; nil for parameters and function inputs
	Param *Param // for a parameter
	Axis  string // for an input with an instance per iteration of a loop: that loop's axis, as "micro"
}

func (v *Value) String() string {
	switch {
	case v == nil:
		return "_"
	case v.Param != nil:
		return "@" + v.Name
	}
	return "%" + v.Name
}

// Param is a weight or a key-value cache. With an Axis it is a family: one tensor for each index in [From, To).
type Param struct {
	Name     string
	Type     Type // of one member
	Axis     string
	From, To int
	Cache    bool     // a key-value cache instead of a weight
	Decay    bool     // weight decay applies
	Init     Init     // how it starts
	Parts    []*Param // where it is packed: the weights that are its rows, one after another
	Pos      spec.Pos // the spec line it comes from
	Value    *Value   // that stands for it
}

// Init is a weight's first values: normal(scale), uniform(scale) or constant(scale).
type Init struct {
	Kind  string
	Scale float64
}

// Members returns the number of tensors: 1, or one an index.
func (p *Param) Members() int {
	if p.Axis == "" {
		return 1
	}
	return p.To - p.From
}

// Member returns the name of the member at index i of a family, layers.3.q.weight; the name itself for a single one.
func (p *Param) Member(i int) string {
	if p.Axis == "" {
		return p.Name
	}
	rest := strings.TrimPrefix(p.Name, p.Axis+".")
	if head, tail, ok := strings.Cut(rest, "."); ok && strings.Contains(head, "-") { // a family of some layers: layers.4-8.q.weight
		rest = tail
	}
	return fmt.Sprintf("%s.%d.%s", p.Axis, i, rest)
}

// Leaves returns the weights p is packed from, or p itself.
func (p *Param) Leaves() []*Param {
	if len(p.Parts) == 0 {
		return []*Param{p}
	}
	return p.Parts
}

// Attrs are an op's constants: int, float64, bool, string, []string or []spec.Pattern.
type Attrs map[string]any

// Op is one operation. Its meaning is the row of the op table named Kind.
type Op struct {
	Kind    string
	Args    []*Value // nil where an optional argument is absent
	Into    []*Value // parameters whose gradient it adds to; nil where absent
	Attrs   Attrs
	Results []*Value
	Loop    *Loop    // of a "for"
	Pos     spec.Pos // the spec line it comes from
	By      string   // the pass that wrote it, "" for Build
	Block   *Block
}

// Int returns an integer attribute, 0 when absent.
func (o *Op) Int(name string) int { n, _ := o.Attrs[name].(int); return n }

// Float returns a number attribute, 0 when absent.
func (o *Op) Float(name string) float64 { x, _ := o.Attrs[name].(float64); return x }

// Bool returns a boolean attribute, false when absent.
func (o *Op) Bool(name string) bool { b, _ := o.Attrs[name].(bool); return b }

// Str returns a text attribute, "" when absent.
func (o *Op) Str(name string) string { s, _ := o.Attrs[name].(string); return s }

// Strings returns a list attribute, nil when absent.
func (o *Op) Strings(name string) []string { s, _ := o.Attrs[name].([]string); return s }

// Patterns returns the attention patterns of an attribute: that of layer l is element l mod their number.
func (o *Op) Patterns(name string) []spec.Pattern { p, _ := o.Attrs[name].([]spec.Pattern); return p }

// Result returns the first result.
func (o *Op) Result() *Value { return o.Results[0] }

// Loop is the body of a "for" op: it runs for each index in [From, To) by Step, downwards if Reverse. Its carries
// start as the op's arguments; each iteration yields their next values; the op's results are the last ones.
//
// A loop Within another runs over offsets from the outer loop's index, and ends where the outer axis ends: the layers
// of one segment.
type Loop struct {
	Var      string // l
	Axis     string // layers, micro
	From, To int
	Step     int
	Reverse  bool
	Within   string // the outer loop's Var, or ""
	Limit    int    // for Within: the end of the outer axis
	Carries  []*Value
	Yield    []*Value
	Body     *Block
}

// Indices returns the loop's indices in order; outer is the index of the loop it is within.
func (l *Loop) Indices(outer int) []int {
	from, to := l.From, l.To
	if l.Within != "" {
		from, to = outer+from, min(outer+to, l.Limit)
	}
	var idx []int
	for i := from; i < to; i += l.Step {
		idx = append(idx, i)
	}
	if l.Reverse {
		for i, j := 0, len(idx)-1; i < j; i, j = i+1, j-1 {
			idx[i], idx[j] = idx[j], idx[i]
		}
	}
	return idx
}

// Block is a list of ops: a function's body or a loop's.
type Block struct {
	Ops  []*Op
	Loop *Op // the "for" it is the body of; nil for a function's
}

// Parent returns the block that holds b's loop, nil for a function's body.
func (b *Block) Parent() *Block {
	if b.Loop == nil {
		return nil
	}
	return b.Loop.Block
}

// Encloses says whether inner is b or inside of b.
func (b *Block) Encloses(inner *Block) bool {
	for ; inner != nil; inner = inner.Parent() {
		if inner == b {
			return true
		}
	}
	return false
}

// Func is one job of a model.
type Func struct {
	Name    string // train, eval, logits, prefill, decode
	Symbols []Symbol
	Params  []*Param // leaves first, then those packed from them
	Inputs  []*Value
	Body    *Block
	Results []*Value // what it returns

	Plan *Plan // set by plan-memory
}

// Symbol returns the size of a symbol, 0 when there is none.
func (f *Func) Symbol(name string) int {
	for _, s := range f.Symbols {
		if s.Name == name {
			return s.Size
		}
	}
	return 0
}

// Param returns the parameter of that name, or nil.
func (f *Func) Param(name string) *Param {
	for _, p := range f.Params {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Input returns the input of that name, or nil.
func (f *Func) Input(name string) *Value {
	for _, v := range f.Inputs {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// Walk calls visit for every op, outer before inner, in order.
func (f *Func) Walk(visit func(*Op)) { f.Body.Walk(visit) }

// Walk calls visit for every op in b and in the loops inside it, in order.
func (b *Block) Walk(visit func(*Op)) {
	for _, op := range b.Ops {
		visit(op)
		if op.Loop != nil {
			op.Loop.Body.Walk(visit)
		}
	}
}

// Uses returns the ops that read each value, in order; a loop that yields a value, and a function that returns it,
// count as a use by the loop's op and by nil.
func (f *Func) Uses() map[*Value][]*Op {
	uses := map[*Value][]*Op{}
	f.Walk(func(op *Op) {
		for _, a := range op.Args {
			if a != nil {
				uses[a] = append(uses[a], op)
			}
		}
		if op.Loop != nil {
			for _, y := range op.Loop.Yield {
				uses[y] = append(uses[y], op)
			}
		}
	})
	for _, r := range f.Results {
		uses[r] = append(uses[r], nil)
	}
	return uses
}

// Replace makes every reader of old read new instead.
func (f *Func) Replace(old, new *Value) {
	f.Walk(func(op *Op) {
		replaceIn(op.Args, old, new)
		if op.Loop != nil {
			replaceIn(op.Loop.Yield, old, new)
		}
	})
	replaceIn(f.Results, old, new)
}

func replaceIn(list []*Value, old, new *Value) {
	for i, v := range list {
		if v == old {
			list[i] = new
		}
	}
}

// Remove takes op out of its block.
func (o *Op) Remove() {
	ops := o.Block.Ops
	for i, p := range ops {
		if p == o {
			o.Block.Ops = append(ops[:i:i], ops[i+1:]...)
			return
		}
	}
}
