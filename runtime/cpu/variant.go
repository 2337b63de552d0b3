package cpu

// A tileKernel adds or stores a tile of C: rows × nr floats whose k steps read one row of nr floats of b, ldb bytes
// apart, and rows floats of a, packed mr to a step. ldc counts bytes; with add the old C is added at the end.
type tileKernel func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)

// A packer packs panels of one width: see packPanel.
type packer struct {
	width int

	// transpose packs lanes elements from rows that run along the sum, groups blocks of block steps; nil: none.
	transpose    func(groups int, src *float32, ld int, dst *float32, dstStride int)
	lanes, block int

	// copy packs width elements from rows that run across the panel, for k steps; nil: none.
	copy func(k int, src *float32, ld int, dst *float32)
}

// A dotKernel computes out[r*4+j] = x[r]·w[j] for a fixed number of rows of x and four rows of w.
type dotKernel func(k int, w *float32, ldw int, x *float32, ldx int, out *float32)

// A variant is one implementation of the kernels, for one instruction set.
type variant struct {
	name   string
	mr, nr int // rows and columns of a tile

	tileRows []int // descending, mr first: the row counts that have a kernel
	tiles    []tileKernel

	packA, packB packer

	dotLanes int   // dot kernels take k in multiples of this; 0 where there is none
	dotRows  []int // descending, 1 last
	dots     []dotKernel

	rows   rowSet
	attend *attendSet
	stream []streamKernel                // of 4, 2 and 1 rows; nil: none
	read   func(n int, src *byte) uint32 // reads n bytes, a multiple of readStep
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
	name: "go", mr: 4, nr: 4,
	tileRows: []int{4, 1}, tiles: []tileKernel{tile4x4, tile1x4},
	packA: packer{width: 4}, packB: packer{width: 4},
	rows: rowsPlain, attend: plainAttend, read: readPlain,
}
