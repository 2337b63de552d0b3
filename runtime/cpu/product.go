package cpu

// product is a matrix product shared by the workers of a pool: for each piece of B, they pack it together, then each
// computes whole blocks of C.
type product struct {
	c, a, b        Mat
	transA, transB bool
	weights        *Narrow // of bf16, in the place of b; nil: none
	add            bool    // C holds a summand
	epilogue       Epilogue
	y              Mat // where the epilogue writes; C itself unless the epilogue needs both
	t              *tiling

	// The piece under way: steps l to l+kc of the sum, a block, and columns j to j+nc.
	l, kc, j, nc int
	packed       []float32 // as packer.panels leaves it
	packPanels   int       // panels that one part packs
	piece        uint64    // counts pieces: rows of A that a worker has packed serve for the parts of one

	partRows, partCols int // of C in a part
}

type (
	packParts  product // packs a few panels of B
	blockParts product // computes a block of C
	fewParts   product // computes columns of C, for few rows
)

const (
	productN   = 2048    // columns of B packed at once
	packFloats = 1 << 13 // that one part packs at least
	packCols   = 128     // columns that one part packs at least of rows that run across the panels: whole stretches of memory
	minPanels  = 2       // columns of a part at least, in panels
	wantParts  = 48      // parts that a product is cut in where it has room: what the last part keeps others waiting for is small
	smallWork  = 1 << 16 // multiplications too few to wake a worker for
)

// run computes C = op(A)*op(B), plus C with add, and y by the epilogue.
func (t *product) run(p *Pool) {
	m, n, k := t.c.Rows, t.c.Cols, t.steps()
	if m == 0 || n == 0 {
		return
	}
	v := p.tiling()
	if t.weights != nil {
		v = active.bf16
	}
	t.t = v
	if m <= fewM || k == 0 || m*n*k <= smallWork {
		t.partCols = max(v.nr, ceil(smallWork, m*max(k, 1)*v.nr)*v.nr)
		p.run((*fewParts)(t), ceil(n, t.partCols))
		return
	}
	most := v.steps(v.blockOf(0, k)) // steps of the panels of a block
	t.packPanels = ceil(packFloats, v.nr*most)
	if !t.transB {
		t.packPanels = max(t.packPanels, ceil(packCols, v.nr))
	}
	nc := min(productN, n)
	if need := v.packed(nc, v.blockOf(0, k)); len(t.packed) < need {
		t.packed = Floats(need)
	}
	rowParts := max(ceil(m, v.partRows), min(ceil(wantParts, ceil(nc, minPanels*v.nr)), m/v.mr))
	t.partRows = ceil(m, rowParts*v.mr) * v.mr // about as many in each
	rowParts = ceil(m, t.partRows)
	for t.l = 0; t.l < k; t.l += t.kc {
		t.kc = v.blockOf(t.l, k)
		for t.j = 0; t.j < n; t.j += nc {
			t.nc = min(nc, n-t.j)
			t.piece++
			panels := ceil(t.nc, v.nr)
			p.run((*packParts)(t), ceil(panels, t.packPanels))
			t.partCols = max(minPanels, ceil(panels, ceil(wantParts, rowParts))) * v.nr
			p.run((*blockParts)(t), rowParts*ceil(t.nc, t.partCols))
		}
	}
}

// steps returns the length of the sum.
func (t *product) steps() int {
	if t.transA {
		return t.a.Rows
	}
	return t.a.Cols
}

func (t *packParts) part(i int, _ *scratch) {
	width := t.packPanels * t.t.nr
	from := i * width
	to, j, n := t.packed[from*t.t.steps(t.kc):], t.j+from, min(width, t.nc-from)
	if t.weights != nil {
		t.t.packWeights(to, t.weights, j, n, t.l, t.kc)
		return
	}
	t.t.packB.panels(to, operand{t.b, t.transB}, j, n, t.l, t.kc)
}

func (t *blockParts) part(i int, s *scratch) {
	v, steps := t.t, t.t.steps(t.kc)
	colParts := ceil(t.nc, t.partCols)
	row, col := i/colParts*t.partRows, i%colParts*t.partCols
	m, n := min(t.partRows, t.c.Rows-row), min(t.partCols, t.nc-col)
	c := t.c.RowRange(row, row+m).Columns(t.j+col, t.j+col+n)
	add := t.add || t.l > 0
	if t.l == 0 {
		add = t.epilogue.start(c, row, t.j+col) || add
	}
	a, isPacked := s.rowsOf(t.piece, row, ceil(m, v.mr)*v.mr*steps)
	if !isPacked {
		v.packA.panels(a, operand{t.a, !t.transA}, row, m, t.l, t.kc)
	}
	v.block(c, a, panelsOfB{data: t.packed[col*steps:], width: v.nr * steps, ld: v.nr * 4}, steps, add, s.tile)
	if t.l+t.kc == (*product)(t).steps() {
		t.epilogue.finish(t.y, c, row, t.j+col, s)
	}
}

func (t *fewParts) part(i int, s *scratch) {
	from := i * t.partCols
	to := min(from+t.partCols, t.c.Cols)
	c := t.c.Columns(from, to)
	b := t.b.Columns
	if t.transB {
		b = t.b.RowRange
	}
	var beta float32
	if t.epilogue.start(c, 0, from) || t.add {
		beta = 1
	}
	if !t.transA && t.transB && active.stream != nil && (c.Rows <= fewM || !t.t.converts()) {
		active.streamProduct(c, t.a, b(from, to), beta != 0, s.tile)
	} else {
		t.t.gemm(c, t.a, b(from, to), t.transA, t.transB, beta, s)
	}
	t.epilogue.finish(t.y, c, 0, from, s)
}

func ceil(a, b int) int { return (a + b - 1) / b }
