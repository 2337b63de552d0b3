package cpu

// A tiling is a way to multiply matrices: the shape of a tile, the kernels that compute one, and how their factors are packed.
type tiling struct {
	mr, nr int // rows and columns of a tile
	pair   int // steps of the sum in a step of a panel: 1, or 2 where an element of a panel is a pair in bf16

	tileRows []int // descending, mr first: the row counts that have a kernel
	tiles    []tileKernel

	packA, packB packer
}

// A tileKernel adds or stores a tile of C: rows × nr floats whose k steps read one row of nr elements of b, ldb bytes
// apart, and rows elements of a, packed mr to a step. ldc counts bytes; with add the old C is added at the end.
type tileKernel func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)

// A packer packs panels of one width: see panel.
type packer struct {
	width int
	pair  int  // as in tiling
	round bool // the elements are rounded to bf16, and stay floats

	// transpose packs lanes elements from up to so many rows that run along the sum, groups blocks of block steps of the panel;
	// nil: none.
	transpose    func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)
	lanes, block int

	// copy packs width elements from rows that run across the panel, for k steps of the panel; nil: none.
	copy func(k int, src *float32, ld int, dst *float32)
}

// A dotKernel computes out[r*4+j] = x[r]·w[j] for a fixed number of rows of x and four rows of w.
type dotKernel func(k int, w *float32, ldw int, x *float32, ldx int, out *float32)

// A variant is one implementation of the kernels, for one instruction set.
type variant struct {
	name string
	f32  *tiling
	bf16 *tiling // the factors rounded to bf16, sums in f32

	dotLanes int   // dot kernels take k in multiples of this; 0 where there is none
	dotRows  []int // descending, 1 last
	dots     []dotKernel

	rows rowSet
}

// A rowSet names the element-wise kernels of a variant, which are chosen by a switch so that their arguments stay on
// the stack.
type rowSet uint8

const (
	rowsPlain rowSet = iota
	rowsAVX2
	rowsAVX512
)

// active is the variant in use, the fastest this machine has.
var active = variants()[0]

// Variant names the instruction set that the kernels were chosen for: avx512, avx2 or go.
func Variant() string { return active.name }

// plain is the variant for every machine.
var plain = &variant{
	name: "go", f32: plainTiling, bf16: plainTiling.rounded(),
	rows: rowsPlain,
}

var plainTiling = &tiling{
	mr: 4, nr: 4, pair: 1,
	tileRows: []int{4, 1}, tiles: []tileKernel{tile4x4, tile1x4},
	packA: packer{width: 4, pair: 1}, packB: packer{width: 4, pair: 1},
}

// rounded multiplies as t does, with factors rounded to bf16: what a machine without instructions for bf16 does.
func (t *tiling) rounded() *tiling {
	r := *t
	r.packA.round, r.packB.round = true, true
	return &r
}
