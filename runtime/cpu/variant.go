package cpu

import (
	"sync"
	"time"
)

// A tiling is a way to multiply matrices: the shape of a tile, the kernels that compute one, and how their factors are packed.
type tiling struct {
	mr, nr int // rows and columns of a tile
	grouping

	tileRows []int // descending, mr first: the row counts that have a kernel
	tiles    []tileKernel

	// column computes n tiles below one another, whose panels of A follow each other; nil: tile by tile.
	column func(n, k int, a, b *float32, ldb int, c *float32, ldc int, add bool)

	blockK   int // steps of a panel in a block at most: a panel of B stays close
	partRows int // rows of C in a part at most: their packed rows of A, and what a part computes, stay in the second-level cache

	packA, packB packer

	// widen writes so many pairs of columns of a block of weights in bf16 as floats, a column ldd bytes from the one before; nil: none.
	widen func(pairs int, w *byte, dst *float32, ldd int)
}

// A grouping says how the steps of a sum lie in panels.
type grouping struct {
	pair  int // steps of the sum in a step of a panel: 1, or 2 where an element of a panel is a pair in bf16
	group int // steps of a panel that kernels take at once: zeros fill up the last ones
}

// steps is how many steps of a panel k steps of the sum take.
func (g grouping) steps(k int) int { return ceil(k, g.pair*g.group) * g.group }

var (
	oneByOne = grouping{1, 1}
	inPairs  = grouping{2, 1}
	inTiles  = grouping{2, 16}
)

// A tileKernel adds or stores a tile of C: rows × nr floats whose k steps read one row of nr elements of b, ldb bytes
// apart, and rows elements of a, packed mr to a step, or row after row in each group of steps. ldc counts bytes; with add the old C is added at the end.
type tileKernel func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)

// A packer packs panels of one width: see panel.
type packer struct {
	width int
	grouping
	round bool // the elements are rounded to bf16, and stay floats

	// transpose packs lanes elements from up to so many rows that run along the sum, groups blocks of block steps of the panel;
	// nil: none.
	transpose    func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)
	lanes, block int

	// copy packs width elements from rows that run across the panel, for k steps of the panel; nil: none.
	copy func(k int, src *float32, ld int, dst *float32)

	// copyMany is copy for so many panels side by side, dstStride bytes apart in dst, and k of 1 at least; nil: none.
	copyMany func(panels, k int, src *float32, ld int, dst *float32, dstStride int)

	rows *rowPacker // where a panel has row after row in each group, not step after step
}

// A rowPacker packs whole groups of steps: in a group, an element's pairs follow each other, and the next element's follow them. Groups are
// dstStride bytes apart in dst.
type rowPacker struct {
	along  func(groups int, src *float32, ld, rows int, dst *float32, dstStride int) // so many rows that run along the sum
	across func(groups int, src *float32, ld int, dst *float32, dstStride int)       // rowLanes columns of rows that run across it
}

const rowLanes = 16

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

	rows   rowSet
	attend *attendSet
	stream []streamKernel // of 4, 2 and 1 rows; nil: none
}

// A rowSet names the element-wise kernels of a variant, which are chosen by a switch so that their arguments stay on
// the stack.
type rowSet uint8

const (
	rowsPlain rowSet = iota
	rowsAVX2
	rowsAVX512
)

// active is the variant in use: the widest this machine has until choose has measured them.
var active = variants()[0]

// Variant names the instruction set that the kernels were chosen for: amx, avx512bf16, avx512, avx2 or go.
func Variant() string {
	choose()
	return active.name
}

// choose makes the fastest variant active. Instructions that a processor has may be slow on it: some split wide registers, some slow
// their clocks down for them. So each variant multiplies a tile in f32 and in bf16, for a fraction of a millisecond in all. A wider variant
// stays the choice unless another is faster by a quarter: where two are about even, the choice, and so the bits of what is computed,
// must not hang on what else the machine does.
var choose = sync.OnceFunc(func() { active = fastest(variants(), plain, (*variant).time) })

const clearlyFaster = 1.25

// fastest returns the first of the variants whose time is not clearly longer than that of a later one. plain is that in plain Go,
// as slow as which no vector kernels are.
func fastest[V comparable](list []V, plain V, time func(V) float64) V {
	best, took := list[0], time(list[0])
	for _, v := range list[1:] {
		if v == plain {
			continue
		}
		if t := time(v); t*clearlyFaster < took {
			best, took = v, t
		}
	}
	return best
}

// time is the nanoseconds of a million multiply-adds, half of them in f32 and half in bf16, in panels that lie in the first-level cache.
func (v *variant) time() float64 {
	const k, runs, tries = 128, 4, 8
	sum := 0.0
	for _, t := range []*tiling{v.f32, v.bf16} {
		a, b, c := make([]float32, t.mr*k), make([]float32, t.nr*k), make([]float32, t.mr*t.nr)
		best := time.Duration(1<<63 - 1)
		for range tries { // another process may disturb a try, nothing makes one faster
			begin := time.Now()
			for range runs {
				t.tiles[0](k, &a[0], &b[0], t.nr*4, &c[0], t.nr*4, false)
			}
			best = min(best, time.Since(begin))
		}
		sum += float64(best.Nanoseconds()) / float64(runs*k*t.pair*t.mr*t.nr) * 5e5
	}
	return sum
}

// plain is the variant for every machine.
var plain = &variant{
	name: "go", f32: plainTiling, bf16: plainTiling.rounded(),
	rows: rowsPlain, attend: plainAttend,
}

var plainTiling = &tiling{
	mr: 4, nr: 4, grouping: oneByOne,
	tileRows: []int{4, 1}, tiles: []tileKernel{tile4x4, tile1x4}, blockK: 512, partRows: 64,
	packA: packer{width: 4, grouping: oneByOne}, packB: packer{width: 4, grouping: oneByOne},
}

// rounded multiplies as t does, with factors rounded to bf16: what a machine without instructions for bf16 does.
func (t *tiling) rounded() *tiling {
	r := *t
	r.packA.round, r.packB.round = true, true
	return &r
}
