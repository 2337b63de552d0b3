package cuda

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"
)

// Rival is a kernel of the program's own that makes a product as cuBLASLt does (product_wgmma.cuh), for matrices of 16 bits
// whose rows start at multiples of 16 bytes. Which of them makes it is measured. Its parameters are descriptions of A, B, D
// and of C or aux, the addresses of the bias and of the sums, and M. That of a product that quantises (product_quantize.cuh) takes descriptions of A, B, D and its
// transpose, the addresses of the other operands, and M.
type Rival struct {
	Kernel     Kernel
	Rows, Cols int // of the tiles of D
}

// rivalMark starts the algorithm that stands for a rival in the lock: then come its version, and its tile. A new version is one
// that gives other bits.
const (
	rivalMark    = 0x74_66_63_20_6f_77_6e_00 // "tfc own"
	rivalVersion = 2
)

func (r *Rival) algorithm() algorithm {
	return algorithm{rivalMark, rivalVersion, uint64(r.Rows), uint64(r.Cols)}
}

// rival returns the rival that an algorithm stands for, nil where it is one of cuBLASLt, and whether there is such a one.
func (p *Prepared) rival(a *algorithm) (r *Rival, ok bool) {
	if a[0] != rivalMark {
		return nil, true
	}
	for i := range p.rivals {
		if p.rivals[i].algorithm() == *a {
			return &p.rivals[i], true
		}
	}
	return nil, false
}

// owned says whether rivals alone make the product.
func (p *Product) owned() bool { return p.Own != OwnNone || p.Sums }

// takeRivals says whether rivals can make the product at all.
func (p *Prepared) takeRivals(rivals []Rival) error {
	q := &p.product
	if len(rivals) == 0 && q.owned() {
		return fmt.Errorf("it needs a kernel of the program's own, and there is none for %s: run tfc build again with the architecture of this GPU in target.arch", p.blas.ctx.device)
	}
	if len(rivals) == 0 {
		return nil
	}
	for _, ld := range []int{q.LDA, q.LDB, q.LDC, q.LDD, q.LDAux} {
		if ld%8 != 0 {
			return fmt.Errorf("a kernel of its own wants rows that start at multiples of 16 bytes, not of %d elements", ld)
		}
	}
	if q.TransA || q.A == F32 || q.D != q.A || q.Align < 16 {
		return errors.New("a kernel of its own takes 16 bits, A as it is, and addresses at multiples of 16 bytes")
	}
	if p.blas.ctx.drv.tensorMapEncodeTiled.address == 0 {
		if q.owned() {
			return errors.New("the driver has no cuTensorMapEncodeTiled: update it")
		}
		return nil // all is left to cuBLASLt
	}
	p.rivals = slices.Clone(rivals)
	return nil
}

// PrepareRival makes a product ready that the rival makes, whatever is faster.
func (b *BLAS) PrepareRival(product Product, r Rival) (*Prepared, error) {
	complete, err := product.complete()
	if err != nil {
		return nil, fmt.Errorf("product of %s: %w", product.About, err)
	}
	p := &Prepared{blas: b, product: complete, info: complete.info(), algorithm: r.algorithm(), origin: "asked for"}
	if err := p.takeRivals([]Rival{r}); err != nil {
		return nil, fmt.Errorf("%s: %w", &p.info, err)
	}
	if p.rivals == nil {
		return nil, fmt.Errorf("%s: the driver has no cuTensorMapEncodeTiled; update it", &p.info)
	}
	return p, nil
}

// Rows of what a warp of a rival stores, and of what is fetched for a warpgroup's end of a tile.
const (
	rivalStored = 16
	rivalRead   = 64
)

// tensorMap is CUtensorMap.
type tensorMap [16]uint64

// rivalArgs are the arguments of a rival, in pinned memory.
type rivalArgs struct {
	room      [5]tensorMap // of which maps are at multiples of 64 bytes
	params    [14]unsafe.Pointer
	addresses [9]Ptr
	rows      int32
	shape     mapShape
	steps     [5]uint32
}

// Numbers of the driver (CUtensorMapDataType, CUtensorMapSwizzle, CUtensorMapL2promotion).
const (
	mapBytes     = 0
	mapFloat16   = 6
	mapBFloat16  = 9
	mapSwizzle64 = 2 // of 64 bytes
	mapSwizzle   = 3 // of 128 bytes
	mapPromotion = 3 // to 256 bytes
)

// maps returns the first of four maps.
func (x *rivalArgs) maps() *[4]tensorMap {
	at := uintptr(unsafe.Pointer(&x.room))
	return (*[4]tensorMap)(unsafe.Add(unsafe.Pointer(&x.room), -at&63))
}

// mapShape is what a map describes: elements by their indices, the first of which are neighbours, bytes from one index of the others to the next, and how many of each a tile
// has.
type mapShape struct {
	rank    int
	sizes   [5]uint64
	strides [4]uint64
	tile    [5]uint32
}

// tiled is a matrix of 16 bits whose tiles have so many rows and 64 columns. In halves it is two of half as many columns, side by side, each with
// an edge of its own.
type tiled struct {
	at                   Ptr
	rows, cols, ld, tile int
	halves               bool
}

// shape is that of a matrix whose elements have so many bytes.
func (m tiled) shape(size int) mapShape {
	if m.halves {
		return halved(m.rows, m.cols/2, 2, m.ld, m.tile, size)
	}
	return mapShape{2, [5]uint64{uint64(m.cols), uint64(m.rows)}, [4]uint64{uint64(m.ld * size)}, [5]uint32{64, uint32(m.tile)}}
}

// halved is a matrix of parts of so many columns side by side, in tiles of 64 columns of one of them.
func halved(rows, cols, parts, ld, tile, size int) mapShape {
	return mapShape{3, [5]uint64{uint64(cols), uint64(parts), uint64(rows)}, [4]uint64{uint64(cols * size), uint64(ld * size)}, [5]uint32{64, 1, uint32(tile)}}
}

// Operands of product_quantize come in tiles of 128 bytes of a row, and of each 16 rows those first that an accumulator of a lane does not have beside
// another: interleavedRows, of A, by rows that are even, then odd, and interleavedColumns, of B, by two of each four.
func interleavedRows(rows, cols, ld, tile int) mapShape {
	n, k := uint64(ld), uint64(cols)
	return mapShape{4, [5]uint64{k, 8, 2, uint64(rows / 16)}, [4]uint64{2 * n, n, 16 * n}, [5]uint32{128, 8, 2, uint32(tile / 16)}}
}

func interleavedColumns(rows, cols, ld, tile int) mapShape {
	n, k := uint64(ld), uint64(cols)
	return mapShape{5, [5]uint64{k, 2, 4, 2, uint64(rows / 16)}, [4]uint64{n, 4 * n, 2 * n, 16 * n}, [5]uint32{128, 2, 4, 2, uint32(tile / 16)}}
}

// describe writes a map of what lies at an address.
func (s *Stream) describe(m *tensorMap, kind, swizzle uintptr, at Ptr, shape mapShape) error {
	x := &s.scratch.rival
	x.shape, x.steps = shape, [5]uint32{1, 1, 1, 1, 1}
	s.scratch.args = [16]uintptr{
		uintptr(unsafe.Pointer(m)), kind, uintptr(shape.rank), uintptr(at), uintptr(unsafe.Pointer(&x.shape.sizes)), uintptr(unsafe.Pointer(&x.shape.strides)),
		uintptr(unsafe.Pointer(&x.shape.tile)), uintptr(unsafe.Pointer(&x.steps)), 0, swizzle, mapPromotion, 0,
	}
	return s.call(&s.ctx.drv.tensorMapEncodeTiled, 12)
}

// multiplyBy puts a product on the stream that a rival makes. It allocates nothing.
func (s *Stream) multiplyBy(r *Rival, p *Prepared, o operands) {
	q, x := &p.product, &s.scratch.rival
	maps := x.maps()
	b := tiled{at: o.b, rows: q.K, cols: q.N, ld: q.LDB, tile: 64}
	if q.TransB {
		b = tiled{at: o.b, rows: q.N, cols: q.K, ld: q.LDB, tile: r.Cols}
		if q.Gated && q.Own != OwnTimes { // the gates' rows are one tile, those of up another
			b.tile = r.Cols / 2
		}
	}
	cols, auxCols := q.columns()
	d := tiled{at: o.d, rows: q.M, cols: cols, ld: q.LDD, tile: rivalStored, halves: q.Gated && q.Own == OwnTimes}
	other := d // not looked at
	switch {
	case q.Own == OwnTimes:
		other = tiled{at: o.aux, rows: q.M, cols: auxCols, ld: q.LDAux, tile: rivalRead, halves: q.Gated}
	case q.aux():
		other = tiled{at: o.aux, rows: q.M, cols: auxCols, ld: q.LDAux, tile: rivalStored, halves: q.Gated}
	case q.Beta != 0:
		other.at, other.ld, other.tile = o.c, q.LDC, rivalRead
	}
	kind := uintptr(mapFloat16)
	if q.A == BF16 {
		kind = mapBFloat16
	}
	for i, m := range [...]tiled{{at: o.a, rows: q.M, cols: q.K, ld: q.LDA, tile: r.Rows}, b, d, other} {
		if err := s.describe(&maps[i], kind, mapSwizzle, m.at, m.shape(q.A.Size())); err != nil { // all have the type of A
			s.err = s.blame(err, p.info.String())
			return
		}
	}
	x.addresses = [9]Ptr{o.bias, o.sums}
	s.launchRival(r, q, 2)
}

// quantizeBy puts a product on the stream that a rival makes and that quantises. It allocates nothing.
func (s *Stream) quantizeBy(r *Rival, p *Prepared, o operands) {
	q, x := &p.product, &s.scratch.rival
	maps := x.maps()
	columns, _ := q.columns()
	parts, tile := 1, r.Cols // of D side by side, and of B's rows
	if q.Gated && q.Own == OwnTimes {
		parts = 2
	} else if q.Gated { // the gates' rows are one tile, those of up another
		tile /= 2
	}
	half := columns / parts
	rows := uint64(q.M)
	turned := mapShape{3, [5]uint64{rows, uint64(half), uint64(parts)}, [4]uint64{rows, rows * uint64(half)}, [5]uint32{128, rivalStored, 1}}
	for i, m := range [...]struct {
		at      Ptr
		swizzle uintptr
		shape   mapShape
	}{
		{o.a, mapSwizzle, interleavedRows(q.M, q.K, q.LDA, r.Rows)},
		{o.b, mapSwizzle, interleavedColumns(q.N, q.K, q.LDB, tile)},
		{o.d, mapSwizzle64, halved(q.M, half, parts, q.LDD, rivalStored, 1)},
		{o.quantized.Transposed, mapSwizzle, turned},
	} {
		if err := s.describe(&maps[i], mapBytes, m.swizzle, m.at, m.shape); err != nil {
			s.err = s.blame(err, p.info.String())
			return
		}
	}
	n := o.quantized
	x.addresses = [9]Ptr{o.bias, o.aux, o.scaleA, o.scaleB, n.Scale, o.sums, n.History, n.Amax, n.Top}
	s.launchRival(r, q, 9)
}

// launchRival launches a rival whose maps and addresses are there, so many of these.
func (s *Stream) launchRival(r *Rival, q *Product, addresses int) {
	x := &s.scratch.rival
	maps := x.maps()
	for i := range maps {
		x.params[i] = unsafe.Pointer(&maps[i])
	}
	n := len(maps)
	for i := range addresses {
		x.params[n+i] = unsafe.Pointer(&x.addresses[i])
	}
	n += addresses
	x.rows = int32(q.M)
	x.params[n] = unsafe.Pointer(&x.rows)
	tiles := (q.M + r.Rows - 1) / r.Rows * ((q.N + r.Cols - 1) / r.Cols)
	blocks := min(tiles, s.ctx.device.SMs)
	if err := s.checkLaunch(r.Kernel, blocks, 1, 1, n+1); err != nil {
		s.err = err
		return
	}
	s.launch(r.Kernel, blocks, 1, 1, uintptr(unsafe.Pointer(&x.params)))
}
