package ir

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// EightBits are the element types of 8 bits, and the largest number of each: those of the OCP 8-bit floating point
// specification, E4M3 with 3 bits behind the first and no infinity, E5M2 with 2.
var EightBits = map[DType]float64{E4M3: 448, E5M2: 57344}

// leastScale is the smallest scale that quantize gives: its reciprocal is a float, too.
const leastScale = -126

// QuantizeScale is the scale of a tensor whose largest magnitude is amax, for elements of type d: the least power of two by
// which amax may be divided and still be a number of the type, so that dividing rounds nothing. Zeros have the scale 1. What is not
// finite has a scale that makes of the whole tensor NaN, in products too.
func QuantizeScale(amax float64, d DType) float64 {
	if amax == 0 || math.IsNaN(amax) || math.IsInf(amax, 0) {
		if amax == 0 {
			return 1
		}
		return amax
	}
	_, e := math.Frexp(amax / EightBits[d]) // amax / largest is in [2^(e-1), 2^e)
	if amax == EightBits[d]*math.Ldexp(1, e-1) {
		e--
	}
	return math.Ldexp(1, max(e, leastScale))
}

// Transposed is the type of a value's rows as columns: [columns, rows].
func Transposed(t Type) Type {
	var factors []string
	for _, d := range t.Dims[:len(t.Dims)-1] {
		e := d.Expr
		if strings.Contains(e, "+") && len(t.Dims) > 2 {
			e = "(" + e + ")"
		}
		factors = append(factors, e)
	}
	rows := Dim{strings.Join(factors, "*"), t.Rows()}
	if allNumbers(t.Dims[:len(t.Dims)-1]) {
		rows.Expr = fmt.Sprint(rows.Size)
	}
	return Type{t.DType, []Dim{t.Last(), rows}}
}

func allNumbers(dims []Dim) bool {
	for _, d := range dims {
		if d.Expr != fmt.Sprint(d.Size) {
			return false
		}
	}
	return true
}

// single is one f32 that has a place of its own, and so an instance for each layer.
var single = Type{F32, []Dim{{"1", 1}}}

func wantSingles(vs ...*Value) error {
	for _, v := range vs {
		if !v.Type.Same(single) {
			return fmt.Errorf("%v is %v, want %v", v, v.Type, single)
		}
	}
	return nil
}

// fp8Ops are products of operands in 8 bits, and what makes these. Both operands of a product have the summed index as their columns:
// matrix units take no others.
func fp8Ops() []*OpDef {
	product := func(op *Op) float64 {
		return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Rows())
	}
	return []*OpDef{
		{
			Kind: "turn_amax", Doc: "at the start of a step: the largest magnitudes that histories hold become those of the step before, where they are finite and not 0",
			Attrs: need("int", "slots"),
			Shape: func(op *Op) ([]Type, error) { return nil, nil },
			FLOPs: noFLOPs, Eval: evalTurnAmax, NoGrad: true,
		},
		{
			Kind: "amax", Doc: "the largest magnitude in a source (see Source), NaN where it has one; with a history twice that of the step before, where there was one, and after the first three steps (MeasuredSteps) 0 where there never was",
			Args: []string{"x", "x2?", "x3?"}, Results: []string{"amax"}, Attrs: sourceAttrs,
			Shape: func(op *Op) ([]Type, error) {
				_, err := sourceType(op, op.Args)
				return []Type{single}, err
			},
			FLOPs: func(op *Op) float64 {
				if op.Int("history") > 0 { // but for the first step
					return 1
				}
				return sourceFLOPs(op, op.Args)
			},
			Eval: evalAmax, NoGrad: true,
		},
		{
			Kind: "quantize", Doc: "a source (see Source) divided by scale and rounded to 8 bits, saturating, as it lies and with rows as columns; scale is the least " +
				"power of two that amax allows. With a history its largest magnitude goes there. y is the source itself, where the attribute keep asks for it; the sum of its rows is added to a bias's gradient",
			Args: []string{"x", "amax", "x2?", "x3?"}, Into: []string{"b?..."}, Results: []string{"q", "transposed", "scale!", "y..."},
			Attrs: attrs(sourceAttrs, need("string", "to"), need("bool", "keep?")),
			Shape: func(op *Op) ([]Type, error) {
				x, err := sourceType(op, quantizeSource(op.Args))
				if err != nil {
					return nil, err
				}
				to := DType(op.Str("to"))
				if EightBits[to] == 0 {
					return nil, fmt.Errorf("%q is no type of 8 bits", to)
				}
				q := Type{to, x.Dims}
				types := []Type{q, Transposed(q), single}
				if op.Bool("keep") {
					types = append(types, x)
				}
				err = wantSingles(op.Args[1])
				for _, b := range op.Into {
					err = firstError(err, wantVector(b, x.Cols()))
				}
				return types, err
			},
			FLOPs: func(op *Op) float64 { return sourceFLOPs(op, quantizeSource(op.Args)) + perElement(1)(op) }, Eval: evalQuantize, NoGrad: true,
		},
		{
			Kind: "linear_fp8", Doc: "y = (x·wᵀ) * x_scale * w_scale + bias + residual, of operands in 8 bits: also a gradient of x, where x is that of y and w has its rows as columns",
			Args: []string{"x", "w", "x_scale", "w_scale", "bias?", "residual?"}, Results: []string{"y"}, InPlace: []int{5},
			Shape: func(op *Op) ([]Type, error) {
				x, w := op.Args[0], op.Args[1]
				if err := firstError(wantMatrix(w, 0, x.Type.Cols()), wantEightBits(x, w), wantSingles(op.Args[2:4]...)); err != nil {
					return nil, err
				}
				y := x.Type.WithLast(w.Type.Dims[0])
				y.DType = BF16
				return []Type{y}, firstError(wantVector(op.Args[4], w.Type.Rows()), wantShape(op.Args[5], &Value{Type: y}))
			},
			FLOPs: product, Eval: evalLinearFP8, NoGrad: true,
		},
		{
			Kind: "linear_quantize", Doc: "a product in 8 bits whose end quantises: with P = (x·wᵀ) * x_scale * w_scale + bias, the source (see Source) of P, or for the gradient of an activation of P and what was kept, " +
				"quantised as quantize does with a history. Of an activation kept is P, which is gate and up side by side where that is gated",
			Args: []string{"x", "w", "x_scale", "w_scale", "bias?", "kept?"}, Into: []string{"b?..."}, Results: []string{"q", "transposed", "scale!", "kept..."},
			Attrs: attrs(need("string", "of"), need("string", "fn"), need("int", "history"), need("string", "to")),
			Shape: linearQuantizeTypes,
			FLOPs: product, Eval: evalLinearQuantize, NoGrad: true,
		},
		{
			Kind: "linear_dw_fp8", Doc: "adds linear's weight gradient, of operands in 8 bits with rows as columns: d_w += (d_yᵀ·x) * d_y_scale * x_scale",
			Args: []string{"d_y", "x", "d_y_scale", "x_scale"}, Into: []string{"w"},
			Shape: func(op *Op) ([]Type, error) {
				dy, x := op.Args[0], op.Args[1]
				return nil, firstError(wantMatrix(x, 0, dy.Type.Cols()), wantEightBits(dy, x), wantSingles(op.Args[2:4]...),
					wantMatrix(op.Into[0], dy.Type.Rows(), x.Type.Rows()))
			},
			FLOPs: product, Eval: evalLinearDWFP8, NoGrad: true,
		},
	}
}

// linearQuantizeTypes are the types of linear_quantize's results.
func linearQuantizeTypes(op *Op) ([]Type, error) {
	x, w, kept, of := op.Args[0], op.Args[1], op.Args[5], op.Str("of")
	if err := firstError(wantMatrix(w, 0, x.Type.Cols()), wantEightBits(x, w), wantSingles(op.Args[2:4]...), wantVector(op.Args[4], w.Type.Rows()), wantActivation(op.Str("fn"))); err != nil {
		return nil, err
	}
	to, p := DType(op.Str("to")), x.Type.WithLast(w.Type.Dims[0])
	if EightBits[to] == 0 || op.Int("history") < 1 {
		return nil, fmt.Errorf("it gives 8 bits, not %q, and has a history", to)
	}
	p.DType = BF16
	d := p
	switch of {
	case "act", "act_grad":
	case "glu":
		half, err := halfOf(w.Type.Dims[0])
		if err != nil {
			return nil, err
		}
		d = p.WithLast(half)
	case "glu_grad":
		d = p.WithLast(SumDims([]Dim{w.Type.Dims[0], w.Type.Dims[0]}))
	default:
		return nil, fmt.Errorf("there is no end %q of a product", of)
	}
	q := Type{to, d.Dims}
	types := []Type{q, Transposed(q), single}
	if keeps(of) {
		if kept != nil {
			return nil, fmt.Errorf("%q takes nothing that was kept", of)
		}
		types = append(types, p)
	} else if kept == nil || !kept.Type.SameShape(d) {
		return nil, fmt.Errorf("what was kept is no %v", d)
	}
	var err error
	for _, b := range op.Into {
		err = firstError(err, wantVector(b, d.Cols()))
	}
	return types, err
}

// keeps says whether linear_quantize gives what a backward product takes.
func keeps(of string) bool { return of == "act" || of == "glu" }

// wantEightBits checks the operands of a product: of types in 8 bits, and not both with 2 bits behind the first, for which there
// are no matrix units.
func wantEightBits(a, b *Value) error {
	for _, v := range []*Value{a, b} {
		if EightBits[v.Type.DType] == 0 {
			return fmt.Errorf("%v is %v, want 8 bits", v, v.Type)
		}
	}
	if a.Type.DType == E5M2 && b.Type.DType == E5M2 {
		return fmt.Errorf("%v and %v are both %v", a, b, E5M2)
	}
	return nil
}

// Source is what quantize may compute of its operands on the way, so that it is stored in 8 bits alone: the name of the op that it
// stands for, with that op's operands.
type Source struct {
	Operands int
	Doubles  bool // two results side by side, of which each is as wide as the operands
	FLOPs    float64
	value    func(fn string, column int, in []float64) float64 // column is 0, or 1 for the second result
}

// Sources are those of quantize by the attribute of; without it a value is quantised as it is.
var Sources = map[string]Source{
	"":         {Operands: 1, value: func(_ string, _ int, in []float64) float64 { return in[0] }},
	"act":      {Operands: 1, FLOPs: 10, value: func(fn string, _ int, in []float64) float64 { return activate(fn, in[0]) }},
	"act_grad": {Operands: 2, FLOPs: 14, value: func(fn string, _ int, in []float64) float64 { return in[0] * slope(fn, in[1]) }},
	"glu":      {Operands: 2, FLOPs: 11, value: func(fn string, _ int, in []float64) float64 { return activate(fn, in[0]) * in[1] }},
	"glu_grad": {Operands: 3, Doubles: true, FLOPs: 18, value: func(fn string, column int, in []float64) float64 {
		if column == 0 {
			return in[0] * in[2] * slope(fn, in[1])
		}
		return in[0] * activate(fn, in[1])
	}},
}

// sourceAttrs: of names the source, fn its activation, and history the first of its slots, counted from 1, where layer l has the l-th from
// there on.
var sourceAttrs = attrs(need("string", "of?", "fn?"), need("int", "history?"))

// quantizeSource are the operands of quantize that are the source's.
func quantizeSource(args []*Value) []*Value { return append([]*Value{args[0]}, args[2:]...) }

// sourceType is the type of a source.
func sourceType(op *Op, args []*Value) (Type, error) {
	x := args[0].Type
	s, ok := Sources[op.Str("of")]
	if !ok {
		return x, fmt.Errorf("there is no source %q", op.Str("of"))
	}
	if len(x.Dims) < 2 {
		return x, fmt.Errorf("%v is %v, want rows and columns", args[0], x)
	}
	if (op.Str("fn") == "") != (op.Str("of") == "") {
		return x, fmt.Errorf("an activation comes with what it is for")
	}
	for i, a := range args {
		if (a != nil) != (i < s.Operands) {
			return x, fmt.Errorf("%q has %d operands", op.Str("of"), s.Operands)
		}
		if err := wantShape(a, args[0]); err != nil {
			return x, err
		}
	}
	if s.Doubles {
		x = x.WithLast(SumDims([]Dim{x.Last(), x.Last()}))
	}
	return x, wantActivation(op.Str("fn"))
}

func sourceFLOPs(op *Op, args []*Value) float64 {
	return (1 + Sources[op.Str("of")].FLOPs) * float64(args[0].Type.Elems())
}

// evalSource computes a source.
func evalSource(op *Op, in []*Tensor) *Tensor {
	s, x := Sources[op.Str("of")], in[0]
	columns := 1
	if s.Doubles {
		columns = 2
	}
	y, operands := x.withCols(columns*x.cols()), make([]float64, s.Operands)
	for i := range x.Data {
		for k := range operands {
			operands[k] = in[k].Data[i]
		}
		for c := range columns {
			y.Data[i/x.cols()*y.cols()+c*x.cols()+i%x.cols()] = s.value(op.Str("fn"), c, operands)
		}
	}
	return y
}

func largest(x *Tensor) float64 {
	most := 0.0
	for _, v := range x.Data {
		most = math.Max(most, math.Abs(v)) // of NaN is NaN
	}
	return most
}

// slot is the slot of op's history, 0 where it has none.
func (e *evaluator) slot(op *Op) int {
	if h := op.Int("history"); h > 0 {
		return h + e.axes["layers"]
	}
	return 0
}

// MeasuredSteps is how many steps, of those that histories are of, measure what has none yet.
const MeasuredSteps = quant.MeasuredSteps

// usableAmax says whether a largest magnitude is one to scale by.
func usableAmax(a float64) bool { return a > 0 && !math.IsInf(a, 0) }

func evalTurnAmax(e *evaluator, op *Op, _ []*Tensor) []*Tensor {
	for slot, h := range e.state.Amax {
		if usableAmax(h[1]) {
			h[0] = h[1]
		}
		e.state.Amax[slot] = [2]float64{h[0], 0}
	}
	e.state.Turns++
	return nil
}

func evalAmax(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	return one(&Tensor{Shape: []int{1}, Data: []float64{e.amax(op, func() *Tensor { return evalSource(op, in) })}})
}

// amax is the largest magnitude that op scales x by.
func (e *evaluator) amax(op *Op, x func() *Tensor) float64 {
	most := 2 * e.state.Amax[e.slot(op)][0]
	if usableAmax(most) {
		return most
	}
	if op.Int("history") == 0 || e.state.Turns <= MeasuredSteps {
		return largest(x())
	}
	return 0
}

func evalQuantize(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x := evalSource(op, append([]*Tensor{in[0]}, in[2:]...))
	out := e.quantize(op, x, in[1].Data[0])
	if op.Bool("keep") {
		out = append(out, x)
	}
	return out
}

// quantize gives op's x in 8 bits, as it lies and with rows as columns, and its scale, and notes what there is to note.
func (e *evaluator) quantize(op *Op, x *Tensor, amax float64) []*Tensor {
	to := DType(op.Str("to"))
	if slot := e.slot(op); slot > 0 {
		if e.state.Amax == nil {
			e.state.Amax = map[int][2]float64{}
		}
		h := e.state.Amax[slot]
		e.state.Amax[slot] = [2]float64{h[0], math.Max(h[1], largest(x))}
	}
	for _, b := range op.Into {
		sums := make([]float64, x.cols())
		for i, v := range x.Data {
			sums[i%x.cols()] += v
		}
		e.addGrad(b, sums)
	}
	scale := QuantizeScale(amax, to)
	q, t := x.like(), NewTensor(x.cols(), x.rows())
	for i, v := range x.Data {
		if math.IsInf(v, 0) { // it must not pass for the largest number
			v = math.NaN()
		}
		q.Data[i] = Round(v/scale, to)
		t.Data[i%x.cols()*x.rows()+i/x.cols()] = q.Data[i]
	}
	return []*Tensor{q, t, {Shape: []int{1}, Data: []float64{scale}}}
}

func evalLinearQuantize(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	p := evalLinearFP8(e, op, append(slices.Clone(in[:5]), nil))[0]
	operands, halved := []*Tensor{p}, p
	if !keeps(op.Str("of")) {
		halved = in[5]
	}
	switch of := op.Str("of"); {
	case strings.HasPrefix(of, "glu"):
		n := halved.cols() / 2
		gate, up := halved.withCols(n), halved.withCols(n)
		for i := range gate.Data {
			at := i/n*2*n + i%n
			gate.Data[i], up.Data[i] = halved.Data[at], halved.Data[at+n]
		}
		operands = []*Tensor{gate, up}
		if of == "glu_grad" {
			operands = []*Tensor{p, gate, up}
		}
	case of == "act_grad":
		operands = append(operands, halved)
	}
	x := evalSource(op, operands)
	out := e.quantize(op, x, e.amax(op, func() *Tensor { return x }))
	if keeps(op.Str("of")) {
		out = append(out, p)
	}
	return out
}

func evalLinearFP8(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	scale := in[2].Data[0] * in[3].Data[0]
	y := each(product(in[0], in[1]), func(v float64, _ int) float64 { return v * scale })
	if in[4] != nil {
		y = each(y, func(v float64, i int) float64 { return v + in[4].Data[i%y.cols()] })
	}
	if in[5] != nil {
		y = each(y, func(v float64, i int) float64 { return v + in[5].Data[i] })
	}
	return one(y)
}

func evalLinearDWFP8(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	scale := in[2].Data[0] * in[3].Data[0]
	e.addGrad(op.Into[0], each(product(in[0], in[1]), func(v float64, _ int) float64 { return v * scale }).Data)
	return nil
}

// Histories is how many slots the histories of f have, those from 0 on; 0 where it has none.
func Histories(f *Func) (n int) {
	f.Walk(func(op *Op) {
		if op.Kind == "turn_amax" {
			n = 1 + op.Int("slots")
		}
	})
	return n
}
