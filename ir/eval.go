package ir

import "fmt"

// Tensor is a dense float64 array; integers are held as numbers. No axes is a scalar.
type Tensor struct {
	Shape []int
	Data  []float64
}

// NewTensor returns a tensor of zeros.
func NewTensor(shape ...int) *Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return &Tensor{Shape: shape, Data: make([]float64, n)}
}

// Scalar returns a tensor without axes.
func Scalar(x float64) *Tensor { return &Tensor{Data: []float64{x}} }

func (t *Tensor) cols() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[len(t.Shape)-1]
}

func (t *Tensor) rows() int { return len(t.Data) / max(t.cols(), 1) }

func (t *Tensor) row(i int) []float64 { return t.Data[i*t.cols() : (i+1)*t.cols()] }

func (t *Tensor) like() *Tensor { return NewTensor(t.Shape...) }

func (t *Tensor) clone() *Tensor {
	c := t.like()
	copy(c.Data, t.Data)
	return c
}

// withCols returns zeros of t's shape with the last axis replaced.
func (t *Tensor) withCols(n int) *Tensor {
	shape := append([]int(nil), t.Shape...)
	shape[len(shape)-1] = n
	return NewTensor(shape...)
}

// State is what lives between runs of a function: weights, their gradients, the optimizer's moments and key-value
// caches, by the names of single tensors (layers.3.q.weight), and histories of amax. Eval makes those that are missing, as zeros.
type State struct {
	Weights, Grads, First, Second, Caches map[string]*Tensor

	Amax  map[int][2]float64 // by slot of a history: the largest magnitudes of the step before, and of this one
	Turns int                // steps that histories are of
}

// NewState returns an empty state.
func NewState() *State {
	return &State{map[string]*Tensor{}, map[string]*Tensor{}, map[string]*Tensor{}, map[string]*Tensor{}, map[string]*Tensor{}, map[int][2]float64{}, 0}
}

// evaluator runs one function.
type evaluator struct {
	f     *Func
	state *State
	env   map[*Value]map[int]*Tensor // by instance: the index of the loop whose body defines the value
	stack []*Block                   // the blocks being run, outermost first
	index map[*Block]int             // the index of each loop body's last iteration
	axes  map[string]int             // the current index of the innermost loop over each axis
	plain bool                       // every op's results are rounded to their types
	arena *arena                     // where EvalPlanned keeps the values that have a place; nil for Eval
}

// Eval runs f on inputs by name, in float64, changing state as f says, and returns f's results. An input with an
// axis has its instances along a leading axis. It follows the ops one by one, element by element: slow and plain.
func Eval(f *Func, inputs map[string]*Tensor, state *State) (results []*Tensor, err error) {
	return newEvaluator(f, state).run(inputs)
}

// EvalRounded is Eval with the results of every op rounded to their types, and the weights of products to that of their
// operand, or their operands to TF32 or bf16: what a program gives that computes op by op in those types, as an eager framework does.
// It is the measure of what kernels in 16 bits, and in TF32, may be off.
func EvalRounded(f *Func, inputs map[string]*Tensor, state *State) (results []*Tensor, err error) {
	e := newEvaluator(f, state)
	e.plain = true
	return e.run(inputs)
}

// round rounds the operands of a product in TF32 or bf16, or the weights that one in 16 bits reads, and hands on the rest.
func (e *evaluator) round(op *Op, in []*Tensor) {
	operands := 2
	switch op.Kind { // the products of attention have three, and those of its gradient one more
	case "attention":
		operands = 3
	case "attention_grad":
		operands = 4
	}
	for i := range operands {
		switch {
		case op.Bool("tf32"):
			in[i] = in[i].clone()
			for k, x := range in[i].Data {
				in[i].Data[k] = RoundTF32(x)
			}
		case op.Bool("bf16"):
			in[i] = in[i].clone()
			roundTo(in[i], BF16)
		}
	}
	for i, a := range op.Args {
		if a == nil || a.Param == nil || a.Param.Cache || len(a.Type.Dims) != 2 || op.Args[0].Type.DType == I32 {
			continue
		}
		in[i] = in[i].clone()
		roundTo(in[i], op.Args[0].Type.DType)
	}
}

// factor rounds what op computes and multiplies on with, where its products are in bf16.
func (e *evaluator) factor(op *Op, x float64) float64 {
	if e.plain && op.Bool("bf16") {
		return Round(x, BF16)
	}
	return x
}

func roundTo(t *Tensor, d DType) {
	for i, x := range t.Data {
		t.Data[i] = Round(x, d)
	}
}

func newEvaluator(f *Func, state *State) *evaluator {
	return &evaluator{f: f, state: state, env: map[*Value]map[int]*Tensor{}, index: map[*Block]int{}, axes: map[string]int{}}
}

func (e *evaluator) run(inputs map[string]*Tensor) (results []*Tensor, err error) {
	for _, in := range e.f.Inputs {
		t := inputs[in.Name]
		if t == nil {
			return nil, fmt.Errorf("%s: no input %s", e.f.Name, in.Name)
		}
		e.env[in] = map[int]*Tensor{0: t}
	}
	e.block(e.f.Body)
	for _, r := range e.f.Results {
		results = append(results, e.get(r))
	}
	return results, nil
}

func (e *evaluator) block(b *Block) {
	e.stack = append(e.stack, b)
	defer func() { e.stack = e.stack[:len(e.stack)-1] }()
	for _, op := range b.Ops {
		if e.arena != nil {
			e.arena.begin(op)
		}
		if op.Loop != nil {
			e.loop(op)
		} else {
			e.op(op)
		}
		if e.arena != nil {
			e.arena.end(op)
		}
	}
}

func (e *evaluator) op(op *Op) {
	in := make([]*Tensor, len(op.Args))
	for i, a := range op.Args {
		if a != nil {
			in[i] = e.get(a)
		}
	}
	if e.plain {
		e.round(op, in)
	}
	out := Table[op.Kind].Eval(e, op, in)
	if e.plain {
		for i, t := range out {
			roundTo(t, op.Results[i].Type.DType)
		}
	}
	if len(out) != len(op.Results) {
		panic(fmt.Sprintf("ir: eval of %s gave %d results, want %d", op.Kind, len(out), len(op.Results)))
	}
	if e.arena != nil {
		e.arena.check(e, op)
	}
	for i, r := range op.Results {
		e.set(r, out[i])
		if e.arena != nil && op.Kind != "split" { // its results are views: nothing is written
			e.arena.write(e, r, -1, out[i])
		}
	}
}

func (e *evaluator) loop(op *Op) {
	l := op.Loop
	carried := make([]*Tensor, len(op.Args))
	for i, a := range op.Args {
		carried[i] = e.get(a)
		if e.arena != nil {
			e.arena.write(e, l.Carries[i], 0, carried[i])
		}
	}
	outer, nested := e.axes[l.Axis]
	for k, i := range l.Indices(outer) {
		e.index[l.Body], e.axes[l.Axis] = i, i
		for c, v := range l.Carries {
			e.set(v, carried[c])
		}
		e.block(l.Body)
		e.stack = append(e.stack, l.Body)
		for c, y := range l.Yield {
			carried[c] = e.get(y)
			if e.arena != nil {
				e.arena.write(e, l.Carries[c], k+1, carried[c])
			}
		}
		e.stack = e.stack[:len(e.stack)-1]
	}
	if nested {
		e.axes[l.Axis] = outer
	} else {
		delete(e.axes, l.Axis)
	}
	for i, r := range op.Results {
		e.set(r, carried[i])
	}
}

func (e *evaluator) set(v *Value, t *Tensor) {
	m := e.env[v]
	if m == nil {
		m = map[int]*Tensor{}
		e.env[v] = m
	}
	m[e.index[v.Block]] = t
}

func (e *evaluator) get(v *Value) *Tensor {
	switch {
	case v.Param != nil:
		return e.weight(v.Param)
	case v.Block == nil: // an input
		t := e.env[v][0]
		if i, ok := e.axes[v.Axis]; v.Axis != "" && ok && e.inLoop(v.Axis) {
			n := len(t.Data) / t.Shape[0]
			return &Tensor{Shape: t.Shape[1:], Data: t.Data[i*n : (i+1)*n]}
		}
		return t
	}
	if e.arena != nil && len(v.Type.Dims) > 0 {
		return e.arena.read(e, v, e.computed(v))
	}
	return e.computed(v)
}

// computed returns the instance of v, a value that an op or a loop computes, that the blocks being run mean.
func (e *evaluator) computed(v *Value) *Tensor {
	if v.Block.Loop != nil && !e.running(v.Block) {
		// v belongs to an earlier loop: its instance at the index of the loop that chooses it.
		return e.instance(v, e.index[e.chooser(v.Block)])
	}
	return e.instance(v, e.index[v.Block])
}

// chooser is the body, of those that run, of the loop by whose index an instance is chosen of what the loop with body own computed:
// see RefLoop.
func (e *evaluator) chooser(own *Block) *Block {
	axis := own.Loop.Loop.Axis
	var inner *Block
	for _, b := range e.stack {
		if b.Loop == nil || b.Loop.Loop.Axis != axis {
			continue
		}
		if b.Parent() == own.Parent() {
			return b
		}
		inner = b
	}
	return inner
}

func (e *evaluator) instance(v *Value, i int) *Tensor {
	t := e.env[v][i]
	if t == nil {
		panic(fmt.Sprintf("ir: %v has no instance %d", v, i))
	}
	return t
}

func (e *evaluator) running(b *Block) bool {
	for _, s := range e.stack {
		if s == b {
			return true
		}
	}
	return false
}

func (e *evaluator) inLoop(axis string) bool {
	for _, s := range e.stack {
		if s.Loop != nil && s.Loop.Loop.Axis == axis {
			return true
		}
	}
	return false
}

// weight returns parameter p, of the current layer for a family; a packed one is assembled from its parts.
func (e *evaluator) weight(p *Param) *Tensor {
	if len(p.Parts) == 0 {
		return e.tensor(e.store(p), p)
	}
	t := NewTensor(p.Type.Shape()...)
	at := 0
	for _, part := range p.Parts {
		at += copy(t.Data[at:], e.weight(part).Data)
	}
	return t
}

func (e *evaluator) store(p *Param) map[string]*Tensor {
	if p.Cache {
		return e.state.Caches
	}
	return e.state.Weights
}

func (e *evaluator) tensor(store map[string]*Tensor, p *Param) *Tensor {
	name := p.Member(e.axes[p.Axis])
	if store[name] == nil {
		store[name] = NewTensor(p.Type.Shape()...)
	}
	return store[name]
}

// addGrad adds g to the gradient of parameter v; nil does nothing.
func (e *evaluator) addGrad(v *Value, g []float64) {
	if v == nil {
		return
	}
	for _, part := range v.Param.Leaves() {
		d := e.tensor(e.state.Grads, part).Data
		for i := range d {
			d[i] += g[i]
		}
		g = g[len(d):]
	}
}

// members calls visit for the name of every single weight of the function.
func (e *evaluator) members(visit func(p *Param, name string)) {
	for _, p := range e.f.Params {
		if p.Cache || len(p.Parts) > 0 {
			continue
		}
		for i := range p.Members() {
			visit(p, p.Member(p.From+i))
		}
	}
}
