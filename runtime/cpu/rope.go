package cpu

import "math"

// RopeTable holds the cosines and sines of rotary position embeddings (Su et al., "RoFormer", 2021) for every position.
type RopeTable struct {
	cos, sin    []float32 // [position][frequency]
	freqs       int
	interleaved bool
}

// NewRopeTable tabulates cos and sin of position*freq, times mscale, for positions 0 to maxPositions-1. The product
// position*freq is rounded to float32 as PyTorch does. mscale is YaRN's attention factor, else 1. interleaved pairs
// entries (2i, 2i+1) of a head, as GPT-J does; otherwise (i, i+len(freqs)) are a pair, as in NeoX and in Hugging Face's Llama.
func NewRopeTable(freqs []float32, mscale float32, maxPositions int, interleaved bool) *RopeTable {
	n := len(freqs)
	t := &RopeTable{make([]float32, maxPositions*n), make([]float32, maxPositions*n), n, interleaved}
	for pos := range maxPositions {
		for i, f := range freqs {
			angle := float32(pos) * f
			sin, cos := math.Sincos(float64(angle))
			t.cos[pos*n+i] = float32(cos) * mscale
			t.sin[pos*n+i] = float32(sin) * mscale
		}
	}
	return t
}

// RoPE rotates each of the heads in every row of x by the angles of the row's position and writes y. The first
// 2*len(freqs) entries of a head turn, the rest is copied. With inverse it multiplies by the transposed rotation instead,
// which takes dy to dx. y may be x. Every position must be in the table, and headDim at least 2*len(freqs).
func RoPE(p *Pool, y, x Mat, t *RopeTable, positions []int32, heads, headDim int, inverse bool) {
	p.note("RoPE", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowRope, y: y, a: x, rope: t, ids: positions, heads: heads, width: headDim, inverse: inverse})
}

func rowRope(k *rowwise, r int, _ *scratch) {
	t, pos := k.rope, int(k.ids[r])
	n := t.freqs
	cos, sin := t.cos[pos*n:][:n], t.sin[pos*n:][:n]
	sign := float32(1)
	if k.inverse {
		sign = -1
	}
	yr, xr := k.y.Row(r), k.a.Row(r)
	for h := range k.heads {
		y, x := yr[h*k.width:][:k.width], xr[h*k.width:][:k.width]
		if t.interleaved {
			for i := range n {
				c, s := cos[i], sin[i]*sign
				a, b := x[2*i], x[2*i+1]
				y[2*i], y[2*i+1] = a*c-b*s, b*c+a*s
			}
		} else {
			x1, x2, y1, y2 := x[:n], x[n:2*n], y[:n], y[n:2*n]
			for i := ropeVector(y1, y2, x1, x2, cos, sin, k.inverse); i < n; i++ {
				c, s := cos[i], sin[i]*sign
				a, b := x1[i], x2[i]
				y1[i], y2[i] = a*c-b*s, b*c+a*s
			}
		}
		copy(y[2*n:], x[2*n:])
	}
}
