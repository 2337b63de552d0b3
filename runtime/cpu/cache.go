package cpu

import (
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// Cache holds the keys and values of every position of every slot, of one layer, in f32 or bf16. A slot serves one sequence.
//
// Each slot and head has its own stretch of either. Keys lie in blocks of 16 positions, column by column: a register has a
// position in each lane. Values lie position by position, their columns filled up to whole registers.
type Cache struct {
	slots, maxT, heads, headDim int
	bf16                        bool
	k, v                        []byte
}

// NewCache returns a cache for so many slots of maxT positions.
func NewCache(slots, maxT, heads, headDim int, bf16 bool) Cache {
	c := Cache{slots: slots, maxT: maxT, heads: heads, headDim: headDim, bf16: bf16}
	m := NewMemory(slots*heads*(c.keyBytes()+c.valueBytes()) + cacheLine)
	c.k, c.v = m.take(slots*heads*c.keyBytes()), m.take(slots*heads*c.valueBytes())
	return c
}

// elem is the size of an element.
func (c *Cache) elem() int {
	if c.bf16 {
		return 2
	}
	return 4
}

// valueCols is the number of columns of a value with those that fill it up.
func (c *Cache) valueCols() int { return ceil(c.headDim, narrowLanes) * narrowLanes }

// keyBytes and valueBytes are the sizes of a head's stretches.
func (c *Cache) keyBytes() int {
	return ceil(c.maxT, narrowLanes) * narrowLanes * c.headDim * c.elem()
}
func (c *Cache) valueBytes() int { return c.maxT * c.valueCols() * c.elem() }

// keys returns where the block of a position starts, values where its value does.
func (c *Cache) keys(slot, head, position int) *byte {
	return &c.k[(slot*c.heads+head)*c.keyBytes()+position/narrowLanes*narrowLanes*c.headDim*c.elem()]
}
func (c *Cache) values(slot, head, position int) *byte {
	return &c.v[(slot*c.heads+head)*c.valueBytes()+position*c.valueCols()*c.elem()]
}

// store keeps the key and the value of a position, all heads side by side.
func (c *Cache) store(slot, position int, k, v []float32, s *scratch) {
	lane := position % narrowLanes
	if !c.bf16 {
		for h := range c.heads {
			from, to := h*c.headDim, (h+1)*c.headDim
			keys := unsafe.Slice((*[narrowLanes]float32)(unsafe.Pointer(c.keys(slot, h, position))), c.headDim)
			for i, x := range k[from:to] {
				keys[i][lane] = x
			}
			copy(unsafe.Slice((*float32)(unsafe.Pointer(c.values(slot, h, position))), c.headDim), v[from:to])
		}
		return
	}
	n := len(k)
	half := unsafe.Slice((*uint16)(unsafe.Pointer(&s.floats(n)[0])), 2*n)
	k16, v16 := half[:n], half[n:]
	roundRow(k16, k)
	roundRow(v16, v)
	for h := range c.heads {
		from, to := h*c.headDim, (h+1)*c.headDim
		keys := unsafe.Slice((*[narrowLanes]uint16)(unsafe.Pointer(c.keys(slot, h, position))), c.headDim)
		for i, x := range k16[from:to] {
			keys[i][lane] = x
		}
		copy(unsafe.Slice((*uint16)(unsafe.Pointer(c.values(slot, h, position))), c.headDim), v16[from:to])
	}
}

// roundRow rounds a row to bfloat16.
func roundRow(dst []uint16, x []float32) {
	whole := len(x) &^ (rowStep - 1)
	if whole > 0 {
		fastestNarrow(BF16).roundBF16(&dst[0], &x[0], whole)
	}
	for i := whole; i < len(x); i++ {
		dst[i] = quant.BF16(x[i])
	}
}

// An attendKernel computes, for a fixed number of rows of x, blocks of 16 sums over steps: of x[step] times 16 numbers at w.
// ldw and ldb are the bytes from step to step and from block to block, ldx and ldo from row to row.
type attendKernel func(blocks, steps int, w *byte, ldw, ldb int, x *float32, ldx int, out *float32, ldo int)

// attendKernels are those of an instruction set.
type attendKernels struct {
	rows      []int // descending powers of two, 1 last
	f32, bf16 []attendKernel
}

var plainAttend = &attendKernels{rows: []int{1}, f32: []attendKernel{attendF32x1}, bf16: []attendKernel{attendBF16x1}}

func attendF32x1(blocks, steps int, w *byte, ldw, ldb int, x *float32, _ int, out *float32, _ int) {
	attendPlain(blocks, steps, w, ldw, ldb, x, out, func(v *byte, xi float32, sums *[narrowLanes]float32) {
		for i, n := range (*[narrowLanes]float32)(unsafe.Pointer(v)) {
			sums[i] += xi * n
		}
	})
}

func attendBF16x1(blocks, steps int, w *byte, ldw, ldb int, x *float32, _ int, out *float32, _ int) {
	attendPlain(blocks, steps, w, ldw, ldb, x, out, func(v *byte, xi float32, sums *[narrowLanes]float32) {
		for i, n := range (*[narrowLanes]uint16)(unsafe.Pointer(v)) {
			sums[i] += xi * quant.FromBF16(n)
		}
	})
}

func attendPlain(blocks, steps int, w *byte, ldw, ldb int, x *float32, out *float32, add func(v *byte, x float32, sums *[narrowLanes]float32)) {
	xs, outs := unsafe.Slice(x, steps), unsafe.Slice((*[narrowLanes]float32)(unsafe.Pointer(out)), blocks)
	for b := range blocks {
		var sums [narrowLanes]float32
		for i, v := range xs {
			add((*byte)(unsafe.Add(unsafe.Pointer(w), b*ldb+i*ldw)), v, &sums)
		}
		outs[b] = sums
	}
}
