package cpu

// product is a matrix product shared by the workers of a pool: for each block of the sum and of the columns of C they
// pack B together, then each computes whole blocks of C.
type product struct {
	c, a, b        Mat
	transA, transB bool
	add            bool // C holds a summand
	epilogue       Epilogue
	y              Mat // where the epilogue writes; C itself unless the epilogue needs both
	v              *variant

	// The block under way.
	l, kc, j, nc int
	first, last  bool // of the sum
	partCols     int  // columns of a part
	packed       []float32
}

type (
	packParts  product // packs a group of panels of B
	blockParts product // computes a block of C
	fewParts   product // computes columns of C, for few rows
)

const (
	productN  = 2048    // columns of B packed at once
	packGroup = 4       // panels of B that one part packs
	wantParts = 16      // parts that a product is cut in where it has room
	smallWork = 1 << 16 // multiplications too few to wake a worker for
)

// run computes C = op(A)*op(B), plus C with add, and y by the epilogue.
func (t *product) run(p *Pool) {
	m, n, k := t.c.Rows, t.c.Cols, t.steps()
	if m == 0 || n == 0 {
		return
	}
	v := active
	t.v = v
	if m <= fewM || k == 0 || m*n*k <= smallWork {
		t.partCols = max(v.nr, ceil(smallWork, m*max(k, 1)*v.nr)*v.nr)
		p.run((*fewParts)(t), ceil(n, t.partCols))
		return
	}
	rowParts := ceil(m, v.rowsPerBlock())
	for l := 0; l < k; l += t.kc {
		t.l, t.kc = l, blockOf(l, k)
		t.first, t.last = l == 0, l+t.kc == k
		for j := 0; j < n; j += productN {
			t.j, t.nc = j, min(productN, n-j)
			if need := panelFloats(t.nc, t.kc, v.nr); len(t.packed) < need {
				t.packed = make([]float32, need)
			}
			p.run((*packParts)(t), ceil(t.nc, packGroup*v.nr))
			panels := ceil(t.nc, v.nr)
			t.partCols = max(packGroup, ceil(panels, ceil(wantParts, rowParts))) * v.nr
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
	width := packGroup * t.v.nr
	from := i * width
	n := min(width, t.nc-from)
	t.v.packB.panels(t.packed[from*t.kc:], operand{t.b, t.transB}, t.j+from, n, t.l, t.kc)
}

func (t *blockParts) part(i int, s *scratch) {
	v := t.v
	colParts := ceil(t.nc, t.partCols)
	row, col := i/colParts*v.rowsPerBlock(), i%colParts*t.partCols
	m, n := min(v.rowsPerBlock(), t.c.Rows-row), min(t.partCols, t.nc-col)
	c := t.c.RowRange(row, row+m).Columns(t.j+col, t.j+col+n)
	add := t.add || !t.first
	if t.first {
		add = t.epilogue.start(c, row, t.j+col) || add
	}
	v.packRows(s.packA, operand{t.a, !t.transA}, row, m, t.l, t.kc, 1)
	v.block(c, s.packA, panelsOfB{data: t.packed[col*t.kc:], width: v.nr * t.kc, ld: v.nr * 4}, t.kc, add, s.tile)
	if t.last {
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
	gemm(c, t.a, b(from, to), t.transA, t.transB, 1, beta, s)
	t.epilogue.finish(t.y, c, 0, from, s)
}

func ceil(a, b int) int { return (a + b - 1) / b }
