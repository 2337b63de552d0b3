package ir

import (
	"fmt"
	"slices"
	"strings"
)

// OpDef is a row of the op table: everything there is to know of an op but its kernels.
type OpDef struct {
	Kind    string
	Doc     string
	Args    []string // names of the arguments; "?" ends an optional one, "..." a repeated one
	Into    []string // names of the gradients it adds to; "?" ends an optional one, "?..." any number
	Results []string // names of the results; "..." ends a repeated one, "!" one that the kernel writes even if nobody reads it
	Attrs   []Attr   // beside kernel, which any op may have: the kernel chosen for it
	InPlace []int    // the arguments whose memory the first result may take

	// Shape gives the results' types, or says why the operands do not fit.
	Shape func(op *Op) ([]Type, error)
	// FLOPs counts floating-point operations of one execution, a multiply-add as two.
	FLOPs func(op *Op) float64
	// Eval computes the results in float64: the definition of the op.
	Eval func(e *evaluator, op *Op, in []*Tensor) []*Tensor
	// Grad builds the gradients of the arguments from those of the results (nil where a result's gradient is zero; nil
	// where an argument needs none). Ops that only appear after differentiation, or whose arguments are integers, have
	// none and say so with NoGrad.
	Grad   func(g *Gradient, op *Op, d []*Value) []*Value
	NoGrad bool
}

// Attr is an attribute an op takes.
type Attr struct {
	Name     string
	Kind     string // int, float, bool, string, strings, patterns
	Optional bool
}

// Table holds the op table by kind.
var Table map[string]*OpDef

func init() { // not a literal: gradients build ops, so the table would refer to itself
	Table = map[string]*OpDef{}
	for _, group := range [][]*OpDef{forwardOps(), attentionOps(), lossOps(), fusedOps(), backwardOps(), fp8Ops(), updateOps()} {
		for _, d := range group {
			Table[d.Kind] = d
		}
	}
}

// Bytes returns the fewest bytes one execution moves: every operand read once and every result written once.
func Bytes(op *Op) float64 {
	n := 0.0
	if op.Kind == "amax" && op.Int("history") > 0 { // but for the first step
		return 8
	}
	for _, v := range op.Args {
		if v != nil {
			n += operandBytes(op, v)
		}
	}
	for _, v := range op.Results {
		n += float64(v.Type.Elems() * v.Type.DType.Bytes())
	}
	for _, v := range op.Into {
		if v != nil {
			n += 2 * float64(v.Type.Elems()*v.Type.DType.Bytes())
		}
	}
	return n
}

// operandBytes is the size of an operand as op reads it.
func operandBytes(op *Op, v *Value) float64 {
	if t := op.Str("weights"); t != "" && v == op.Args[1] {
		return float64(WeightBytes(t, v.Type.Rows(), v.Type.Cols()))
	}
	return float64(v.Type.Elems() * v.Type.DType.Bytes())
}

func need(kind string, names ...string) []Attr {
	attrs := make([]Attr, len(names))
	for i, n := range names {
		attrs[i] = Attr{Name: strings.TrimSuffix(n, "?"), Kind: kind, Optional: strings.HasSuffix(n, "?")}
	}
	return attrs
}

func attrs(groups ...[]Attr) []Attr {
	var all []Attr
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

// rounds are the attributes of products whose operands, in f32, are rounded: they may be, to TF32, or are to bf16, by kernels that
// round what they multiply and keep all else in f32.
var rounds = need("bool", "tf32?", "bf16?")

// perElement counts n operations for each element of the first result.
func perElement(n float64) func(*Op) float64 {
	return func(op *Op) float64 {
		v := op.Args[0]
		if len(op.Results) > 0 {
			v = op.Results[0]
		}
		return n * float64(v.Type.Elems())
	}
}

func noFLOPs(*Op) float64 { return 0 }

// sameAs gives one result with argument i's type.
func sameAs(i int) func(*Op) ([]Type, error) {
	return func(op *Op) ([]Type, error) { return []Type{op.Args[i].Type}, nil }
}

// sameShapes gives one result of argument 0's type, and wants the other float arguments present to have its shape.
func sameShapes(n int) func(*Op) ([]Type, error) {
	return func(op *Op) ([]Type, error) {
		for i := 1; i < n; i++ {
			if a := op.Args[i]; a != nil && !a.Type.SameShape(op.Args[0].Type) {
				return nil, fmt.Errorf("argument %d is %v, want the shape of %v", i, a.Type, op.Args[0].Type)
			}
		}
		return []Type{op.Args[0].Type}, nil
	}
}

// activated is sameShapes with the activation that fn names.
func activated(n int) func(*Op) ([]Type, error) {
	return func(op *Op) ([]Type, error) {
		types, err := sameShapes(n)(op)
		return types, firstError(err, wantActivation(op.Str("fn")))
	}
}

func scalar(d DType) Type { return Type{DType: d} }

func wantCols(v *Value, n int, what string) error {
	if v.Type.Cols() != n {
		return fmt.Errorf("%s %v is %v, want %d columns", what, v, v.Type, n)
	}
	return nil
}

// wantVector checks a parameter of n elements; nil passes.
func wantVector(v *Value, n int) error {
	if v != nil && (len(v.Type.Dims) != 1 || v.Type.Elems() != n) {
		return fmt.Errorf("%v is %v, want %d elements", v, v.Type, n)
	}
	return nil
}

func wantMatrix(v *Value, rows, cols int) error {
	if len(v.Type.Dims) != 2 || (rows > 0 && v.Type.Rows() != rows) || (cols > 0 && v.Type.Cols() != cols) {
		return fmt.Errorf("%v is %v, want [%d, %d]", v, v.Type, rows, cols)
	}
	return nil
}

func wantRows(v *Value, like *Value) error {
	if v.Type.Elems() != like.Type.Rows() {
		return fmt.Errorf("%v is %v, want one element for each row of %v", v, v.Type, like.Type)
	}
	return nil
}

// wantScalars checks values without axes; nil passes.
func wantScalars(vs ...*Value) error {
	for _, v := range vs {
		if v != nil && len(v.Type.Dims) > 0 {
			return fmt.Errorf("%v is %v, want a scalar", v, v.Type)
		}
	}
	return nil
}

// wantInts checks indices, one for each row of like.
func wantInts(v, like *Value) error {
	if v.Type.DType != I32 {
		return fmt.Errorf("%v is %v, want i32", v, v.Type)
	}
	return wantRows(v, like)
}

// wantShape checks a value against the shape of another; nil passes.
func wantShape(v, like *Value) error {
	if v != nil && !v.Type.SameShape(like.Type) {
		return fmt.Errorf("%v is %v, want the shape of %v", v, v.Type, like.Type)
	}
	return nil
}

// wantActivation checks the name of an activation; "" passes.
func wantActivation(fn string) error {
	if fn != "" && !slices.Contains(activations, fn) {
		return fmt.Errorf("unknown activation %q", fn)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// normStats is the type of a norm's saved statistics: n numbers for each normalised group of x.
func normStats(x Type, group, n int) Type {
	groups := 1
	if group > 0 {
		groups = x.Cols() / group
	}
	return Type{F32, append(append([]Dim(nil), x.Dims[:len(x.Dims)-1]...), Dim{fmt.Sprint(groups * n), groups * n})}
}

func normWidth(op *Op, x *Value) int {
	if g := op.Int("group"); g > 0 {
		return g
	}
	return x.Type.Cols()
}

// wantGroups checks that the groups of a norm fill the columns of x.
func wantGroups(op *Op, x *Value) error {
	if g := op.Int("group"); g < 0 || g > 0 && x.Type.Cols()%g != 0 {
		return fmt.Errorf("groups of %d do not fill %v, %v", g, x, x.Type)
	}
	return nil
}

var activations = []string{"gelu", "gelu_tanh", "relu", "relu2", "silu"}

func forwardOps() []*OpDef {
	return []*OpDef{
		{
			Kind: "embed", Doc: "rows of a table by token, scaled: y[n] = scale * table[tokens[n]]",
			Args: []string{"tokens", "table"}, Results: []string{"y"}, Attrs: attrs(need("float", "scale"), narrowWeights),
			Shape: func(op *Op) ([]Type, error) {
				if err := wantWeights(op); err != nil {
					return nil, err
				}
				if op.Args[0].Type.DType != I32 {
					return nil, fmt.Errorf("tokens %v are %v, want i32", op.Args[0], op.Args[0].Type)
				}
				t := op.Args[1].Type
				if err := wantMatrix(op.Args[1], 0, 0); err != nil {
					return nil, err
				}
				return []Type{{F32, append(append([]Dim(nil), op.Args[0].Type.Dims...), t.Last())}}, nil
			},
			FLOPs: perElement(1), Eval: evalEmbed, Grad: gradEmbed,
		},
		{
			Kind: "add_positions", Doc: "adds rows of a table by position: y[n] = x[n] + table[positions[n]]",
			Args: []string{"x", "table", "positions"}, Results: []string{"y"}, InPlace: []int{0},
			Shape: func(op *Op) ([]Type, error) {
				x := op.Args[0]
				return []Type{x.Type}, firstError(wantMatrix(op.Args[1], 0, x.Type.Cols()), wantInts(op.Args[2], x))
			},
			FLOPs: perElement(1), Eval: evalAddPositions, Grad: gradAddPositions,
		},
		{
			Kind: "layernorm", Doc: "LayerNorm (arXiv 1607.06450) of each row, or of each group of columns: y = (x - mean) * rstd * w + b",
			Args: []string{"x", "w", "b?"}, Results: []string{"y", "stats"},
			Attrs: attrs(need("float", "eps"), need("int", "group?")),
			Shape: func(op *Op) ([]Type, error) {
				x, w := op.Args[0], normWidth(op, op.Args[0])
				return []Type{x.Type, normStats(x.Type, op.Int("group"), 2)}, firstError(wantGroups(op, x), wantVector(op.Args[1], w), wantVector(op.Args[2], w))
			},
			FLOPs: perElement(8), Eval: evalLayerNorm, Grad: gradNorm("layernorm_grad"),
		},
		{
			Kind: "rmsnorm", Doc: "RMSNorm (arXiv 1910.07467) of each row, or of each group of columns: y = x * rstd * (offset + w)",
			Args: []string{"x", "w"}, Results: []string{"y", "stats"},
			Attrs: attrs(need("float", "eps", "offset?"), need("int", "group?")),
			Shape: func(op *Op) ([]Type, error) {
				x := op.Args[0]
				return []Type{x.Type, normStats(x.Type, op.Int("group"), 1)}, firstError(wantGroups(op, x), wantVector(op.Args[1], normWidth(op, x)))
			},
			FLOPs: perElement(5), Eval: evalRMSNorm, Grad: gradNorm("rmsnorm_grad"),
		},
		{
			Kind: "linear", Doc: "y = act(x·wᵀ + bias) + residual; pre is the value before the activation",
			Args: []string{"x", "w", "bias?", "residual?"}, Results: []string{"y", "pre..."}, InPlace: []int{3},
			Attrs: attrs(need("string", "act?"), rounds, narrowWeights),
			Shape: func(op *Op) ([]Type, error) {
				x, w := op.Args[0], op.Args[1]
				if err := wantWeights(op); err != nil {
					return nil, err
				}
				if err := wantMatrix(w, 0, x.Type.Cols()); err != nil {
					return nil, err
				}
				y := x.Type.WithLast(w.Type.Dims[0])
				if r := op.Args[3]; r != nil && !r.Type.SameShape(y) {
					return nil, fmt.Errorf("residual %v is %v, want %v", r, r.Type, y)
				}
				types := []Type{y}
				if op.Str("act") != "" {
					types = append(types, y)
				}
				return types, firstError(wantVector(op.Args[2], w.Type.Rows()), wantActivation(op.Str("act")))
			},
			FLOPs: func(op *Op) float64 {
				return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Rows())
			},
			Eval: evalLinear, Grad: gradLinear,
		},
		{
			Kind: "bias", Doc: "adds a bias to each row: y = x + b",
			Args: []string{"x", "b"}, Results: []string{"y"}, InPlace: []int{0},
			Shape: func(op *Op) ([]Type, error) {
				return []Type{op.Args[0].Type}, wantVector(op.Args[1], op.Args[0].Type.Cols())
			},
			FLOPs: perElement(1), Eval: evalBias,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				g.Op("bias_grad", nil, []*Value{d[0]}, nil, op.Args[1])
				return []*Value{d[0], nil}
			},
		},
		{
			Kind: "act", Doc: "an activation, element by element: gelu (erf), gelu_tanh, relu, relu2, silu",
			Args: []string{"x"}, Results: []string{"y"}, Attrs: need("string", "fn"), InPlace: []int{0},
			Shape: activated(1), FLOPs: perElement(10), Eval: evalAct,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				return g.Op("act_grad", []string{"d_" + op.Args[0].Name}, []*Value{d[0], op.Args[0]}, Attrs{"fn": op.Str("fn")}).Results
			},
		},
		{
			Kind: "glu", Doc: "a gated activation (arXiv 2002.05202): y = fn(gate) * up",
			Args: []string{"gate", "up"}, Results: []string{"y"}, Attrs: need("string", "fn"), InPlace: []int{0, 1},
			Shape: activated(2), FLOPs: perElement(11), Eval: evalGLU,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				return g.Op("glu_grad", []string{"d_" + op.Args[0].Name, "d_" + op.Args[1].Name},
					[]*Value{d[0], op.Args[0], op.Args[1]}, Attrs{"fn": op.Str("fn")}).Results
			},
		},
		{
			Kind: "add", Doc: "y = a + by * b",
			Args: []string{"a", "b"}, Results: []string{"y"}, Attrs: need("float", "by?"), InPlace: []int{0, 1},
			Shape: sameShapes(2), FLOPs: perElement(1), Eval: evalAdd,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				db := d[0]
				if by := op.Float("by"); by != 0 {
					db = g.Op("scale", []string{"d_" + op.Args[1].Name}, []*Value{d[0]}, Attrs{"by": by}).Result()
				}
				return []*Value{d[0], db}
			},
		},
		{
			Kind: "scale", Doc: "y = by * x",
			Args: []string{"x"}, Results: []string{"y"}, Attrs: need("float", "by"), InPlace: []int{0},
			Shape: sameAs(0), FLOPs: perElement(1), Eval: evalScale,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				return g.Op("scale", []string{"d_" + op.Args[0].Name}, []*Value{d[0]}, Attrs{"by": op.Float("by")}).Results
			},
		},
		{
			Kind: "softcap", Doc: "y = cap * tanh(x / cap)",
			Args: []string{"x"}, Results: []string{"y"}, Attrs: need("float", "cap"), InPlace: []int{0},
			Shape: sameAs(0), FLOPs: perElement(8), Eval: evalSoftcap,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				return g.Op("softcap_grad", []string{"d_" + op.Args[0].Name}, []*Value{d[0], op.Args[0]}, Attrs{"cap": op.Float("cap")}).Results
			},
		},
		{
			Kind: "dropout", Doc: "dropout: an element is kept where its number in the stream is at least p, and scaled by 1/(1-p)",
			Args: []string{"x", "seed", "step"}, Results: []string{"y"}, InPlace: []int{0},
			Attrs: attrs(need("float", "p"), need("int", "stream")),
			Shape: func(op *Op) ([]Type, error) {
				return []Type{op.Args[0].Type}, wantScalars(op.Args[1:]...)
			},
			FLOPs: perElement(1), Eval: evalDropout,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				// The mask is drawn again: the generator is counter-based.
				dx := g.Op("dropout", []string{"d_" + op.Args[0].Name}, []*Value{d[0], op.Args[1], op.Args[2]},
					Attrs{"p": op.Float("p"), "stream": op.Int("stream")})
				return []*Value{dx.Result(), nil, nil}
			},
		},
		{
			Kind: "rope", Doc: "rotary positions (arXiv 2104.09864) on the heads of x; inverse rotates back",
			Args: []string{"x", "positions"}, Results: []string{"y"}, InPlace: []int{0},
			Attrs: attrs(need("int", "heads", "head_dim", "max", "original?"), need("bool", "interleaved?", "inverse?"), need("string", "scaling?"),
				need("float", "theta", "fraction", "factor?", "low_freq_factor?", "high_freq_factor?", "beta_fast?", "beta_slow?", "attention_factor?")),
			Shape: func(op *Op) ([]Type, error) {
				x := op.Args[0]
				if f := op.Float("fraction"); f <= 0 || f > 1 {
					return nil, fmt.Errorf("rotates %g of each head", f)
				}
				return []Type{x.Type}, firstError(wantCols(x, op.Int("heads")*op.Int("head_dim"), "heads"), wantInts(op.Args[1], x))
			},
			FLOPs: perElement(3), Eval: evalRoPE,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				inv := Attrs{}
				for k, v := range op.Attrs {
					inv[k] = v
				}
				inv["inverse"] = true
				dx := g.Op("rope", []string{"d_" + op.Args[0].Name}, []*Value{d[0], op.Args[1]}, inv)
				return []*Value{dx.Result(), nil}
			},
		},
		{
			Kind: "split", Doc: "the columns of x in consecutive ranges: views, nothing is copied",
			Args: []string{"x"}, Results: []string{"parts..."}, Attrs: need("strings", "parts"),
			Shape: func(op *Op) ([]Type, error) {
				var types []Type
				sum := 0
				for _, p := range op.Strings("parts") {
					d, err := ParseDim(p)
					if err != nil {
						return nil, err
					}
					sum += d.Size
					types = append(types, op.Args[0].Type.WithLast(d))
				}
				return types, wantCols(op.Args[0], sum, "parts")
			},
			FLOPs: noFLOPs, Eval: evalSplit,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				for i, v := range d {
					if v == nil {
						panic(fmt.Sprintf("ir: part %d of a split has no gradient", i))
					}
				}
				return g.Op("concat", []string{"d_" + op.Args[0].Name}, d, nil).Results
			},
		},
		{
			Kind: "concat", Doc: "parts side by side as the columns of one value",
			Args: []string{"parts..."}, Results: []string{"y"},
			Shape: func(op *Op) ([]Type, error) {
				var dims []Dim
				for _, a := range op.Args {
					if a.Type.Rows() != op.Args[0].Type.Rows() {
						return nil, fmt.Errorf("%v is %v, want the rows of %v", a, a.Type, op.Args[0].Type)
					}
					dims = append(dims, a.Type.Last())
				}
				return []Type{op.Args[0].Type.WithLast(SumDims(dims))}, nil
			},
			FLOPs: noFLOPs, Eval: evalConcat, NoGrad: true,
		},
		{
			Kind: "last", Doc: "the last row of x",
			Args: []string{"x"}, Results: []string{"y"},
			Shape: func(op *Op) ([]Type, error) {
				return []Type{{op.Args[0].Type.DType, []Dim{{"1", 1}, op.Args[0].Type.Last()}}}, nil
			},
			FLOPs: noFLOPs, NoGrad: true,
			Eval: func(e *evaluator, op *Op, in []*Tensor) []*Tensor {
				x := in[0]
				y := NewTensor(1, x.cols())
				copy(y.Data, x.Data[len(x.Data)-x.cols():])
				return []*Tensor{y}
			},
		},
		{
			Kind: "cast", Doc: "x in another element type; the attribute to names it",
			Args: []string{"x"}, Results: []string{"y"}, Attrs: need("string", "to"),
			Shape: func(op *Op) ([]Type, error) {
				to := DType(op.Str("to"))
				if to != F32 && to != BF16 && to != F16 {
					return nil, fmt.Errorf("no cast to %q", to)
				}
				return []Type{{to, op.Args[0].Type.Dims}}, nil
			},
			FLOPs: noFLOPs, Eval: func(e *evaluator, op *Op, in []*Tensor) []*Tensor { return []*Tensor{in[0]} },
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				return g.Op("cast", []string{"d_" + op.Args[0].Name}, []*Value{d[0]}, Attrs{"to": string(op.Args[0].Type.DType)}).Results
			},
		},
	}
}
