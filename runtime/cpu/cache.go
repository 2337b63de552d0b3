package cpu

import (
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// Cache holds the keys and values of every position of every slot, of one layer, in f32 or bf16. A slot serves one sequence.
//
// Each slot and head has its own stretch of either. Keys lie in blocks of positions, column by column: 64 bytes have a column of
// 16 positions, of 32 in bf16. Values lie position by position, in blocks of as many columns, the last filled up. In bf16,
// numbers i and i+16 of a block are a pair, which a register holds in lane i.
type Cache struct {
	slots, maxT, heads, headDim int
	bf16                        bool
	k, v                        []byte
}

// NewCache returns a cache for so many slots of maxT positions.
func NewCache(slots, maxT, heads, headDim int, bf16 bool) Cache {
	c := Cache{slots: slots, maxT: maxT, heads: heads, headDim: headDim, bf16: bf16}
	m := NewMemory(slots*heads*(c.keyBytes()+c.valueBytes()) + attendAhead)
	c.k, c.v = m.take(slots*heads*c.keyBytes()), m.take(slots*heads*c.valueBytes())
	return c
}

// attendAhead is room behind the last value.
const attendAhead = 3072

const blockBytes = 64 // of a step of a block

// block is how many numbers a step of a block has.
func (c *Cache) block() int {
	if c.bf16 {
		return blockBytes / 2
	}
	return blockBytes / 4
}

// valueBlocks is the number of blocks of a value.
func (c *Cache) valueBlocks() int { return ceil(c.headDim, c.block()) }

// keyBytes and valueBytes are the sizes of a head's stretches.
func (c *Cache) keyBytes() int   { return ceil(c.maxT, c.block()) * c.headDim * blockBytes }
func (c *Cache) valueBytes() int { return c.maxT * c.valueBlocks() * blockBytes }

// keys returns where the block of a position starts, values where its value does.
func (c *Cache) keys(slot, head, position int) *byte {
	return &c.k[(slot*c.heads+head)*c.keyBytes()+position/c.block()*c.headDim*blockBytes]
}
func (c *Cache) values(slot, head, position int) *byte {
	return &c.v[(slot*c.heads+head)*c.valueBytes()+position*c.valueBlocks()*blockBytes]
}

// store keeps the key and the value of a position of one head.
func (c *Cache) store(slot, head, position int, k, v []float32, s *scratch) {
	if !c.bf16 {
		keys := unsafe.Slice((*[16]float32)(unsafe.Pointer(c.keys(slot, head, position))), c.headDim)
		for i, x := range k {
			keys[i][position%16] = x
		}
		copy(unsafe.Slice((*float32)(unsafe.Pointer(c.values(slot, head, position))), c.headDim), v)
		return
	}
	n := len(k)
	half := unsafe.Slice((*uint16)(unsafe.Pointer(&s.floats(n)[0])), 2*n)
	k16, v16 := half[:n], half[n:]
	roundRow(k16, k)
	roundRow(v16, v)
	lane, upper := position%16, position/16%2
	keys := unsafe.Slice((*[16][2]uint16)(unsafe.Pointer(c.keys(slot, head, position))), c.headDim)
	for i, x := range k16 {
		keys[i][lane][upper] = x
	}
	values := unsafe.Slice((*[16][2]uint16)(unsafe.Pointer(c.values(slot, head, position))), c.valueBlocks())
	for i, x := range v16 {
		values[i/32][i%16][i/16%2] = x
	}
}

// roundRow rounds a row to bfloat16.
func roundRow(dst []uint16, x []float32) {
	whole := len(x) &^ (rowStep - 1)
	if whole > 0 {
		fastestNarrow(BF16).toBF16(&dst[0], &x[0], whole)
	}
	for i := whole; i < len(x); i++ {
		dst[i] = quant.BF16(x[i])
	}
}

// An attendKernel computes, for a fixed number of rows of x, the sums over steps of x[step] times the numbers of a block. ldw is
// the bytes from step to step, ldx and ldo those from row to row; blocks lie side by side at w, their sums at out.
type attendKernel func(blocks, steps int, w *byte, ldw int, x *float32, ldx int, out *float32, ldo int)

// attendKernels are those of an instruction set for one element type.
type attendKernels struct {
	rows    []int // of x, descending powers of two, 1 last
	kernels []attendKernel
}

// attendSet has them for f32 and bf16.
type attendSet struct{ f32, bf16 attendKernels }

var plainAttend = &attendSet{attendKernels{[]int{1}, []attendKernel{attendF32x1}}, attendKernels{[]int{1}, []attendKernel{attendBF16x1}}}

func attendF32x1(blocks, steps int, w *byte, ldw int, x *float32, _ int, out *float32, _ int) {
	xs, outs := unsafe.Slice(x, steps), unsafe.Slice((*[16]float32)(unsafe.Pointer(out)), blocks)
	for b := range blocks {
		var sums [16]float32
		for i, v := range xs {
			for l, n := range (*[16]float32)(unsafe.Add(unsafe.Pointer(w), b*blockBytes+i*ldw)) {
				sums[l] += v * n
			}
		}
		outs[b] = sums
	}
}

func attendBF16x1(blocks, steps int, w *byte, ldw int, x *float32, _ int, out *float32, _ int) {
	xs, outs := unsafe.Slice(x, steps), unsafe.Slice((*[32]float32)(unsafe.Pointer(out)), blocks)
	for b := range blocks {
		var sums [32]float32
		for i, v := range xs {
			for l, n := range (*[16][2]uint16)(unsafe.Add(unsafe.Pointer(w), b*blockBytes+i*ldw)) {
				sums[l] += v * quant.FromBF16(n[0])
				sums[l+16] += v * quant.FromBF16(n[1])
			}
		}
		outs[b] = sums
	}
}
