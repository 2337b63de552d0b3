package cudagen

import (
	"fmt"
	"maps"

	"github.com/tfc-dev/tfc/ir"
)

// lowering is a row of the table: it launches, in order, what computes op.
//
// A row describes kernels with emit, as in
//
//	"bias": func(e *emitter, op *ir.Op) {
//		x, y := op.Args[0], op.Results[0]
//		vec := e.vec(x.Type.Cols(), x, y)
//		e.emit(op, kernel{
//			file: "elementwise.cuh", body: "add_bias", rows: x,
//			config: []constant{
//				typ("T", x.Type.DType), integer("cols", x.Type.Cols()), integer("vec", vec),
//				integer("x_stride", e.stride(x)), integer("y_stride", e.stride(y)),
//			},
//			params:  []param{e.out(op, 0, "y"), e.in(op, 0, "x"), e.weight(op, 1, "b")},
//			threads: 256, grid: e.perRows(x, 8),
//		})
//	},
//
// The .cu file's Config gets rows first (those of the value named rows, or the most there can be), then config in order. The entry has
// params in order and, where the rows are known only at the call, a last parameter int rows. Several emits run one after
// another on one stream; workspace between them is e.scratch. Products by cuBLASLt are e.product (rows_product.go). What runs
// again and again over parts of its operands is e.repeat, with param.step. Scalars (losses, counts, norms) are floats in
// device memory: e.in and e.out give their addresses.
type lowering func(e *emitter, op *ir.Op)

// table has the row of every op. An op without one fails the tests.
var table map[string]lowering

func init() { // not a literal, so that rows may use the table
	table = map[string]lowering{}
	for _, rows := range []map[string]lowering{productRows, gluRows, fp8Rows, viewRows, normRows, elementwiseRows, reduceRows, lossRows, optimizerRows, attentionRows, decodeRows} {
		maps.Copy(table, rows)
	}
}

// viewRows are ops that are no work: views, and casts that no program has.
var viewRows = map[string]lowering{
	"split": func(*emitter, *ir.Op) {},
}

// kernel describes one launch.
type kernel struct {
	file    string       // of the body, below kernels
	body    string       // the template function
	rows    *ir.Value    // whose rows the body runs over
	items   int          // or, where it is not 0, so many
	config  []constant   // fields of Config after rows
	layers  [][]constant // more fields, a list for each of some kernels that layers take in turn: layer l takes list l mod their number
	params  []param
	threads int
	blocks  int    // that should fit a processor at once, for the compiler's share of registers; 0: as it sees fit
	shared  int    // bytes of dynamic shared memory
	share   int    // in the op's FLOPs, beside other kernels of the op that have one; 0: all where it moves most
	waits   bool   // the body calls grid_wait itself
	arch    string // the one architecture that the body is written for; "" where it runs on all
	grid    [3]ir.Count
	key     ir.Cost // of a kernel that attends to a cache: KeyBytes and KeyFLOPs
}

// constant is a field of Config, as C++ text.
type constant string

// typ is an element type under a name: using T = bf16.
func typ(name string, d ir.DType) constant { return alias(name, ctype(d)) }

// alias is a type under a name: using Mask = Causal<1>.
func alias(name, text string) constant { return constant("using " + name + " = " + text) }

func integer(name string, n int) constant {
	return constant(fmt.Sprintf("static constexpr int %s = %d", name, n))
}

// long is an integer beyond 32 bits.
func long(name string, n int) constant {
	return constant(fmt.Sprintf("static constexpr long long %s = %d", name, n))
}

func boolean(name string, b bool) constant {
	return constant(fmt.Sprintf("static constexpr bool %s = %v", name, b))
}

// number is a float with the nearest value to x.
func number(name string, x float64) constant {
	return constant(fmt.Sprintf("static constexpr float %s = %s", name, floatText(x)))
}

// double is a number in double precision.
func double(name string, x float64) constant {
	return constant(fmt.Sprintf("static constexpr double %s = %s", name, doubleText(x)))
}

// numbers is an array of floats.
func numbers(name string, xs []float64) constant {
	text := ""
	for i, x := range xs {
		if i > 0 {
			text += ", "
		}
		text += floatText(x)
	}
	return constant(fmt.Sprintf("static constexpr float %s[] = {%s}", name, text))
}

func floatText(x float64) string { return doubleText(float64(float32(x))) + "f" }

func doubleText(x float64) string {
	s := fmt.Sprintf("%.9g", x)
	if float64(float32(x)) != x {
		s = fmt.Sprintf("%.17g", x)
	}
	for _, r := range s {
		if r == '.' || r == 'e' {
			return s
		}
	}
	return s + ".0"
}

// ctype is an element type in C++.
func ctype(d ir.DType) string {
	return map[ir.DType]string{ir.F32: "float", ir.BF16: "bf16", ir.F16: "half", ir.I32: "int", ir.U64: "unsigned long long", ir.E4M3: "uint8_t", ir.E5M2: "uint8_t"}[d]
}

// param is a parameter of an entry: its type with the * of a pointer, its name, and what it is given.
type param struct {
	ctype, name string
	operand     ir.Operand
	moved       moved // what the launch reads or writes of it
}

// constant is p only read.
func (p param) constant() param { p.ctype = "const " + p.ctype; return p }
