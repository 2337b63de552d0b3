package cpu

// Matrix products. C is cut into tiles of mr × nr that a kernel keeps in registers while it runs along the sum; the
// factors are packed in panels in the order the kernel reads them, in blocks that fit the caches (the scheme of Goto
// and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). An element of C is the sum of its
// blocks of k in rising order, and each block is summed step by step: the order depends on k alone.

const (
	maxBlockK = 512 // steps of a panel in a block, of every tiling
	blockN    = 512 // columns of B that gemm packs at once
	fewM      = 8   // up to this many rows B is read once and not packed
)

// blockOf returns the size of the block of the sum that starts at l: k cut in equal blocks of at most t.blockK steps of a panel.
func (t *tiling) blockOf(l, k int) int {
	blocks := ceil(k, t.blockK*t.pair)
	unit := max(16, t.pair*t.group)
	return min(ceil(ceil(k, blocks), unit)*unit, k-l)
}

// rowsPerBlock is the number of rows of A packed at once: a few tiles, so that a product has many parts.
func (t *tiling) rowsPerBlock() int { return ceil(64, t.mr) * t.mr }

// gemm computes C = op(A)*op(B) + beta*C on the calling goroutine, where op transposes where asked. With beta 0, C is not read.
func (t *tiling) gemm(c, a, b Mat, transA, transB bool, beta float32, s *scratch) {
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
	if c.Rows <= fewM && !transA && transB && active.dotLanes > 0 {
		active.dotProduct(c, a, b, beta != 0, s.tile)
		return
	}
	ao, bo := operand{a, !transA}, operand{b, transB}
	for l := 0; l < k; {
		kc := t.blockOf(l, k)
		add := beta != 0 || l > 0
		for j := 0; j < c.Cols; j += blockN {
			nc := min(blockN, c.Cols-j)
			var panels panelsOfB
			if c.Rows <= fewM && !transB && !t.converts() {
				panels = t.directB(bo, j, nc, l, kc, s.packB)
			} else {
				panels = t.packedB(bo, j, nc, l, kc, s.packB)
			}
			for i := 0; i < c.Rows; i += t.rowsPerBlock() {
				mc := min(t.rowsPerBlock(), c.Rows-i)
				t.packA.panels(s.packA, ao, i, mc, l, kc)
				t.block(c.RowRange(i, i+mc).Columns(j, j+nc), s.packA, panels, t.steps(kc), add, s.tile)
			}
		}
		l += kc
	}
}

// converts says whether packing changes elements, so that factors cannot be read where they lie.
func (t *tiling) converts() bool { return t.pair > 1 || t.packB.round }

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

// panelsOfB is where a block finds its panels of B: full ones where they lie, at most one packed.
type panelsOfB struct {
	data  []float32
	width int       // floats from one panel to the next
	ld    int       // bytes from one step to the next
	edge  []float32 // the last panel, packed, where it is not as wide as the others
}

func (t *tiling) packedB(b operand, j, n, l, k int, buf []float32) panelsOfB {
	t.packB.panels(buf, b, j, n, l, k)
	return panelsOfB{data: buf, width: t.nr * t.steps(k), ld: t.nr * 4}
}

// directB reads full panels from B itself, whose rows run along C's columns, and packs the edge alone.
func (t *tiling) directB(b operand, j, n, l, k int, buf []float32) panelsOfB {
	p := panelsOfB{data: b.mat.Data[b.at(j, l):], width: t.nr, ld: b.mat.Stride * 4}
	if edge := n % t.nr; edge != 0 {
		t.packB.panel(buf, b, j+n-edge, edge, l, k)
		p.edge = buf
	}
	return p
}

// panelRange views packed panels of so many steps from step l on, an even one, and from column j on, a multiple of nr.
func (t *tiling) panelRange(packed []float32, steps, j, l int) panelsOfB {
	return panelsOfB{data: packed[j*t.steps(steps)+t.steps(l)*t.nr:], width: t.nr * t.steps(steps), ld: t.nr * 4}
}

// times computes C = A·B + beta*C, beta 0 or 1, on the calling goroutine, for a B that is packed: over k steps, with all their panels.
func (t *tiling) times(c Mat, a operand, b panelsOfB, k int, beta float32, s *scratch) {
	for l := 0; l < k; {
		kc := t.blockOf(l, k)
		part := b
		part.data = b.data[t.steps(l)*t.nr:]
		for i := 0; i < c.Rows; i += t.rowsPerBlock() {
			mc := min(t.rowsPerBlock(), c.Rows-i)
			t.packA.panels(s.packA, a, i, mc, l, kc)
			t.block(c.RowRange(i, i+mc), s.packA, part, t.steps(kc), beta != 0 || l > 0, s.tile)
		}
		l += kc
	}
}

// block computes c from packed rows of A and panels of B, over k steps of the panels. tile is room for one tile.
func (t *tiling) block(c Mat, a []float32, b panelsOfB, k int, add bool, tile []float32) {
	ldc := c.Stride * 4
	for j := 0; j < c.Cols; j += t.nr {
		n := min(t.nr, c.Cols-j)
		var panel *float32
		ldb := b.ld
		if n < t.nr && b.edge != nil {
			panel, ldb = &b.edge[0], t.nr*4
		} else {
			panel = &b.data[j/t.nr*b.width]
		}
		first := 0
		if t.column != nil && n == t.nr && c.Rows >= t.mr {
			first = c.Rows / t.mr * t.mr
			t.column(first/t.mr, k, &a[0], panel, ldb, &c.Data[j], ldc, add)
		}
		for i := first; i < c.Rows; i += t.mr {
			m := min(t.mr, c.Rows-i)
			rows, kernel := t.tileFor(m)
			at := i*c.Stride + j
			if rows == m && n == t.nr {
				kernel(k, &a[i*k], panel, ldb, &c.Data[at], ldc, add)
				continue
			}
			kernel(k, &a[i*k], panel, ldb, &tile[0], t.nr*4, false)
			for r := range m {
				row, from := c.Data[at+r*c.Stride:][:n], tile[r*t.nr:][:n]
				if !add {
					copy(row, from)
					continue
				}
				for x := range row {
					row[x] += from[x]
				}
			}
		}
	}
}

// tileFor returns the smallest kernel with at least m rows.
func (t *tiling) tileFor(m int) (rows int, kernel tileKernel) {
	i := 0
	for i+1 < len(t.tileRows) && t.tileRows[i+1] >= m {
		i++
	}
	return t.tileRows[i], t.tiles[i]
}

// dotProduct computes C = A*Bᵀ, plus C with add, for few rows of A: B is read once, as it lies. out is room for a
// kernel's sums.
func (v *variant) dotProduct(c, a, b Mat, add bool, out []float32) {
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
						c.Data[at] += sum
					} else {
						c.Data[at] = sum
					}
				}
			}
			i += rows
		}
		j += n
	}
}
