//go:build linux && (amd64 || arm64)

package cudatest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// element is a type of cuBLASLt's by its number.
type element uintptr

const (
	f32  element = 0
	f16  element = 2
	bf16 element = 14
)

func (e element) format() format {
	if e == f16 {
		return float16
	}
	return bfloat16
}

// round is a number as the type has it.
func (e element) round(x float64) float64 {
	if e == f32 {
		return float64(float32(x))
	}
	f := e.format()
	return f.value(f.round(float32(x)))
}

// matrix is on the device, stored by columns.
type matrix struct {
	element
	rows, cols, ld int
	p              uintptr
	data           []float64 // as it was uploaded, rows by cols
}

func (m *matrix) at(row, col int) float64 { return m.data[row+col*m.rows] }

func (a *api) matrix(e element, rows, cols int) *matrix {
	m := &matrix{element: e, rows: rows, cols: cols, ld: rows + 3}
	m.data = make([]float64, rows*cols)
	for i := range m.data {
		m.data[i] = e.round(rand.NormFloat64())
	}
	m.p = a.uploadAs(e, rows, cols, m.ld, m.data)
	return m
}

func (a *api) uploadAs(e element, rows, cols, ld int, data []float64) uintptr {
	if e == f32 {
		host := make([]float32, ld*cols)
		for i, x := range data {
			host[i%rows+i/rows*ld] = float32(x)
		}
		return upload(a, host)
	}
	host := make([]uint16, ld*cols)
	for i, x := range data {
		host[i%rows+i/rows*ld] = e.format().round(float32(x))
	}
	return upload(a, host)
}

func (a *api) downloadAs(e element, rows, cols, ld int, p uintptr) []float64 {
	var out []float64
	if e == f32 {
		host := download[float32](a, p, ld*cols)
		for i := range rows * cols {
			out = append(out, float64(host[i%rows+i/rows*ld]))
		}
		return out
	}
	host := download[uint16](a, p, ld*cols)
	for i := range rows * cols {
		out = append(out, e.format().value(host[i%rows+i/rows*ld]))
	}
	return out
}

// Epilogues.
const (
	plain        = 1
	relu         = 2
	biased       = 4
	reluBias     = 6
	gelu         = 32
	geluBias     = 36
	geluAux      = 160
	geluAuxBias  = 164
	geluGradient = 192
	geluBoth     = 208 // and the gradient of the bias
	sumA         = 256
	sumB         = 512
)

func geluOf(x float64) float64 {
	return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
}

func (a *api) layout(m *matrix) uintptr {
	l := new(uintptr)
	a.must("cublasLtMatrixLayoutCreate", addr(l), uintptr(m.element), uintptr(m.rows), uintptr(m.cols), uintptr(m.ld))
	return *l
}

func set[T any](a *api, operation uintptr, attribute int, value T) {
	a.t.Helper()
	p := new(T)
	*p = value
	a.must("cublasLtMatmulDescSetAttribute", operation, uintptr(attribute), addr(p), unsafe.Sizeof(value))
}

// product is a call of cublasLtMatmul.
type product struct {
	handle, operation          uintptr
	alpha, beta                float32
	A, B, C, D                 *matrix
	layoutA, layoutB, layoutCD uintptr
}

func (a *api) product(compute uintptr, A, B, C, D *matrix) *product {
	p := &product{alpha: 1, A: A, B: B, C: C, D: D}
	a.must("cublasLtCreate", addr(&p.handle))
	a.must("cublasLtMatmulDescCreate", addr(&p.operation), compute, 0)
	p.layoutA, p.layoutB, p.layoutCD = a.layout(A), a.layout(B), a.layout(D)
	return p
}

func (a *api) multiply(p *product, algorithm, workspace, bytes, stream uintptr) int {
	return a.call("cublasLtMatmul", p.handle, p.operation, addr(&p.alpha), p.A.p, p.layoutA, p.B.p, p.layoutB, addr(&p.beta),
		p.C.p, p.layoutCD, p.D.p, p.layoutCD, algorithm, workspace, bytes, stream)
}

// Every epilogue, transposition and type, against sums in plain Go.
func TestProducts(t *testing.T) {
	const m, n, k = 37, 29, 53
	types := [][2]element{{f32, f32}, {bf16, bf16}, {f16, f16}, {bf16, f32}}
	for i, epilogue := range []uint32{plain, relu, biased, reluBias, gelu, geluBias, geluAux, geluAuxBias, geluGradient, geluBoth, sumA, sumB} {
		for form := range 4 {
			in, out := types[(i+form)%4][0], types[(i+form)%4][1]
			transA, transB := form&1 != 0, form&2 != 0
			t.Run(fmt.Sprintf("%d %d", epilogue, form), func(t *testing.T) {
				a := open(t)
				A, B, C, D := a.matrix(in, m, k), a.matrix(in, k, n), a.matrix(out, m, n), a.matrix(out, m, n)
				if transA {
					A = a.matrix(in, k, m)
				}
				if transB {
					B = a.matrix(in, n, k)
				}
				aux := a.matrix(out, m, n)
				aux.p, aux.ld = a.uploadAs(out, m, n, 40, aux.data), 40
				bias := a.matrix(out, max(m, n), 1)
				p := a.product(68, A, B, C, D)
				p.alpha, p.beta = 0.5, float32(form)
				set(a, p.operation, 3, int32(form&1))
				set(a, p.operation, 4, int32(form>>1))
				set(a, p.operation, 7, epilogue)
				set(a, p.operation, 8, bias.p)
				set(a, p.operation, 11, aux.p)
				set(a, p.operation, 12, int64(aux.ld))
				if r := a.multiply(p, 0, 0, 0, 0); r != 0 {
					t.Fatalf("cublasLtMatmul returns %d", r)
				}
				left := func(row, x int) float64 {
					if transA {
						return A.at(x, row)
					}
					return A.at(row, x)
				}
				right := func(x, col int) float64 {
					if transB {
						return B.at(col, x)
					}
					return B.at(x, col)
				}
				want, wantAux := make([]float64, m*n), slices.Clone(aux.data)
				wantBias := slices.Clone(bias.data)
				if epilogue == geluBoth || epilogue == sumA {
					clear(wantBias[:m])
				}
				if epilogue == sumB {
					clear(wantBias[:n])
				}
				for col := range n {
					for row := range m {
						x := 0.0
						for i := range k {
							x += left(row, i) * right(i, col)
						}
						x = x*0.5 + float64(form)*C.at(row, col)
						switch at := row + col*m; epilogue {
						case relu:
							x = max(x, 0)
						case biased:
							x += bias.data[row]
						case reluBias:
							x = max(x+bias.data[row], 0)
						case gelu:
							x = geluOf(x)
						case geluBias:
							x = geluOf(x + bias.data[row])
						case geluAux:
							wantAux[at] = x
							x = geluOf(x)
						case geluAuxBias:
							wantAux[at] = x + bias.data[row]
							x = geluOf(x + bias.data[row])
						case geluGradient, geluBoth:
							const h = 1e-5
							x *= (geluOf(aux.data[at]+h) - geluOf(aux.data[at]-h)) / (2 * h)
							if epilogue == geluBoth {
								wantBias[row] += x
							}
						}
						want[row+col*m] = x
					}
				}
				for i := range k {
					for r := range max(m, n) {
						if epilogue == sumA && r < m {
							wantBias[r] += left(r, i)
						}
						if epilogue == sumB && r < n {
							wantBias[r] += right(i, r)
						}
					}
				}
				near(t, "D", out, a.downloadAs(out, m, n, D.ld, D.p), want)
				near(t, "aux", out, a.downloadAs(out, m, n, aux.ld, aux.p), wantAux)
				near(t, "bias", out, a.downloadAs(out, max(m, n), 1, max(m, n), bias.p), wantBias)
			})
		}
	}
}

// near wants numbers to be the correctly rounded ones, or for floats close.
func near(t *testing.T, what string, e element, got, want []float64) {
	t.Helper()
	tolerance := map[element]float64{f32: 1e-6, bf16: 1.0 / 256, f16: 1.0 / 2048}[e]
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= tolerance*math.Abs(want[i])+1e-6) {
			t.Fatalf("%s: %d is %v, not %v", what, i, got[i], want[i])
		}
	}
}

// A large product uses all threads; TF32 rounds its inputs.
func TestLargeProduct(t *testing.T) {
	a := open(t)
	const m, n, k = 200, 130, 300
	A, B, D := a.matrix(f32, m, k), a.matrix(f32, k, n), a.matrix(f32, m, n)
	round := func(x float64) float64 { // to 10 bits after the first
		_, e := math.Frexp(x)
		return math.Ldexp(math.Round(math.Ldexp(x, 11-e)), e-11)
	}
	want := make([]float64, m*n)
	for _, compute := range []uintptr{68, 77} {
		for i := range want {
			want[i] = 0
			for x := range k {
				l, r := A.at(i%m, x), B.at(x, i/m)
				if compute == 77 {
					l, r = round(l), round(r)
				}
				want[i] += l * r
			}
		}
		if r := a.multiply(a.product(compute, A, B, D, D), 0, 0, 0, 0); r != 0 {
			t.Fatal(r)
		}
		near(t, "D", f32, a.downloadAs(f32, m, n, D.ld, D.p), want)
	}
}

// heuristicResult is cublasLtMatmulHeuristicResult_t.
type heuristicResult struct {
	algorithm [8]uint64
	workspace uint64
	_         [6]int32
}

func TestAlgorithms(t *testing.T) {
	a := open(t)
	A, B, D := a.matrix(bf16, 16, 16), a.matrix(bf16, 16, 16), a.matrix(bf16, 16, 16)
	p := a.product(68, A, B, D, D)
	preference, count := new(uintptr), new(int32)
	a.must("cublasLtMatmulPreferenceCreate", addr(preference))
	results := make([]heuristicResult, 8)
	ask := func(most uintptr) int {
		return a.call("cublasLtMatmulAlgoGetHeuristic", p.handle, p.operation, p.layoutA, p.layoutB, p.layoutCD, p.layoutCD,
			*preference, most, addr(&results[0]), addr(count))
	}
	for workspace, want := range map[uint64][]uint64{0: {0, 0}, 4095: {0, 0}, 4096: {4096, 0, 0}} {
		value := &[]uint64{workspace}[0]
		a.must("cublasLtMatmulPreferenceSetAttribute", *preference, 1, addr(value), 8)
		if r := ask(8); r != 0 {
			t.Fatal(r)
		}
		var got []uint64
		for _, r := range results[:*count] {
			got = append(got, r.workspace)
		}
		equal(t, "workspaces", got, want)
	}
	value := &[]uint64{1 << 20}[0]
	a.must("cublasLtMatmulPreferenceSetAttribute", *preference, 1, addr(value), 8)
	ask(1)
	first, space := addr(&results[0].algorithm), a.alloc(4096)
	if r := a.multiply(p, first, space, 4095, 0); r != 7 {
		t.Errorf("too small a workspace: %d", r)
	}
	if r := a.multiply(p, first, space, 4096, 0); r != 0 {
		t.Errorf("cublasLtMatmul returns %d", r)
	}
	D.p += 2
	if r := a.multiply(p, first, space, 4096, 0); r != 7 {
		t.Errorf("a matrix that is not as aligned as the algorithm needs: %d", r)
	}
	checked := new(heuristicResult)
	a.must("cublasLtMatmulAlgoCheck", p.handle, p.operation, p.layoutA, p.layoutB, p.layoutCD, p.layoutCD, first, addr(checked))
	if checked.workspace != 4096 {
		t.Errorf("the check says %d bytes", checked.workspace)
	}
	results[0].algorithm[0]++
	a.want(15, "cublasLtMatmulAlgoCheck", p.handle, p.operation, p.layoutA, p.layoutB, p.layoutCD, p.layoutCD, first, addr(checked))
	set(a, p.operation, 7, uint32(geluAux)) // aux has no leading dimension
	if r := ask(1); r != 15 {
		t.Errorf("an epilogue that is not complete: %d", r)
	}
	a.Set("algorithms", 0)
	set(a, p.operation, 7, uint32(plain))
	if r := ask(1); r != 15 {
		t.Errorf("without any algorithm: %d", r)
	}
}

// Products keep the order of their stream, and are captured.
func TestProductsInStreams(t *testing.T) {
	a := open(t)
	a.Quiet()
	A, B, D := a.matrix(f32, 4, 4), a.matrix(f32, 4, 4), a.matrix(f32, 4, 4)
	p := a.product(68, A, B, D, D)
	s := a.stream()
	a.must("cuCtxSynchronize")
	g, exec := new(uintptr), new(uintptr)
	a.must("cuStreamBeginCapture_v2", s, 1)
	if r := a.multiply(p, 0, 0, 0, s); r != 0 {
		t.Fatal(r)
	}
	a.must("cuMemcpyDtoDAsync_v2", A.p, D.p, uintptr(4*(3*D.ld+4)), s)
	a.must("cuStreamEndCapture", s, addr(g))
	a.must("cuGraphInstantiateWithFlags", addr(exec), *g, 0)
	near(t, "D before the launch", f32, a.downloadAs(f32, 4, 4, D.ld, D.p), D.data)
	want := A.data
	for range 2 {
		a.must("cuGraphLaunch", *exec, s)
		next := make([]float64, 16)
		for i := range next {
			for k := range 4 {
				next[i] += want[i%4+k*4] * B.at(k, i/4)
			}
		}
		want = next
	}
	near(t, "D", f32, a.downloadAs(f32, 4, 4, D.ld, D.p), want)

	D.p += 1 << 20
	if r := a.multiply(p, 0, 0, 0, s); r != 0 {
		t.Fatal(r)
	}
	a.want(illegalAddress, "cuStreamSynchronize", s)
	equal(t, "faults", a.Faults(), []string{"cublasLtMatmul: D is not in device memory"})
}
