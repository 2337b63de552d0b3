//go:build linux && (amd64 || arm64)

package cudatest

import "testing"

// Types of 8 bits.
const (
	e4m3 element = 28
	e5m2 element = 29
)

// some numbers of 8 bits.
var numbers8 = map[element]map[byte]float64{
	e4m3: {0x38: 1, 0xb8: -1, 0x30: 0.5, 0x3c: 1.5, 0x7e: 448, 0x01: 1.0 / 512, 0x00: 0, 0x08: 1.0 / 64},
	e5m2: {0x3c: 1, 0xbc: -1, 0x38: 0.5, 0x3e: 1.5, 0x7b: 57344, 0x01: 1.0 / 65536, 0x00: 0, 0x04: 1.0 / 16384},
}

// bytes8 is a matrix of numbers of 8 bits, rows by cols.
func (a *api) bytes8(e element, rows, cols int) *matrix {
	m := &matrix{element: e, rows: rows, cols: cols, ld: (rows + 15) / 16 * 16}
	host := make([]byte, m.ld*cols)
	i := 0
	for i < rows*cols {
		for b, x := range numbers8[e] {
			if i < rows*cols {
				host[i%rows+i/rows*m.ld] = b
				m.data = append(m.data, x)
				i++
			}
		}
	}
	m.p = upload(a, host)
	return m
}

// TestEightBits: products of operands in 8 bits are right, and where cuBLASLt has none on Hopper they are refused.
func TestEightBits(t *testing.T) {
	const m, n, k, notSupported = 32, 16, 48, 15
	type given struct {
		A, B, C, D *matrix
		transA     int32
		transB     int32
		epilogue   uint32
	}
	cases := map[string]struct {
		change func(a *api, g *given)
		status int
	}{
		"e4m3":              {func(a *api, g *given) {}, 0},
		"mixed":             {func(a *api, g *given) { g.A = a.bytes8(e5m2, k, m) }, 0},
		"mixed otherwise":   {func(a *api, g *given) { g.B = a.bytes8(e5m2, k, n) }, 0},
		"e5m2 alone":        {func(a *api, g *given) { g.A, g.B = a.bytes8(e5m2, k, m), a.bytes8(e5m2, k, n) }, notSupported},
		"with 16 bits":      {func(a *api, g *given) { g.B = a.matrix(bf16, k, n) }, notSupported},
		"A not transposed":  {func(a *api, g *given) { g.A, g.transA = a.bytes8(e4m3, m, k), 0 }, notSupported},
		"B transposed":      {func(a *api, g *given) { g.B, g.transB = a.bytes8(e4m3, n, k), 1 }, notSupported},
		"GELU":              {func(a *api, g *given) { g.epilogue = gelu }, notSupported},
		"D of f16":          {func(a *api, g *given) { g.C, g.D = a.matrix(f16, m, n), a.matrix(f16, m, n) }, notSupported},
		"rows of odd bytes": {func(a *api, g *given) { g.D.ld = 33 }, notSupported},
		"odd m":             {func(a *api, g *given) { g.A, g.D.rows, g.C.rows = a.bytes8(e4m3, k, 24), 24, 24 }, notSupported},
		"odd n":             {func(a *api, g *given) { g.B, g.D.cols, g.C.cols = a.bytes8(e4m3, k, 20), 20, 20 }, notSupported},
		"odd k":             {func(a *api, g *given) { g.A, g.B = a.bytes8(e4m3, 40, m), a.bytes8(e4m3, 40, n) }, notSupported},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := open(t)
			g := &given{A: a.bytes8(e4m3, k, m), B: a.bytes8(e4m3, k, n), C: a.matrix(f32, m, n), D: a.matrix(f32, m, n), transA: 1, epilogue: plain}
			g.C.ld, g.D.ld = m, m
			c.change(a, g)
			g.D.p = upload(a, make([]float32, 64*64))
			scales := upload(a, []float32{0.25, 0, 0, 0, -2})
			p := a.product(68, g.A, g.B, g.C, g.D)
			set(a, p.operation, 3, g.transA)
			set(a, p.operation, 4, g.transB)
			set(a, p.operation, 7, g.epilogue)
			set(a, p.operation, 17, scales)
			set(a, p.operation, 18, scales+16)
			if r := a.multiply(p, 0, 0, 0, 0); r != c.status {
				t.Fatalf("cublasLtMatmul returns %d, want %d", r, c.status)
			}
			if c.status != 0 {
				return
			}
			want := make([]float64, m*n)
			for col := range n {
				for row := range m {
					for i := range k {
						want[row+col*m] += g.A.at(i, row) * g.B.at(i, col) * -0.5
					}
				}
			}
			near(t, "D", f32, a.downloadAs(f32, m, n, g.D.ld, g.D.p), want)
		})
	}
}
