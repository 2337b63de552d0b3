package ir

import (
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Weight says where one weight lives: in the contiguous float32 buffer of a program, and in a Hugging Face file.
type Weight struct {
	Name   string // layers.3.q.weight
	Shape  []int
	Offset int // of its first element in the buffer
	Decay  bool
	Init   Init

	File           string // the tensor of the file that holds it; see spec.Placement for the rest
	FileTransposed bool
	FileRows       int
	FileRow        int
	FileGroup      int
	FileStride     int
}

// Size returns the number of elements.
func (w Weight) Size() int {
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	return n
}

// WeightFloats returns the size of a buffer laid out by a table, in elements, and how many of its first ones are subject to
// weight decay.
func WeightFloats(table []Weight) (all, decayed int) {
	for _, w := range table {
		all = max(all, (w.Offset+w.Size()+weightAlign-1)/weightAlign*weightAlign)
		if w.Decay {
			decayed = all
		}
	}
	return all, decayed
}

// weightAlign is where weights start, in elements: a cache line. The parts of a packed weight follow each other closely.
const weightAlign = 16

// WeightTable lays out the weights of f, which must have all of the model's: first those that decay, family by family
// and layer by layer, the parts of a packed weight side by side so that it is one matrix.
func WeightTable(s *spec.Spec, f *Func) []Weight {
	var table []Weight
	eachMember(f, func(p *Param, i, at int) {
		for _, q := range p.Leaves() {
			w := Weight{Name: q.Member(p.From + i), Shape: q.Type.Shape(), Offset: at, Decay: p.Decay, Init: q.Init}
			w.place(s)
			table = append(table, w)
			at += w.Size()
		}
	})
	return table
}

// Span is a stretch of the weight buffer, in elements.
type Span struct{ From, To int }

// SpansWithout returns the stretches of the weight buffer that are left without some parameters, gaps included.
func SpansWithout(f *Func, without map[*Param]bool) []Span {
	var spans []Span
	eachMember(f, func(p *Param, _, at int) {
		end := at
		for _, q := range p.Leaves() {
			end += q.Type.Elems()
		}
		if without[p] {
			at = end
		}
		end = (end + weightAlign - 1) / weightAlign * weightAlign
		switch n := len(spans) - 1; {
		case at == end:
		case n >= 0 && spans[n].To == at:
			spans[n].To = end
		default:
			spans = append(spans, Span{at, end})
		}
	})
	return spans
}

// Overwritten returns the parameters whose gradient one product of the step gives alone, and so need not be zero before it: where
// there is one micro-batch, those that only one op adds to, a linear_dw that runs once for each of their members.
func Overwritten(f *Func) map[*Param]bool {
	zeroed, ops := false, map[*Param][]*Op{}
	f.Walk(func(op *Op) {
		zeroed = zeroed || op.Kind == "zero_grads"
		if op.Loop != nil {
			return
		}
		for _, v := range op.Into {
			if v != nil {
				ops[v.Param] = append(ops[v.Param], op)
			}
		}
	})
	found := map[*Param]bool{}
	for p, list := range ops {
		if zeroed && len(list) == 1 && strings.HasPrefix(list[0].Kind, "linear_dw") && runs(list[0]) == p.Members() {
			found[p] = true
		}
	}
	return found
}

// runs is how often an op runs.
func runs(op *Op) int {
	n := 1
	for b := op.Block; b != nil && b.Loop != nil; b = b.Loop.Block {
		if b.Loop.Loop.Within != "" {
			return 0 // it is not known so simply
		}
		n *= len(b.Loop.Loop.Indices(0))
	}
	return n
}

// eachMember calls visit for every parameter of the weight buffer and each of its members, in order, with where it begins.
func eachMember(f *Func, visit func(p *Param, member, at int)) {
	part := map[*Param]bool{}
	for _, p := range f.Params {
		for _, q := range p.Parts {
			part[q] = true
		}
	}
	at := 0
	for _, decay := range []bool{true, false} {
		for _, p := range f.Params {
			if p.Cache || part[p] || p.Decay != decay {
				continue
			}
			for i := range p.Members() {
				at = (at + weightAlign - 1) / weightAlign * weightAlign
				visit(p, i, at)
				for _, q := range p.Leaves() {
					at += q.Type.Elems()
				}
			}
		}
	}
}

// place fills in where the weight is in a file: where the model's family has it, or under its own name.
func (w *Weight) place(s *spec.Spec) {
	w.File = w.Name
	if s.HF == nil {
		return
	}
	if p, ok := s.HF.Place(w.Name, &s.Model); ok {
		w.File, w.FileTransposed = p.File, p.Transposed
		w.FileRows, w.FileRow, w.FileGroup, w.FileStride = p.Rows, p.Row, p.Group, p.Stride
	}
}
