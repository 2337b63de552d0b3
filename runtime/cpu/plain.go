package cpu

import "unsafe"

// The product kernels in plain Go, for machines without vector kernels. They take pointers as the vector kernels do.

func tile4x4(k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
	as, bs := panels(k, a, b, ldb)
	var c00, c01, c02, c03, c10, c11, c12, c13, c20, c21, c22, c23, c30, c31, c32, c33 float32
	for l := range k {
		x := bs[l*(ldb/4):][:4]
		b0, b1, b2, b3 := x[0], x[1], x[2], x[3]
		y := as[l*4:][:4]
		a0, a1, a2, a3 := y[0], y[1], y[2], y[3]
		c00 += a0 * b0
		c01 += a0 * b1
		c02 += a0 * b2
		c03 += a0 * b3
		c10 += a1 * b0
		c11 += a1 * b1
		c12 += a1 * b2
		c13 += a1 * b3
		c20 += a2 * b0
		c21 += a2 * b1
		c22 += a2 * b2
		c23 += a2 * b3
		c30 += a3 * b0
		c31 += a3 * b1
		c32 += a3 * b2
		c33 += a3 * b3
	}
	store4(c, add, c00, c01, c02, c03)
	store4(offset(c, ldc), add, c10, c11, c12, c13)
	store4(offset(c, 2*ldc), add, c20, c21, c22, c23)
	store4(offset(c, 3*ldc), add, c30, c31, c32, c33)
}

func tile1x4(k int, a, b *float32, ldb int, c *float32, _ int, add bool) {
	as, bs := panels(k, a, b, ldb)
	var c0, c1, c2, c3 float32
	for l := range k {
		x := bs[l*(ldb/4):][:4]
		c0 += as[l*4] * x[0]
		c1 += as[l*4] * x[1]
		c2 += as[l*4] * x[2]
		c3 += as[l*4] * x[3]
	}
	store4(c, add, c0, c1, c2, c3)
}

// panels views k steps of a, packed, and of b.
func panels(k int, a, b *float32, ldb int) (as, bs []float32) {
	return unsafe.Slice(a, 4*k), unsafe.Slice(b, (k-1)*(ldb/4)+4)
}

// offset moves p by a number of bytes.
func offset(p *float32, bytes int) *float32 { return (*float32)(unsafe.Add(unsafe.Pointer(p), bytes)) }

func store4(c *float32, add bool, c0, c1, c2, c3 float32) {
	row := (*[4]float32)(unsafe.Pointer(c))
	if add {
		c0, c1, c2, c3 = c0+row[0], c1+row[1], c2+row[2], c3+row[3]
	}
	row[0], row[1], row[2], row[3] = c0, c1, c2, c3
}

// plainMultiplyAdd is a loop of multiply-adds in plain Go.
var plainMultiplyAdd = multiplyAdd{Rate{Type: "f32", Width: 32}, func(n int, x *float32) {
	y := unsafe.Slice(x, 4)
	a, b, c, d, e, f := y[0], y[1], y[2], y[3], y[0], y[1]
	for range n {
		a += y[2] * y[3]
		b += y[2] * y[3]
		c += y[2] * y[3]
		d += y[2] * y[3]
		e += y[2] * y[3]
		f += y[2] * y[3]
	}
	y[0] = a + b + c + d + e + f
}, 6 * 2}

// readPlain reads x.
func readPlain(x, sum []float32) {
	var a, b, c, d float32
	for ; len(x) >= 4; x = x[4:] {
		a += x[0]
		b += x[1]
		c += x[2]
		d += x[3]
	}
	sum[0] = a + b + c + d
}
