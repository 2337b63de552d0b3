package cuda

import (
	"strings"
	"testing"
	"unsafe"
)

func TestProductComplete(t *testing.T) {
	base := Product{M: 3, N: 5, K: 7, A: BF16, B: BF16, D: BF16}
	eight := func(change func(*Product)) func(*Product) {
		return func(p *Product) {
			*p = Product{M: 16, N: 16, K: 32, TransB: true, A: E5M2, B: E4M3, D: BF16}
			change(p)
		}
	}
	for name, c := range map[string]struct {
		change func(*Product)
		want   string // parts of String, or of the error
	}{
		"plain":       {func(p *Product) {}, "m=3 n=5 k=7 nn lda=7 ldb=5 ldc=5 ldd=5 a=bf16 b=bf16 c=bf16 d=bf16 compute=f32 epilogue=none beta=0 align=256"},
		"linear":      {func(p *Product) { p.TransB = true }, "nt lda=7 ldb=7 ldc=5 ldd=5"},
		"gradient":    {func(p *Product) { p.TransA, p.D, p.Beta = true, F32, 1 }, "tn lda=3 ldb=5 ldc=5 ldd=5 a=bf16 b=bf16 c=f32 d=f32 compute=f32 epilogue=none beta=1"},
		"strides":     {func(p *Product) { p.LDA, p.LDB, p.LDD = 8, 9, 10 }, "lda=8 ldb=9 ldc=10 ldd=10"},
		"C apart":     {func(p *Product) { p.LDC, p.LDD, p.Beta = 6, 7, 0.5 }, "ldc=6 ldd=7"},
		"C unread":    {func(p *Product) { p.LDC, p.LDD = 6, 7 }, "ldc=7 ldd=7"},
		"bias":        {func(p *Product) { p.Epilogue = EpilogueBias }, "epilogue=bias beta=0 align=256 bias=bf16"},
		"aux":         {func(p *Product) { p.N, p.Epilogue = 8, EpilogueGELUAuxBias }, "epilogue=gelu_aux_bias beta=0 align=256 bias=bf16 ldaux=8"},
		"tf32":        {func(p *Product) { p.A, p.B, p.D, p.Compute = F32, F32, F32, ComputeTF32 }, "compute=tf32"},
		"align":       {func(p *Product) { p.Align = 1024 }, "align=256"},
		"no size":     {func(p *Product) { p.K = 0 }, "! sizes m=3 n=5 k=0"},
		"no type":     {func(p *Product) { p.D = 0 }, "! type of A, B or D is not set"},
		"two types":   {func(p *Product) { p.B = F16 }, "! types of A and B, bf16 and f16, differ"},
		"output":      {func(p *Product) { p.D = F16 }, "! type of D is f16, it can be bf16 or f32"},
		"C differs":   {func(p *Product) { p.C = F32 }, "! types of C and D, f32 and bf16, differ"},
		"tf32 of 16":  {func(p *Product) { p.Compute = ComputeTF32 }, "! tf32 is for f32 inputs, these are bf16"},
		"row too big": {func(p *Product) { p.LDA = 6 }, "! LDA is 6, a row has 7 elements"},
		"transposed":  {func(p *Product) { p.TransB, p.LDB = true, 6 }, "! LDB is 6, a row has 7 elements"},
		"aux of 5":    {func(p *Product) { p.Epilogue = EpilogueDGELU }, "! LDAux is 5, cuBLASLt wants a multiple of 8"},
		"alignment":   {func(p *Product) { p.Align = 24 }, "! alignment of 24 bytes"},
		"8 bits":      {eight(func(p *Product) {}), "m=16 n=16 k=32 nt lda=32 ldb=32 ldc=16 ldd=16 a=e5m2 b=e4m3 c=bf16 d=bf16 compute=f32 epilogue=none beta=0 align=256"},
		"8, bias":     {eight(func(p *Product) { p.Epilogue = EpilogueBias }), "epilogue=bias beta=0 align=256 bias=bf16"},
		"8, added":    {eight(func(p *Product) { p.D, p.Beta, p.Align = F32, 1, 16 }), "c=f32 d=f32 compute=f32 epilogue=none beta=1 align=16"},
		"8, e5m2s":    {eight(func(p *Product) { p.B = E5M2 }), "! types of A and B are e5m2 and e5m2: both have 8 bits, and one is e4m3"},
		"8 and 16":    {eight(func(p *Product) { p.A = BF16 }), "! types of A and B are bf16 and e4m3: both have 8 bits, and one is e4m3"},
		"8 as D":      {eight(func(p *Product) { p.D = E4M3 }), "! type of D is e4m3, of operands in 8 bits it can be bf16 or f32"},
		"16 to 8":     {func(p *Product) { p.D = E4M3 }, "! type of D is e4m3, it can be bf16 or f32"},
		"8, as C":     {eight(func(p *Product) { p.C = E4M3 }), "! types of C and D, e4m3 and bf16, differ"},
		"8, A aside":  {eight(func(p *Product) { p.TransA = true }), "! operands in 8 bits have the summed index as columns: B is transposed, A is not"},
		"8, B aside":  {eight(func(p *Product) { p.TransB = false }), "! operands in 8 bits have the summed index as columns: B is transposed, A is not"},
		"8, sides":    {eight(func(p *Product) { p.K = 24 }), "! m=16 n=16 k=24, operands in 8 bits want multiples of 16"},
		"8, gelu":     {eight(func(p *Product) { p.Epilogue = EpilogueGELUBias }), "! epilogue gelu_bias is not there for operands in 8 bits"},
		"8, bias f32": {eight(func(p *Product) { p.Epilogue, p.Bias = EpilogueBias, F32 }), "! type of the bias is f32, of operands in 8 bits it can be bf16"},
		"8, align":    {eight(func(p *Product) { p.Align = 8 }), "! alignment of 8 bytes, operands in 8 bits want 16"},
		"8, strides":  {eight(func(p *Product) { p.LDA = 40 }), "! LDA is 40 bytes, products of 8 bits want a multiple of 16"},
		"8, rows":     {eight(func(p *Product) { p.LDD = 20 }), "! LDC is 40 bytes, products of 8 bits want a multiple of 16"},
		"8, tf32":     {eight(func(p *Product) { p.Compute = ComputeTF32 }), "! tf32 is for f32 inputs, these are e5m2"},
		"epilogue":    {func(p *Product) { p.Epilogue = 99 }, "! unknown epilogue or compute type"},
	} {
		p := base
		c.change(&p)
		q, err := p.complete()
		got := q.String()
		want, isError := strings.CutPrefix(c.want, "! ")
		switch {
		case isError && (err == nil || err.Error() != want):
			t.Errorf("%s: %v, want %s", name, err, want)
		case !isError && err != nil:
			t.Errorf("%s: %v", name, err)
		case !isError && !strings.Contains(got, want):
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestLayouts holds the layouts and numbers that C code reads to those of cublasLt.h and library_types.h of CUDA 12 and 13.
func TestProductCost(t *testing.T) {
	plain := Product{M: 2, N: 3, K: 5, A: BF16, B: BF16, D: BF16}
	for name, c := range map[string]struct {
		change func(p *Product)
		bytes  float64
	}{
		"plain":                {func(*Product) {}, 2 * (10 + 15 + 6)},
		"adding":               {func(p *Product) { p.Beta, p.D = 1, F32 }, 2*(10+15) + 4*2*6},
		"bias":                 {func(p *Product) { p.Epilogue = EpilogueBias }, 2 * (10 + 15 + 6 + 3)},
		"bias of its own type": {func(p *Product) { p.Epilogue, p.Bias = EpilogueBias, F32 }, 2*(10+15+6) + 4*3},
		"8 bits":               {func(p *Product) { p.A, p.B = E4M3, E5M2 }, 10 + 15 + 2*6},
		"gelu":                 {func(p *Product) { p.Epilogue = EpilogueGELUAuxBias }, 2 * (10 + 15 + 6 + 6 + 3)},
	} {
		p := plain
		c.change(&p)
		if p.Bytes() != c.bytes || p.FLOPs() != 60 {
			t.Errorf("%s: %v bytes, want %v; %v FLOPs", name, p.Bytes(), c.bytes, p.FLOPs())
		}
	}
}

func TestLayouts(t *testing.T) {
	var r heuristicResult
	for name, c := range map[string][2]uintptr{
		"cublasLtMatmulAlgo_t":            {unsafe.Sizeof(algorithm{}), 64},
		"cublasLtMatmulHeuristicResult_t": {unsafe.Sizeof(r), 96},
		"workspaceSize":                   {unsafe.Offsetof(r.workspace), 64},
		"state":                           {unsafe.Offsetof(r.state), 72},
		"wavesCount":                      {unsafe.Offsetof(r.waves), 76},
		"reserved":                        {unsafe.Offsetof(r.reserved), 80},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, not %d", name, c[0], c[1])
		}
	}
	for name, c := range map[string][2]int32{
		"CUDA_R_16BF": {BF16.cuda(), 14}, "CUDA_R_16F": {F16.cuda(), 2}, "CUDA_R_32F": {F32.cuda(), 0},
		"CUDA_R_8F_E4M3": {E4M3.cuda(), 28}, "CUDA_R_8F_E5M2": {E5M2.cuda(), 29},
		"CUBLAS_COMPUTE_32F": {ComputeF32.cublas(), 68}, "CUBLAS_COMPUTE_32F_FAST_TF32": {ComputeTF32.cublas(), 77},
		"CUBLASLT_EPILOGUE_GELU_AUX_BIAS": {EpilogueGELUAuxBias.info().cublas, 32 | 4 | 128},
		"CUBLASLT_EPILOGUE_DGELU":         {EpilogueDGELU.info().cublas, 64 | 128},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, not %d", name, c[0], c[1])
		}
	}
}
