package cpu

// A streamKernel computes out[r][j] = x[r]·w[j] for a fixed number of rows of x and n of w, over k, a multiple of dotLanes.
// ldw, ldx and ldo count bytes.
type streamKernel func(n, k int, w *float32, ldw int, x *float32, ldx int, out *float32, ldo int)

// streamRows is the most rows of x that a kernel takes, and the most of w that are computed at a time.
const (
	streamRows = 4
	streamCols = 64
)

// streamProduct computes C = A·Bᵀ, plus C with add, for few rows of A. B is read once, as it lies in memory: that takes most of
// the time. sums is room for those of a kernel.
func (v *variant) streamProduct(c, a, b Mat, add bool, sums []float32) {
	k := a.Cols
	whole := k / v.dotLanes * v.dotLanes
	for j := 0; j < c.Cols; j += streamCols {
		n := min(streamCols, c.Cols-j)
		for i, step := 0, 0; i < c.Rows; i += step {
			step = streamRows
			kernel := 0
			for step > c.Rows-i {
				step /= 2
				kernel++
			}
			if whole > 0 {
				v.stream[kernel](n, whole, &b.Data[j*b.Stride], b.Stride*4, &a.Data[i*a.Stride], a.Stride*4, &sums[0], streamCols*4)
			} else {
				clear(sums[:streamRows*streamCols])
			}
			for r := range step {
				x := a.Row(i + r)[whole:]
				out := c.Row(i + r)[j : j+n]
				for q := range out {
					sum := sums[r*streamCols+q]
					for l, w := range b.Row(j + q)[whole:] {
						sum += x[l] * w
					}
					if add {
						sum += out[q]
					}
					out[q] = sum
				}
			}
		}
	}
}
