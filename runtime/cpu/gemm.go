package cpu

// Matrix products. C is cut into tiles of mr × nr that a kernel keeps in registers while it runs along the sum; the
// factors are packed in panels in the order the kernel reads them, in blocks that fit the caches (the scheme of Goto
// and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). An element of C is the sum of its
// blocks of k in rising order, and each block is summed step by step: the order depends on k alone.

const (
	blockK = 384 // steps of the sum in a block: a panel of B stays in the first-level cache
	blockN = 512 // columns of B that gemm packs at once
	fewM   = 8   // up to this many rows B is read once and not packed
)

// blockOf returns the size of the block of the sum that starts at l: k cut in equal blocks of at most blockK.
func blockOf(l, k int) int {
	blocks := (k + blockK - 1) / blockK
	size := ((k+blocks-1)/blocks + 15) &^ 15
	return min(size, k-l)
}

// rowsPerBlock is the number of rows of A packed at once: a few tiles, so that a product has many parts.
func (v *variant) rowsPerBlock() int { return (64 + v.mr - 1) / v.mr * v.mr }

// gemm computes C = alpha*op(A)*op(B) + beta*C on the calling goroutine, where op transposes where asked.
// With beta 0, C is not read.
func gemm(c, a, b Mat, transA, transB bool, alpha, beta float32, s *scratch) {
	k := a.Cols
	if transA {
		k = a.Rows
	}
	if c.Rows == 0 || c.Cols == 0 {
		return
	}
	if beta != 1 && beta != 0 || k == 0 {
		scale(c, beta)
	}
	if k == 0 {
		return
	}
	v := active
	if c.Rows <= fewM && !transA && transB && v.dotLanes > 0 {
		v.dotProduct(c, a, b, alpha, beta != 0, s.tile)
		return
	}
	ao, bo := operand{a, !transA}, operand{b, transB}
	for l := 0; l < k; {
		kc := blockOf(l, k)
		add := beta != 0 || l > 0
		for j := 0; j < c.Cols; j += blockN {
			nc := min(blockN, c.Cols-j)
			var panels panelsOfB
			if c.Rows <= fewM && !transB {
				panels = v.directB(bo, j, nc, l, kc, s.packB)
			} else {
				panels = v.packedB(bo, j, nc, l, kc, s.packB)
			}
			for i := 0; i < c.Rows; i += v.rowsPerBlock() {
				mc := min(v.rowsPerBlock(), c.Rows-i)
				v.packRows(s.packA, ao, i, mc, l, kc, alpha)
				v.block(c.RowRange(i, i+mc).Columns(j, j+nc), s.packA, panels, kc, add, s.tile)
			}
		}
		l += kc
	}
}

// scale multiplies c by beta; 0 clears it whatever it holds.
func scale(c Mat, beta float32) {
	for i := range c.Rows {
		row := c.Row(i)
		if beta == 0 {
			clear(row)
			continue
		}
		for j := range row {
			row[j] *= beta
		}
	}
}

// packRows packs rows i to i+m of alpha*op(A).
func (v *variant) packRows(dst []float32, a operand, i, m, l, k int, alpha float32) {
	v.packA.panels(dst, a, i, m, l, k)
	if alpha != 1 {
		dst = dst[:panelFloats(m, k, v.mr)]
		for i := range dst {
			dst[i] *= alpha
		}
	}
}

// panelsOfB is where a block finds its panels of B: full ones where they lie, at most one packed.
type panelsOfB struct {
	data  []float32
	width int       // floats from one panel to the next
	ld    int       // bytes from one step to the next
	edge  []float32 // the last panel, packed, where it is not as wide as the others
}

func (v *variant) packedB(b operand, j, n, l, k int, buf []float32) panelsOfB {
	v.packB.panels(buf, b, j, n, l, k)
	return panelsOfB{data: buf, width: v.nr * k, ld: v.nr * 4}
}

// directB reads full panels from B itself, whose rows run along C's columns, and packs the edge alone.
func (v *variant) directB(b operand, j, n, l, k int, buf []float32) panelsOfB {
	p := panelsOfB{data: b.mat.Data[b.at(j, l):], width: v.nr, ld: b.mat.Stride * 4}
	if edge := n % v.nr; edge != 0 {
		v.packB.panel(buf, b, j+n-edge, edge, l, k)
		p.edge = buf
	}
	return p
}

// block computes c from packed rows of A and panels of B, over k steps. tile is room for one tile.
func (v *variant) block(c Mat, a []float32, b panelsOfB, k int, add bool, tile []float32) {
	ldc := c.Stride * 4
	for j := 0; j < c.Cols; j += v.nr {
		n := min(v.nr, c.Cols-j)
		var panel *float32
		ldb := b.ld
		if n < v.nr && b.edge != nil {
			panel, ldb = &b.edge[0], v.nr*4
		} else {
			panel = &b.data[j/v.nr*b.width]
		}
		for i := 0; i < c.Rows; i += v.mr {
			m := min(v.mr, c.Rows-i)
			rows, kernel := v.tileFor(m)
			at := i*c.Stride + j
			if rows == m && n == v.nr {
				kernel(k, &a[i*k], panel, ldb, &c.Data[at], ldc, add)
				continue
			}
			kernel(k, &a[i*k], panel, ldb, &tile[0], v.nr*4, false)
			for r := range m {
				row, t := c.Data[at+r*c.Stride:][:n], tile[r*v.nr:][:n]
				if !add {
					copy(row, t)
					continue
				}
				for x := range row {
					row[x] += t[x]
				}
			}
		}
	}
}

// tileFor returns the smallest kernel with at least m rows.
func (v *variant) tileFor(m int) (rows int, kernel tileKernel) {
	i := 0
	for i+1 < len(v.tileRows) && v.tileRows[i+1] >= m {
		i++
	}
	return v.tileRows[i], v.tiles[i]
}

// dotProduct computes C = alpha*A*Bᵀ, plus C with add, for few rows of A: B is read once, as it lies. out is room for a
// kernel's sums.
func (v *variant) dotProduct(c, a, b Mat, alpha float32, add bool, out []float32) {
	k := a.Cols
	whole := k / v.dotLanes * v.dotLanes
	for j := 0; j < c.Cols; {
		n, ldb := 4, b.Stride*4
		if j+4 > c.Cols {
			n, ldb = 1, 0 // the last columns one by one: the kernel reads the same row four times
		}
		for i := 0; i < c.Rows; {
			x := 0
			for v.dotRows[x] > c.Rows-i {
				x++
			}
			rows := v.dotRows[x]
			if whole > 0 {
				v.dots[x](whole, &b.Data[j*b.Stride], ldb, &a.Data[i*a.Stride], a.Stride*4, &out[0])
			} else {
				clear(out[:4*rows])
			}
			for r := range rows {
				row := a.Row(i + r)
				for q := range n {
					sum := out[r*4+q]
					w := b.Row(j + q)
					for l := whole; l < k; l++ {
						sum += row[l] * w[l]
					}
					at := (i+r)*c.Stride + j + q
					if add {
						c.Data[at] += alpha * sum
					} else {
						c.Data[at] = alpha * sum
					}
				}
			}
			i += rows
		}
		j += n
	}
}
