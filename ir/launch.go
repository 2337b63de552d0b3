package ir

import "github.com/tfc-dev/tfc/spec"

// What an op becomes on a CUDA device: kernels and matrix products, in order on one stream. The CUDA generator chooses
// them, the Go generator writes the code that puts them on the stream.

// Kernel is an entry of the generated .cu files, how it is started, and what a launch of it costs. Ops whose launches of one
// entry cost different amounts have a Kernel each.
type Kernel struct {
	Name    string // its own; that of the entry for the first
	Entry   string // the extern "C" function, and the name of its file
	Threads int    // of a block
	Shared  int    // bytes of dynamic shared memory
	Arch    string // the one architecture that it is written for, as sm_90a; "" where it runs on all
	Cost    Cost
	About   string // the op and its place in the spec, for errors
}

// Cost is the least that a launch has to do: Bytes that it must move, each operand read or written once, and FLOPs. Rows of
// the call, where their number is known only then, cost RowBytes and RowFLOPs each. Where the rows attend to a cache, so does
// every key that Keys lets a row see: KeyFLOPs for each row, and KeyBytes once for all rows of a slot.
type Cost struct {
	Bytes, RowBytes, KeyBytes int
	FLOPs, RowFLOPs, KeyFLOPs int
	Keys                      *spec.Pattern
}

// Launch is one piece of work on a stream: a kernel, a product, or a clearing.
type Launch struct {
	Kernels []*Kernel // one, or several that layers take in turn: layer l runs element l mod their number
	Grid    [3]Count  // of blocks
	Product *Product
	Clear   int  // bytes that are set to zero, from Args[0] on
	Cost    Cost // of a kernel
	Share   int  // in the op's FLOPs, beside the launches that have one too; 0 for none
	Args    []Operand
}

// Rival is a kernel that makes a product as cuBLASLt does: which of them runs is measured on the device. Its arguments are maps of
// A, B, D, and of C or the other matrix; the bias; the sums of the columns of D over each 64 rows; and M.
type Rival struct {
	Product    Product // About left out
	Kernel     *Kernel
	Rows, Cols int // of a tile of D
}

// Group is launches that run Times times, one after another; their operands advance by Step bytes each time. Where On is set
// they run on devices of that architecture only, where Off is set on all others; where Measures is set in the first MeasuredSteps steps only.
type Group struct {
	Times    int
	On, Off  string
	Measures bool
	Launches []Launch
}

// Count is a number of blocks or rows: N, or, where the rows are known only at the call, ceil(rows / Per) * N.
type Count struct{ N, Per int }

// Product is D = epilogue(op(A)·op(B) + Beta*C), row-major: A is [M, K], or [K, M] where TransA is set, B is [K, N], or
// [N, K] where TransB is set, D and C are [M, N]. Its operands are, in this order, D, A, B, C, the bias [N] and the value
// before the activation [M, N]; those it does not have are null. Where Scaled is set A and B have 8 bits, and two operands more are
// the factors of their elements.
type Product struct {
	M, N, K            int // M is the most there can be where Rows is set
	Rows               bool
	TransA, TransB     bool
	LDA, LDB, LDC, LDD int // elements from row to row
	LDAux              int
	A, B, C, D         DType
	Scaled             bool
	TF32               bool   // products of f32 may round their operands to 10 bits
	Beta               int    // 0 or 1
	Align              int    // bytes that all addresses are multiples of
	Epilogue           string // "", "bias", "gelu_tanh", and "gelu_tanh_pre", which also writes the value before the activation, and "gelu_tanh_grad", which reads it: D times the activation's derivative there
	Own                string // an end that only kernels of the program's own have: "act", D = act(P); "slope", also the last matrix = act'(P); "times", D = P times the last matrix
	Act                string // of act and slope
	Gated              bool   // the columns of P, or of times those of the last matrix, are gate and up side by side (cuda.Own)
	Sums               bool   // a seventh operand takes the sums of the columns of D over every 32 rows: four for each 128, [4*ceil(M/128), N] f32; of the program's own kernels
	About              string
}

// Quantizes says whether D has 8 bits: Own then ends in D divided by a scale, also with rows as columns. The last matrix is the derivative by P, or both side by side
// where it is Gated, and the order of its elements is the kernels' own. Behind the factors then come the sums, the transpose of D, its scale, the
// history, the largest magnitude that gives the scale where the history has none, and that to raise in D's place, which is null but where a step measures.
func (p Product) Quantizes() bool { return EightBits[p.D] > 0 }

// RotaryTable is the cosines, or the sines, of rotary positions: [Max, len(Freqs)] floats, of position*frequency, times
// Scale.
type RotaryTable struct {
	Freqs []float64
	Scale float64
	Max   int
	Sine  bool
}

// OperandKind says what an operand is.
type OperandKind int

// The kinds of operands.
const (
	OperandNull    OperandKind = iota // an optional pointer that is absent
	OperandValue                      // a value's place: in the arena, an input, or a scalar
	OperandWeight                     // a parameter, f32
	OperandCopy                       // a parameter as products read it, in the activations' type
	OperandGrad                       // a parameter's gradient, f32
	OperandCache                      // a key-value cache
	OperandScratch                    // workspace of the function, at Offset
	OperandState                      // the device's state: seed, step, learning rate, loss scale
	OperandTable                      // table N of the program
	OperandBuffer                     // a whole buffer, by Name: weights, copies, gradients, first, second, history; tokens, positions, logits, options
	OperandNumber                     // the 32-bit integer N
	OperandRows                       // the rows of the call, a 32-bit integer
	OperandLayer                      // the layer, a 32-bit integer
	OperandMicro                      // the micro-batch, a 32-bit integer
	OperandHistory                    // slot N of the histories, or where it stands under layers, of layer l the l-th from there on: two f32
)

// Operand is an argument of a launch.
type Operand struct {
	Kind   OperandKind
	Value  *Value // of a value, parameter or cache
	Offset int    // bytes
	Step   int    // bytes more each time its group runs
	Found  bool   // null but in steps that run groups with Measures set
	N      int
	Name   string
}

// Scalars gives every f32 scalar of f a slot, a number from 0. A loop's carry shares the slot of what it starts from, of
// what the body yields and of the loop's result: each is dead when the next is written.
func Scalars(f *Func) (slots map[*Value]int, n int) {
	parent := map[*Value]*Value{}
	var order []*Value
	var find func(v *Value) *Value
	find = func(v *Value) *Value {
		if p := parent[v]; p != v {
			parent[v] = find(p)
		}
		return parent[v]
	}
	add := func(v *Value) {
		if _, ok := parent[v]; !ok && v.Type.DType == F32 && len(v.Type.Dims) == 0 {
			parent[v] = v
			order = append(order, v)
		}
	}
	f.Walk(func(op *Op) {
		for _, r := range op.Results {
			add(r)
		}
		if op.Loop == nil {
			return
		}
		for _, c := range op.Loop.Carries {
			add(c)
		}
	})
	f.Walk(func(op *Op) {
		if op.Loop == nil {
			return
		}
		for i, c := range op.Loop.Carries {
			if _, ok := parent[c]; !ok {
				continue
			}
			for _, v := range []*Value{op.Args[i], op.Loop.Yield[i], op.Results[i]} {
				if _, ok := parent[v]; ok {
					parent[find(v)] = find(c)
				}
			}
		}
	})
	slots = map[*Value]int{}
	at := map[*Value]int{}
	for _, v := range order {
		root := find(v)
		if _, ok := at[root]; !ok {
			at[root] = n
			n++
		}
		slots[v] = at[root]
	}
	return slots, n
}
