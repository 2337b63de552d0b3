package cpu

// Products of many rows with weights in bf16, on machines without instructions for bf16: there a kernel that widens weights and
// activations as it multiplies spends most of its time on that. A block of weights has the order of a panel of the f32 product,
// so it is widened once for all rows of a part, and the tiles of that product take it from there.

// A wideTiling says how.
type wideTiling struct {
	*tiling // with tiles of narrowLanes columns, and factors rounded to bf16

	// widen writes so many pairs of columns of a block as floats, column after column.
	widen func(pairs int, w *byte, dst *float32)
}

const (
	wideRows   = 16 // rows of x from which on widening pays
	wideBlocks = 8  // blocks of weights in a part
)

type (
	widePrepare narrowProduct // packs rows of x
	widePart    narrowProduct // computes some blocks of columns for a block of rows
)

// runWide computes the product by t.v.wide.
func (t *narrowProduct) runWide(p *Pool) {
	wide := t.v.wide
	t.packed = room(t.packed, ceil(t.x.Rows, wide.mr)*wide.mr*t.x.Cols)
	t.rows, t.blocks = wide.rowsPerBlock(), wideBlocks
	rowParts := ceil(t.x.Rows, t.rows)
	p.run((*widePrepare)(t), rowParts)
	p.run((*widePart)(t), ceil(ceil(t.y.Cols, narrowLanes), t.blocks)*rowParts)
}

// room returns n floats, those of buf where it has as many.
func room(buf []float32, n int) []float32 {
	if len(buf) < n {
		return Floats(n)
	}
	return buf
}

// wideRowsAt returns where the packed rows from row r on start, and how many they are, with those that fill up the last panel.
func (t *narrowProduct) wideRowsAt(r int) (packed []float32, rows, padded int) {
	rows = min(t.rows, t.x.Rows-r)
	return t.packed[r*t.x.Cols:], rows, ceil(rows, t.v.wide.mr) * t.v.wide.mr
}

func (k *widePrepare) part(i int, _ *scratch) {
	t := (*narrowProduct)(k)
	r := i * t.rows
	packed, rows, padded := t.wideRowsAt(r)
	for l := 0; l < t.x.Cols; {
		n := t.v.wide.blockOf(l, t.x.Cols)
		t.v.wide.packA.panels(packed[padded*l:], operand{t.x, true}, r, rows, l, n)
		l += n
	}
}

func (k *widePart) part(i int, s *scratch) {
	t, wide := (*narrowProduct)(k), k.v.wide
	columns := ceil(ceil(t.y.Cols, narrowLanes), t.blocks)
	first, r := i%columns*t.blocks, i/columns*t.rows
	packed, rows, padded := t.wideRowsAt(r)
	blocks := min(t.blocks, ceil(t.y.Cols, narrowLanes)-first)
	width := blocks * narrowLanes
	buf := s.floats(padded*width + maxBlockK*narrowLanes)
	sums, panel := buf[:padded*width], buf[padded*width:]
	for l := 0; l < t.x.Cols; {
		n := wide.blockOf(l, t.x.Cols)
		for b := range blocks {
			wide.widen(ceil(n, 2), &t.w.codes[(first+b)*t.w.blockBytes()+l*2*narrowLanes], &panel[0])
			for at := 0; at < rows; at += wide.mr {
				_, kernel := wide.tileFor(min(wide.mr, rows-at))
				kernel(n, &packed[padded*l+at*n], &panel[0], narrowLanes*4, &sums[at*width+b*narrowLanes], width*4, l > 0)
			}
		}
		l += n
	}
	col := first * narrowLanes
	for j := range rows {
		t.epilogue.after(t.y, r+j, col, sums[j*width:][:min(width, t.y.Cols-col)])
	}
}
