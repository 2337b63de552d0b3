package cuda

import (
	"errors"
	"fmt"
)

// DType is the type of a matrix's elements.
type DType uint8

const (
	BF16 DType = iota + 1
	F16
	F32
	E4M3 // 8 bits, 3 of them behind the first
	E5M2 // 8 bits, 2 of them behind the first
)

func (t DType) String() string {
	switch t {
	case BF16:
		return "bf16"
	case F16:
		return "f16"
	case F32:
		return "f32"
	case E4M3:
		return "e4m3"
	case E5M2:
		return "e5m2"
	}
	return "unset"
}

// Size returns the bytes of an element.
func (t DType) Size() int {
	switch {
	case t.eightBits():
		return 1
	case t == F32:
		return 4
	}
	return 2
}

func (t DType) eightBits() bool { return t == E4M3 || t == E5M2 }

// cuda returns the type as CUDA's libraries number it (cudaDataType).
func (t DType) cuda() int32 {
	return [...]int32{BF16: 14, F16: 2, F32: 0, E4M3: 28, E5M2: 29}[t]
}

// Compute is how products are multiplied and summed. Sums are float in any case.
type Compute uint8

const (
	ComputeF32  Compute = iota // exact products of the inputs
	ComputeTF32                // float inputs are rounded to TF32, 10 bits of mantissa, for the matrix units
)

func (c Compute) String() string {
	if c == ComputeTF32 {
		return "tf32"
	}
	return "f32"
}

// cublas returns the type as cuBLAS numbers it (cublasComputeType_t): CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32.
func (c Compute) cublas() int32 { return [...]int32{ComputeF32: 68, ComputeTF32: 77}[c] }

// Epilogue is what happens to a product before it is stored. With P = alpha·op(A)·op(B) + beta·C, bias[N] added to every
// row, and gelu the tanh form of GELU:
type Epilogue uint8

const (
	EpilogueNone        Epilogue = iota // D = P
	EpilogueBias                        // D = P + bias
	EpilogueGELU                        // D = gelu(P)
	EpilogueGELUBias                    // D = gelu(P + bias)
	EpilogueGELUAux                     // aux = P, D = gelu(aux)
	EpilogueGELUAuxBias                 // aux = P + bias, D = gelu(aux)
	EpilogueDGELU                       // D = P · gelu'(aux)
)

// epilogueInfo is an epilogue's name, its number in cuBLASLt (cublasLtEpilogue_t), and what it reads or writes besides.
type epilogueInfo struct {
	name      string
	cublas    int32
	bias, aux bool
}

var epilogues = [...]epilogueInfo{
	EpilogueNone:        {"none", 1, false, false},
	EpilogueBias:        {"bias", 4, true, false},
	EpilogueGELU:        {"gelu", 32, false, false},
	EpilogueGELUBias:    {"gelu_bias", 36, true, false},
	EpilogueGELUAux:     {"gelu_aux", 160, false, true},
	EpilogueGELUAuxBias: {"gelu_aux_bias", 164, true, true},
	EpilogueDGELU:       {"dgelu", 192, false, true},
}

func (e Epilogue) info() epilogueInfo {
	if int(e) < len(epilogues) {
		return epilogues[e]
	}
	return epilogueInfo{name: "unknown"}
}

func (e Epilogue) String() string { return e.info().name }

// Own is an end of products that cuBLASLt does not have, and only rivals make. P is what Product says, before its epilogue, and other a
// matrix [M,N] in the place of aux.
//
// Of a gated product the columns of P + bias, or of OwnTimes those of other, are gate and up side by side: a gated linear unit (Shazeer,
// arXiv 2002.05202).
type Own uint8

const (
	OwnNone  Own = iota
	OwnAct       // D = act(P + bias); gated D [M,N/2] = act(gate) · up
	OwnSlope     // the same, and other = act'(P + bias); gated other = up · act'(gate), act(gate)
	OwnTimes     // D = P · other; gated D, other [M,2*N], D = P · its left half, P · its right half
)

func (o Own) String() string {
	return [...]string{OwnNone: "none", OwnAct: "act", OwnSlope: "slope", OwnTimes: "times"}[o]
}

// aux says whether the product has a matrix beside A, B, C and D, as it is in aux's place.
func (p *Product) aux() bool { return p.Epilogue.info().aux || p.Own >= OwnSlope }

// columns are those of D and of aux.
func (p *Product) columns() (d, aux int) {
	switch {
	case !p.Gated:
		return p.N, p.N
	case p.Own == OwnTimes:
		return 2 * p.N, 2 * p.N
	}
	return p.N / 2, p.N
}

// Product is a matrix product over row-major matrices:
//
//	D[M,N] = epilogue(alpha·op(A)[M,K] · op(B)[K,N] + Beta·C[M,N])
//
// where op(X) is X, or with TransX its transpose. Each matrix has LD elements from one row to the next as it is stored, 0
// meaning that rows follow each other without gaps.
//
// A and B may have 8 bits, each of its own kind but not both E5M2; then D is BF16 or F32, A is as it is and B transposed, M, N, K and the
// distances of rows are multiples of 16 bytes, and MultiplyScaled gives a factor for the elements of each.
type Product struct {
	M, N, K            int
	TransA, TransB     bool
	LDA, LDB, LDC, LDD int
	A, B, C, D         DType // A and B are alike; D is as they are, or F32; C is as D, and may be left out. For 8 bits see below
	Bias               DType // left out as D is, which is what cuBLASLt has kernels for
	LDAux              int   // of aux, whose type is D's; a multiple of 8
	Compute            Compute
	Epilogue           Epilogue
	Beta               float32
	Own                Own    // an end that only kernels of the program's own have
	Act                string // the activation of OwnAct and OwnSlope, for the lock to tell products apart
	Gated              bool   // with Own alone
	Sums               bool   // sums of the columns of D over every 32 rows are wanted: four for each 128, [4*ceil(M/128), N] float, of the program's own kernels
	Align              int    // bytes, a power of two that all addresses given to Multiply are multiples of; 0 means 256
	Dynamic            bool   // M changes from call to call: nothing is timed, nothing goes to the lock
	About              string
}

// Bytes returns the fewest bytes that the product moves: each operand read or written once.
func (p Product) Bytes() float64 {
	m, n, k := float64(p.M), float64(p.N), float64(p.K)
	dCols, auxCols := p.columns()
	d := float64(p.D.Size()) * m * float64(dCols)
	aux := float64(p.D.Size()) * m * float64(auxCols)
	if p.quantizes() { // D twice, and aux in 16 bits
		d, aux = 2*d, 2*aux
	}
	bytes := float64(p.A.Size())*m*k + float64(p.B.Size())*k*n + d
	if p.Beta != 0 {
		bytes += d
	}
	if p.aux() {
		bytes += aux
	}
	if p.Epilogue.info().bias {
		bias := p.Bias
		if bias == 0 {
			bias = p.D
		}
		bytes += float64(bias.Size()) * n
	}
	return bytes
}

// FLOPs returns the floating-point operations of the product alone, a multiply-add as two.
func (p Product) FLOPs() float64 { return 2 * float64(p.M) * float64(p.N) * float64(p.K) }

// String returns the product as the lock names it.
func (p Product) String() string {
	transposed := func(t bool) string {
		if t {
			return "t"
		}
		return "n"
	}
	s := fmt.Sprintf("m=%d n=%d k=%d %s%s lda=%d ldb=%d ldc=%d ldd=%d a=%v b=%v c=%v d=%v compute=%v epilogue=%v beta=%g align=%d",
		p.M, p.N, p.K, transposed(p.TransA), transposed(p.TransB), p.LDA, p.LDB, p.LDC, p.LDD, p.A, p.B, p.C, p.D,
		p.Compute, p.Epilogue, p.Beta, p.Align)
	if p.Epilogue.info().bias {
		s += fmt.Sprintf(" bias=%v", p.Bias)
	}
	if p.Epilogue.info().aux {
		s += fmt.Sprintf(" ldaux=%d", p.LDAux)
	}
	if p.Own != OwnNone {
		s += fmt.Sprintf(" own=%v act=%s ldother=%d", p.Own, p.Act, p.LDAux)
	}
	if p.Gated {
		s += " gated"
	}
	if p.Sums {
		s += " sums"
	}
	return s
}

// info describes the product for errors.
func (p Product) info() KernelInfo {
	about := p.String()
	if p.About != "" {
		about = p.About + "; " + about
	}
	return KernelInfo{Entry: "a matrix product", About: about}
}

// complete returns the product with everything that was left out, or says what is wrong with it.
func (p Product) complete() (Product, error) {
	if p.M < 1 || p.N < 1 || p.K < 1 {
		return p, fmt.Errorf("sizes m=%d n=%d k=%d", p.M, p.N, p.K)
	}
	if p.Gated && (p.Own == OwnNone || p.Beta != 0 || p.Own != OwnTimes && p.N%2 != 0) {
		return p, fmt.Errorf("a gated product has an end of its own, no C, and pairs of columns, not own=%v beta=%g n=%d", p.Own, p.Beta, p.N)
	}
	if int(p.Epilogue) >= len(epilogues) || p.Compute > ComputeTF32 || p.Own > OwnTimes {
		return p, errors.New("unknown epilogue or compute type")
	}
	for _, t := range []DType{p.A, p.B, p.D} {
		if t < BF16 || t > E5M2 {
			return p, errors.New("type of A, B or D is not set")
		}
	}
	if p.C == 0 {
		p.C = p.D
	}
	if p.Bias == 0 {
		p.Bias = p.D
		if p.quantizes() {
			p.Bias = BF16
		}
	}
	switch {
	case p.A.eightBits() || p.B.eightBits():
		if err := p.checkEightBits(); err != nil {
			return p, err
		}
	case p.A != p.B:
		return p, fmt.Errorf("types of A and B, %v and %v, differ", p.A, p.B)
	case p.D != p.A && p.D != F32:
		return p, fmt.Errorf("type of D is %v, it can be %v or f32", p.D, p.A)
	}
	switch {
	case p.C != p.D:
		return p, fmt.Errorf("types of C and D, %v and %v, differ", p.C, p.D)
	case p.Bias > F32:
		return p, errors.New("unknown type of the bias")
	case p.Compute == ComputeTF32 && p.A != F32:
		return p, fmt.Errorf("tf32 is for f32 inputs, these are %v", p.A)
	}
	if p.Align == 0 {
		p.Align = 256
	}
	if p.Align < p.A.Size() || p.Align&(p.Align-1) != 0 {
		return p, fmt.Errorf("alignment of %d bytes", p.Align)
	}
	p.Align = min(p.Align, 256) // more makes no difference
	rowA, rowB := p.K, p.N
	if p.TransA {
		rowA = p.M
	}
	if p.TransB {
		rowB = p.K
	}
	rowD, rowAux := p.columns()
	rows := []struct {
		name string
		ld   *int
		row  int
	}{{"LDA", &p.LDA, rowA}, {"LDB", &p.LDB, rowB}, {"LDD", &p.LDD, rowD}, {"LDC", &p.LDC, rowD}, {"LDAux", &p.LDAux, rowAux}}
	for _, r := range rows {
		if *r.ld == 0 {
			*r.ld = r.row
			if r.name == "LDC" {
				*r.ld = p.LDD
			}
		}
		if p.quantizes() && (r.name == "LDD" || r.name == "LDAux") && *r.ld != r.row {
			return p, fmt.Errorf("%s is %d, of a product that quantises rows of %d elements follow one another", r.name, *r.ld, r.row)
		}
		if *r.ld < r.row {
			return p, fmt.Errorf("%s is %d, a row has %d elements", r.name, *r.ld, r.row)
		}
	}
	if !p.aux() {
		p.LDAux = 0
	} else if p.LDAux%8 != 0 {
		return p, fmt.Errorf("LDAux is %d, cuBLASLt wants a multiple of 8", p.LDAux)
	}
	if p.Beta == 0 {
		p.LDC = p.LDD // C is not read
	}
	if p.scaled() {
		for _, x := range []struct {
			name  string
			bytes int
		}{{"LDA", p.LDA}, {"LDB", p.LDB}, {"LDC", p.LDC * p.C.Size()}, {"LDD", p.LDD * p.D.Size()}} {
			if x.bytes%eightBitSide != 0 {
				return p, fmt.Errorf("%s is %d bytes, products of 8 bits want a multiple of %d", x.name, x.bytes, eightBitSide)
			}
		}
	}
	return p, nil
}

// eightBitSide is what cuBLASLt wants M, N, K and rows in bytes to be multiples of where operands have 8 bits, and addresses.
const eightBitSide = 16

// eightBitEpilogues are those that cuBLASLt has beside operands in 8 bits and results in 16 or 32.
var eightBitEpilogues = map[Epilogue]bool{EpilogueNone: true, EpilogueBias: true}

// quantizes says whether D comes in 8 bits, also with rows as columns.
func (p Product) quantizes() bool { return p.D.eightBits() }

// scaled says whether the operands come with factors.
func (p Product) scaled() bool { return p.A.eightBits() }

// checkEightBits says what is wrong with a product one of whose operands has 8 bits.
func (p Product) checkEightBits() error {
	switch {
	case !p.A.eightBits() || !p.B.eightBits() || p.A == E5M2 && p.B == E5M2:
		return fmt.Errorf("types of A and B are %v and %v: both have 8 bits, and one is e4m3", p.A, p.B)
	case p.Own == OwnNone && p.D != BF16 && p.D != F32:
		return fmt.Errorf("type of D is %v, of operands in 8 bits it can be bf16 or f32", p.D)
	case p.quantizes() && (p.A != E4M3 || p.B != E4M3 || p.D != E4M3 || p.Beta != 0):
		return fmt.Errorf("types of A, B and D are %v, %v and %v, beta=%g: an end that quantises is for e4m3, and has no C", p.A, p.B, p.D, p.Beta)
	case !p.quantizes() && (p.Own != OwnNone || p.Sums):
		return errors.New("of operands in 8 bits an end of the program's own gives 8 bits")
	case p.quantizes() && p.Gated && p.Own != OwnTimes && p.N%(2*eightBitSide) != 0:
		return fmt.Errorf("n=%d, a gated product that quantises wants a multiple of %d", p.N, 2*eightBitSide)
	case p.TransA || !p.TransB:
		return errors.New("operands in 8 bits have the summed index as columns: B is transposed, A is not")
	case p.M%eightBitSide != 0 || p.N%eightBitSide != 0 || p.K%eightBitSide != 0:
		return fmt.Errorf("m=%d n=%d k=%d, operands in 8 bits want multiples of %d", p.M, p.N, p.K, eightBitSide)
	case !eightBitEpilogues[p.Epilogue]:
		return fmt.Errorf("epilogue %v is not there for operands in 8 bits", p.Epilogue)
	case p.Bias != BF16 && p.Epilogue.info().bias:
		return fmt.Errorf("type of the bias is %v, of operands in 8 bits it can be bf16", p.Bias)
	case p.Align%eightBitSide != 0:
		return fmt.Errorf("alignment of %d bytes, operands in 8 bits want %d", p.Align, eightBitSide)
	}
	return nil
}
