package ir

import (
	"fmt"
	"math"
	"slices"
)

// EvalPlanned runs f as Eval does, but keeps every value with axes where f's plan places it, in one arena that starts as
// NaNs and where a buffer turns to NaNs again when its life begins and ends. It returns the bytes of the arena that were
// touched, up to the last slot written. The error names the first value that was not in its place any more when an op
// read it, or that an op writes over one it reads; the run goes on with what the arena holds.
func EvalPlanned(f *Func, inputs map[string]*Tensor, state *State) (results []*Tensor, bytes int, err error) {
	if f.Plan == nil {
		return nil, 0, fmt.Errorf("%s has no plan", f.Name)
	}
	a := &arena{plan: f.Plan, data: make([]float64, (f.Plan.Bytes+unit-1)/unit), when: Times(f), first: map[int][]*Buffer{}, last: map[int][]*Buffer{}}
	for i := range a.data {
		a.data[i] = math.NaN()
	}
	for _, b := range f.Plan.Buffers {
		a.first[b.First] = append(a.first[b.First], b)
		a.last[b.Last] = append(a.last[b.Last], b)
	}
	e := newEvaluator(f, state)
	e.arena = a
	results, err = e.run(inputs)
	if err == nil {
		err = a.err
	}
	return results, a.top, err
}

// unit is the bytes that one number of the arena stands for: those of the smallest element.
const unit = 1

// arena holds the planned values of a run.
type arena struct {
	plan        *Plan
	data        []float64 // by byte offset / unit; an element is held where it starts, the rest of it is NaN
	when        map[*Op][2]int
	first, last map[int][]*Buffer // by the time at which their life begins and ends
	now         *Op               // that runs
	top         int               // the end of the last slot written
	err         error
}

func (a *arena) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

func (a *arena) has(v *Value) bool {
	_, ok := a.plan.Places[v]
	return ok
}

// begin and end poison the buffers whose lives begin with op, or end with it.
func (a *arena) begin(op *Op) {
	a.now = op
	a.poison(a.first[a.when[op][0]])
}

func (a *arena) end(op *Op) { a.poison(a.last[a.when[op][1]]) }

func (a *arena) poison(list []*Buffer) {
	for _, b := range list {
		for i := b.Offset / unit; i < (b.Offset+b.Bytes())/unit; i++ {
			a.data[i] = math.NaN()
		}
	}
}

// region is where one instance of a value lies: rows of cols elements, stride apart, from byte at.
type region struct {
	at, rows, cols, stride, size int
	end                          int // of its slot
}

// region returns where the instance of v lies that the ops being run mean. k is the iteration of the place's loop, or
// -1 for that of the loop that runs now.
func (a *arena) region(e *evaluator, v *Value, k int) region {
	p, ok := a.plan.Places[v]
	if !ok {
		panic(fmt.Sprintf("ir: %v has no place", v))
	}
	if p.Loop == nil {
		k = 0
	} else if k < 0 {
		k = e.iteration(p.Loop)
	}
	slot := p.Buffer.Offset + (k+p.Shift)%p.Buffer.Slots*p.Buffer.Slot
	size := v.Type.DType.Bytes()
	r := region{at: slot + p.Column*size, rows: v.Type.Rows(), cols: v.Type.Cols(), stride: p.Stride * size, size: size, end: slot + p.Buffer.Slot}
	if r.bytesEnd() > r.end {
		a.fail("%v does not fit its slot of %d bytes", v, p.Buffer.Slot)
	}
	return r
}

func (r region) bytesEnd() int {
	if r.rows == 0 || r.cols == 0 {
		return r.at
	}
	return r.at + (r.rows-1)*r.stride + r.cols*r.size
}

// each calls visit with the arena index of every element, in order.
func (r region) each(visit func(i, at int)) {
	for row := range r.rows {
		for c := range r.cols {
			visit(row*r.cols+c, (r.at+row*r.stride+c*r.size)/unit)
		}
	}
}

// touches says whether two regions have a byte in common. Those that interleave in one matrix are told apart by their
// columns, others by their ends.
func (r region) touches(s region) bool {
	if r.bytesEnd() <= s.at || s.bytesEnd() <= r.at {
		return false
	}
	if r.stride != s.stride || r.end != s.end {
		return true
	}
	from := (s.at - r.at) % r.stride
	if from < 0 {
		from += r.stride
	}
	return from < r.cols*r.size || from+s.cols*s.size > r.stride
}

// iteration counts the iterations of l before the one that is meant now: of l itself where it runs, else of the loop
// that runs in its place and reads its values by index.
func (e *evaluator) iteration(l *Loop) int {
	outer, index := 0, -1
	if b := e.chooser(l.Body); b != nil {
		index = e.index[b]
	}
	for _, b := range e.stack {
		switch {
		case b == l.Body:
			index = e.index[b]
		case b.Loop != nil && l.Within != "" && b.Loop.Loop.Var == l.Within:
			outer = e.index[b]
		}
	}
	for k, i := range l.Indices(outer) {
		if i == index {
			return k
		}
	}
	panic(fmt.Sprintf("ir: no iteration of the loop over %s has index %d", l.Var, index))
}

// read returns v as it stands in the arena, which must be as it was computed.
func (a *arena) read(e *evaluator, v *Value, computed *Tensor) *Tensor {
	if !a.has(v) {
		a.fail("%s reads %v, which has no place", PrintOp(a.now), v)
		return computed
	}
	t, same := NewTensor(v.Type.Shape()...), true
	a.region(e, v, -1).each(func(i, at int) {
		t.Data[i] = a.data[at]
		same = same && math.Float64bits(t.Data[i]) == math.Float64bits(computed.Data[i])
	})
	if !same {
		a.fail("%s reads %v, whose place does not hold it", PrintOp(a.now), v)
	}
	return t
}

// write stores t where v lies in iteration k of its place's loop; -1 is the one that runs. A value without a place is
// forgotten.
func (a *arena) write(e *evaluator, v *Value, k int, t *Tensor) {
	if a.has(v) {
		a.store(a.region(e, v, k), t)
	}
}

func (a *arena) store(r region, t *Tensor) {
	r.each(func(i, at int) {
		for j := range r.size / unit {
			a.data[at+j] = math.NaN()
		}
		a.data[at] = t.Data[i]
	})
	a.top = max(a.top, r.end)
}

// check fails where op writes over one of its operands that its row does not allow, or over another result.
func (a *arena) check(e *evaluator, op *Op) {
	if op.Kind == "split" || op.Kind == "concat" {
		return
	}
	for i, v := range op.Results {
		if !a.has(v) {
			continue
		}
		r := a.region(e, v, -1)
		for j, w := range op.Args {
			if w == nil || !a.has(w) {
				continue
			}
			s := a.region(e, w, -1)
			if r.touches(s) && !(i == 0 && r == s && slices.Contains(Table[op.Kind].InPlace, j)) {
				a.fail("%s writes %v over its operand %v", PrintOp(op), v, w)
			}
		}
		for _, w := range op.Results[:i] {
			if a.has(w) && r.touches(a.region(e, w, -1)) {
				a.fail("%s writes %v over %v", PrintOp(op), v, w)
			}
		}
	}
}
