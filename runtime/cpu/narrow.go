package cpu

import (
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// WeightType is how the weights of a Narrow matrix are stored. Package quant defines the numbers.
type WeightType uint8

// The types. Those of few bits have a scale in bf16 for each quant.Group weights along a row: 8.5 and 4.5 bits a weight.
const (
	BF16 WeightType = iota
	Int8
	Int4
	weightTypes = iota
)

func (t WeightType) String() string { return [...]string{"bf16", "int8", "int4"}[t] }

// Narrow is a matrix of weights [Rows, Cols] in fewer bits, as generation reads them. It does not change.
//
// Sixteen rows are a block. In it, the weights of a step lie side by side, 64 bytes for all rows: of bf16 two columns of each
// row; of int8 four, each code plus 128; of int4 eight, each code plus 8, column c and column c+16 of a group in one byte. So
// a kernel reads memory straight on, and has a row in each lane of a register. Rows and columns that fill up the last block
// and the last group are 0.
type Narrow struct {
	Rows, Cols int
	Type       WeightType
	codes      []byte
	scales     []uint16 // of int8 and int4: [block][group][row]
}

const narrowLanes = 16 // rows in a block

// padded is the number of columns with those that fill up the last group.
func (w *Narrow) padded() int { return ceil(w.Cols, quant.Group) * quant.Group }

// blockBytes is the size of a block's codes.
func (w *Narrow) blockBytes() int { return w.padded() * narrowLanes * 2 >> w.Type }

// blockScales is the number of a block's scales.
func (w *Narrow) blockScales() int {
	if w.Type == BF16 {
		return 0
	}
	return w.padded() / quant.Group * narrowLanes
}

// steps is how many steps the kernels of the type take along a row: pairs of columns, or groups.
func (w *Narrow) steps() int {
	if w.Type == BF16 {
		return w.padded() / 2
	}
	return w.padded() / quant.Group
}

// Bytes is the memory that the weights take.
func (w *Narrow) Bytes() int { return len(w.codes) + 2*len(w.scales) }

// NewNarrow stores weights w in a type of fewer bits, in a stretch of m.
func NewNarrow(p *Pool, m *Memory, t WeightType, w Mat) Narrow {
	n := Narrow{Rows: w.Rows, Cols: w.Cols, Type: t}
	blocks := ceil(w.Rows, narrowLanes)
	n.codes = m.take(blocks * n.blockBytes())
	if n.blockScales() > 0 {
		scales := m.take(2 * blocks * n.blockScales())
		n.scales = unsafe.Slice((*uint16)(unsafe.Pointer(&scales[0])), len(scales)/2)
	}
	p.narrowing = narrowing{n, w}
	p.run(&p.narrowing, blocks)
	p.narrowing = narrowing{}
	return n
}

// narrowing stores weights, a block a part.
type narrowing struct {
	to   Narrow
	from Mat
}

func (k *narrowing) part(i int, s *scratch) {
	n, v := &k.to, fastestNarrow(k.to.Type)
	width, groups := n.padded(), n.padded()/quant.Group
	buf := s.floats(2*width + groups)
	row, coded, scales := buf[:width], buf[width:][:width], unsafe.Slice((*uint16)(unsafe.Pointer(&buf[2*width])), groups)
	block := unsafe.Slice((*uint32)(unsafe.Pointer(&n.codes[i*n.blockBytes()])), n.blockBytes()/4)
	words := unsafe.Slice((*uint32)(unsafe.Pointer(&coded[0])), width)
	codes := unsafe.Slice((*int8)(unsafe.Pointer(&coded[0])), width)
	for r := range narrowLanes {
		clear(row)
		if at := i*narrowLanes + r; at < k.from.Rows {
			copy(row, k.from.Row(at))
		}
		if n.Type == BF16 {
			v.toBF16((*uint16)(unsafe.Pointer(&words[0])), &row[0], width)
			for c, w := range words[:width/2] {
				block[c*narrowLanes+r] = w
			}
			continue
		}
		if n.Type == Int8 {
			v.encode(groups, &row[0], &codes[0], &scales[0], 127, -127, 127, false)
		} else {
			v.encode(groups, &row[0], &codes[0], &scales[0], -8, -8, 7, true)
		}
		for g, scale := range scales {
			if f := quant.FromBF16(scale); f != f {
				for c := range quant.Group {
					codes[g*quant.Group+c] = 1
				}
			}
			n.scales[i*n.blockScales()+g*narrowLanes+r] = scale
		}
		if n.Type == Int8 {
			for q, w := range words[:width/4] {
				block[q*narrowLanes+r] = w ^ 0x80808080
			}
			continue
		}
		for g := range groups {
			for q, w := range words[g*8:][:4] { // a code is its low four bits, from -8 to 7
				low, high := w&0x0f0f0f0f^0x08080808, words[g*8+q+4]&0x0f0f0f0f^0x08080808
				block[(g*4+q)*narrowLanes+r] = low | high<<4
			}
		}
	}
}

// row writes row r as numbers, scaled.
func (w *Narrow) row(dst []float32, r int, scale float32) {
	codes := w.codes[r/narrowLanes*w.blockBytes()+r%narrowLanes*4:]
	if w.Type == BF16 {
		for c := range dst {
			at := c/2*64 + c%2*2
			dst[c] = scale * quant.FromBF16(uint16(codes[at])|uint16(codes[at+1])<<8)
		}
		return
	}
	scales := w.scales[r/narrowLanes*w.blockScales()+r%narrowLanes:]
	for c := range dst {
		g, i := c/quant.Group, c%quant.Group
		var code int
		if w.Type == Int8 {
			code = int(codes[g*quant.Group*narrowLanes+i/4*64+i%4]) - 128
		} else {
			b := codes[g*quant.Group/2*narrowLanes+i%16/4*64+i%4]
			code = int(b>>(i/16*4)&15) - 8
		}
		dst[c] = scale * (float32(code) * quant.FromBF16(scales[g*narrowLanes]))
	}
}

// EmbedNarrow is Embed for a table in a narrow type.
func EmbedNarrow(p *Pool, y Mat, table *Narrow, ids []int32, scale float32) {
	p.note(embedNames[table.Type], cost{bytes: moved(y) + float64(y.Rows)*float64(table.Bytes())/float64(max(1, table.Rows))})
	p.narrowRows = narrowRows{y, table, ids, scale}
	p.run(&p.narrowRows, y.Rows)
}

type narrowRows struct {
	y     Mat
	table *Narrow
	ids   []int32
	scale float32
}

func (k *narrowRows) part(i int, _ *scratch) { k.table.row(k.y.Row(i), int(k.ids[i]), k.scale) }

// A narrowKernel computes, for a fixed number of rows of x, blocks of 16 columns of x·wᵀ over all steps, and writes them to
// out, whose rows are ldo bytes apart.
type narrowKernel func(blocks, steps int, w *byte, scales *uint16, x, meta *byte, out *float32, ldo int)

// A narrowVariant is one implementation of the kernels, for one instruction set. All give the same bits for int8 and int4:
// the codes' products are whole numbers, and the groups' are added in order, each by one fused multiply-add.
type narrowVariant struct {
	name     string
	rows     [weightTypes][]int // of x, descending powers of two, 1 last
	kernels  [weightTypes][]narrowKernel
	quantise func(groups int, src *float32, codes *int8, ldc int, meta *byte, ldm int, shift int32)
	toBF16   func(dst *uint16, src *float32, n int) // n: a multiple of 16
	encode   func(groups int, src *float32, codes *int8, scales *uint16, divisor, low, high float32, signed bool)
}

// plainNarrow is the variant for every machine.
var plainNarrow = &narrowVariant{
	name:     "go",
	rows:     [weightTypes][]int{{1}, {1}, {1}},
	kernels:  [weightTypes][]narrowKernel{{narrowBF16x1}, {narrowInt8x1}, {narrowInt4x1}},
	quantise: quantise,
	toBF16:   toBF16,
	encode:   encode,
}

// narrowX is the rows of x as a kernel reads them: tile by tile of so many rows as a kernel takes, and in a tile step by
// step, for each row in turn 4 bytes (a pair of bf16) or 32 (a group of codes). meta has for each group and row its scale,
// and what the integer sum starts at to make up for what is added to the codes of the weights.
type narrowX struct {
	x, meta []byte
}

// narrowProduct is a product with narrow weights.
type narrowProduct struct {
	y, x     Mat
	w        *Narrow
	epilogue Epilogue
	v        *narrowVariant
	narrowX
	blocks, rows int // of w, and of x, in a part
}

type (
	narrowPrepare narrowProduct // makes the activations of maxNarrowRows rows
	narrowPart    narrowProduct // computes blocks of columns for some rows
)

const (
	maxNarrowRows  = 8       // rows of x in the largest tile
	narrowRowsPart = 64      // rows of x in a part
	narrowBytes    = 1 << 15 // of weights in a part, about: some microseconds from memory
	maxNarrowCols  = 512     // columns in a part: its tile of sums stays in the first-level cache
)

// The kernels' names in a profile.
var (
	linearNames = [weightTypes]string{"LinearNarrow bf16", "LinearNarrow int8", "LinearNarrow int4"}
	embedNames  = [weightTypes]string{"EmbedNarrow bf16", "EmbedNarrow int8", "EmbedNarrow int4"}
)

// LinearNarrow computes y = act(x̂·wᵀ + bias) + residual as Linear does, for weights in a narrow type. x̂ is x as it meets
// them: rounded to bf16, or coded in 8 bits with a scale for each quant.Group elements.
func LinearNarrow(p *Pool, y, x Mat, w *Narrow, e Epilogue) {
	t := &p.narrow
	t.y, t.x, t.w, t.epilogue, t.v = y, x, w, e, fastestNarrow(w.Type)
	if y.Rows == 0 || y.Cols == 0 {
		return
	}
	p.note(linearNames[w.Type], cost{
		bytes: float64(w.Bytes()) + moved(x, y, e.Pre, e.Residual), flops: 2 * float64(y.Rows) * float64(w.Rows) * float64(w.Cols),
		product: [3]int{y.Rows, w.Rows, w.Cols}, in: w.Type.String(),
	})
	if w.Type == BF16 && x.Rows >= productRows {
		p.product.runNarrow(p, y, x, w, e)
		return
	}
	elem, groups := 1, w.padded()/quant.Group
	if w.Type == BF16 {
		elem, groups = 2, 0
	}
	t.narrowX.x = grown(t.narrowX.x, y.Rows*w.padded()*elem)
	t.meta = grown(t.meta, max(1, y.Rows*groups*8))
	p.run((*narrowPrepare)(t), ceil(y.Rows, maxNarrowRows))
	t.blocks = max(1, min(maxNarrowCols/narrowLanes, narrowBytes/max(1, w.blockBytes())))
	t.rows = min(y.Rows, narrowRowsPart)
	p.run((*narrowPart)(t), ceil(ceil(y.Cols, narrowLanes), t.blocks)*ceil(y.Rows, t.rows))
}

// grown returns n bytes, those of buf where it has as many.
func grown(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	return buf[:n]
}

// tile returns the rows of the tile that starts at row r of x, and its kernel.
func (t *narrowProduct) tile(r int) (int, narrowKernel) {
	i := 0
	for t.v.rows[t.w.Type][i] > t.x.Rows-r {
		i++
	}
	return t.v.rows[t.w.Type][i], t.v.kernels[t.w.Type][i]
}

// at returns where the activations of a tile start, and its meta.
func (t *narrowProduct) at(r int) (x, meta []byte) {
	n := t.w.padded()
	if t.w.Type == BF16 {
		return t.narrowX.x[r*n*2:], t.meta
	}
	return t.narrowX.x[r*n:], t.meta[r*n/quant.Group*8:]
}

func (k *narrowPrepare) part(i int, s *scratch) {
	t := (*narrowProduct)(k)
	for r := i * maxNarrowRows; r < min((i+1)*maxNarrowRows, t.x.Rows); {
		rows, _ := t.tile(r)
		x, meta := t.at(r)
		for j := range rows {
			if t.w.Type == BF16 {
				t.round(x, t.x.Row(r+j), rows, j, s)
			} else {
				t.code(x[j*quant.Group:], meta[j*8:], t.x.Row(r+j), rows, s)
			}
		}
		r += rows
	}
}

// code writes a row of activations in 8 bits, for a tile of so many rows.
func (t *narrowProduct) code(x, meta []byte, row []float32, rows int, s *scratch) {
	shift := int32(128)
	if t.w.Type == Int4 {
		shift = 8
	}
	whole := len(row) / quant.Group
	if whole > 0 {
		t.v.quantise(whole, &row[0], (*int8)(unsafe.Pointer(&x[0])), rows*quant.Group, &meta[0], rows*8, shift)
	}
	if rest := row[whole*quant.Group:]; len(rest) > 0 {
		last := s.floats(quant.Group)
		clear(last)
		copy(last, rest)
		t.v.quantise(1, &last[0], (*int8)(unsafe.Pointer(&x[whole*rows*quant.Group])), 0, &meta[whole*rows*8], 0, shift)
	}
}

// round writes row j of a tile of activations in bf16.
func (t *narrowProduct) round(x []byte, row []float32, rows, j int, s *scratch) {
	n := t.w.padded()
	pairs := unsafe.Slice((*uint32)(unsafe.Pointer(&x[0])), rows*n/2)
	to := pairs
	if rows > 1 {
		to = unsafe.Slice((*uint32)(unsafe.Pointer(&s.floats(n / 2)[0])), n/2)
	}
	whole := len(row) &^ (rowStep - 1)
	if whole > 0 {
		t.v.toBF16((*uint16)(unsafe.Pointer(&to[0])), &row[0], whole)
	}
	clear(to[whole/2 : n/2])
	for c := whole; c < len(row); c++ {
		to[c/2] |= uint32(quant.BF16(row[c])) << (c % 2 * 16)
	}
	if rows > 1 {
		for c, v := range to[:n/2] {
			pairs[c*rows+j] = v
		}
	}
}

func (k *narrowPart) part(i int, s *scratch) {
	t := (*narrowProduct)(k)
	w := t.w
	columns := ceil(ceil(t.y.Cols, narrowLanes), t.blocks)
	block, first := i%columns*t.blocks, i/columns*t.rows
	blocks := min(t.blocks, ceil(t.y.Cols, narrowLanes)-block)
	width := blocks * narrowLanes
	col := block * narrowLanes
	n := min(width, t.y.Cols-col)
	codes := &w.codes[block*w.blockBytes()]
	var scales *uint16
	if w.Type != BF16 {
		scales = &w.scales[block*w.blockScales()]
	}
	sums := s.floats(maxNarrowRows * width)
	for r := first; r < min(first+t.rows, t.x.Rows); {
		rows, kernel := t.tile(r)
		x, meta := t.at(r)
		kernel(blocks, w.steps(), codes, scales, &x[0], &meta[0], &sums[0], width*4)
		for j := range rows {
			t.epilogue.after(t.y, r+j, col, sums[j*width:][:n])
		}
		r += rows
	}
}

// after writes a stretch of row r of y from its sums, from column col on. y may hold the residual.
func (e *Epilogue) after(y Mat, r, col int, sums []float32) {
	if e.Bias != nil {
		addTo(sums, sums, e.Bias[col:])
	}
	if e.Act != None {
		if e.Pre.Data != nil {
			copy(e.Pre.Row(r)[col:], sums)
		}
		apply(e.Act, sums, sums)
	}
	to := y.Row(r)[col:][:len(sums)]
	if e.Residual.Data != nil {
		addTo(to, sums, e.Residual.Row(r)[col:])
	} else {
		copy(to, sums)
	}
}
