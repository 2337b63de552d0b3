package ir

import (
	"fmt"
	"math"
	"strings"
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
			Kind: "amax", Doc: "the largest magnitude in x; NaN where x has one",
			Args: []string{"x"}, Results: []string{"amax"},
			Shape: func(op *Op) ([]Type, error) { return []Type{single}, nil },
			FLOPs: func(op *Op) float64 { return float64(op.Args[0].Type.Elems()) }, Eval: evalAmax, NoGrad: true,
		},
		{
			Kind: "quantize", Doc: "x / scale rounded to 8 bits, saturating, as it lies and with rows as columns; scale is the least power of two that amax allows",
			Args: []string{"x", "amax"}, Results: []string{"q", "transposed", "scale!"}, Attrs: need("string", "to"),
			Shape: func(op *Op) ([]Type, error) {
				x, to := op.Args[0].Type, DType(op.Str("to"))
				if EightBits[to] == 0 {
					return nil, fmt.Errorf("%q is no type of 8 bits", to)
				}
				if len(x.Dims) < 2 {
					return nil, fmt.Errorf("%v is %v, want rows and columns", op.Args[0], x)
				}
				q := Type{to, x.Dims}
				return []Type{q, Transposed(q), single}, wantSingles(op.Args[1])
			},
			FLOPs: perElement(1), Eval: evalQuantize, NoGrad: true,
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

func evalAmax(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	most := 0.0
	for _, x := range in[0].Data {
		most = math.Max(most, math.Abs(x)) // of NaN is NaN
	}
	return one(&Tensor{Shape: []int{1}, Data: []float64{most}})
}

func evalQuantize(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x, to := in[0], DType(op.Str("to"))
	scale := QuantizeScale(in[1].Data[0], to)
	q, t := x.like(), NewTensor(x.cols(), x.rows())
	for i, v := range x.Data {
		q.Data[i] = Round(v/scale, to)
		t.Data[i%x.cols()*x.rows()+i/x.cols()] = q.Data[i]
	}
	return []*Tensor{q, t, {Shape: []int{1}, Data: []float64{scale}}}
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
