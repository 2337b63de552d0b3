package cpu

// gemm computes C = alpha*op(A)*op(B) + beta*C on the calling goroutine, where op transposes where asked.
// With beta 0, C is not read.
func gemm(c, a, b Mat, transA, transB bool, alpha, beta float32, s *scratch) {
	k := a.Cols
	if transA {
		k = a.Rows
	}
	for i := range c.Rows {
		row := c.Row(i)
		if beta == 0 {
			clear(row)
		} else {
			for j := range row {
				row[j] *= beta
			}
		}
		for l := range k {
			var x float32
			if transA {
				x = alpha * a.Data[l*a.Stride+i]
			} else {
				x = alpha * a.Data[i*a.Stride+l]
			}
			if transB {
				for j := range row {
					row[j] += x * b.Data[j*b.Stride+l]
				}
			} else {
				for j, y := range b.Row(l) {
					row[j] += x * y
				}
			}
		}
	}
}
