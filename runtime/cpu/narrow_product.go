package cpu

import (
	"math"
	"unsafe"
)

// Products of many rows with weights in bf16 are those of training, in bf16: a block of weights has the order of a panel already,
// sixteen columns of it, so that packing is copying.

const productRows = 24 // rows of x from which on that pays

// runNarrow computes y = act(x·wᵀ + bias) + residual for weights in bf16.
func (t *product) runNarrow(p *Pool, y, x Mat, w *Narrow, e Epilogue) {
	t.c, t.a, t.b, t.transA, t.transB, t.add, t.epilogue, t.y = p.sumsOf(y, &e), x, Mat{}, false, true, false, e, y
	t.weights = w
	t.run(p)
	t.weights = nil
}

// packWeights packs rows j to j+n of w, columns l to l+k, both even or up to the last one, into panels of B, as packer.panels does.
func (t *tiling) packWeights(dst []float32, w *Narrow, j, n, l, k int) {
	steps := t.steps(k)
	for done := 0; done < n; done += t.nr {
		panel := dst[done*steps : (done+t.nr)*steps]
		lanes := min(t.nr, narrowLanes)
		for at := 0; at < t.nr; at += lanes {
			row := j + done + at
			if row >= w.Rows {
				break // what is there is not kept
			}
			from := w.codes[row/narrowLanes*w.blockBytes()+l*2*narrowLanes:]
			t.packLanes(panel[at:], from, row%narrowLanes, lanes, k)
		}
	}
}

// packLanes packs so many lanes of a block, from one on, over k steps of the sum.
func (t *tiling) packLanes(panel []float32, block []byte, lane, lanes, k int) {
	pairs := unsafe.Slice((*[narrowLanes]uint32)(unsafe.Pointer(&block[0])), ceil(k, 2))
	if t.pair == 2 {
		for i := range pairs {
			if to := unsafe.Pointer(&panel[i*t.nr]); lanes == narrowLanes {
				*(*[narrowLanes]uint32)(to) = pairs[i]
			} else {
				copy(unsafe.Slice((*uint32)(to), lanes), pairs[i][lane:])
			}
		}
		for i := len(pairs); i < t.steps(k); i++ {
			clear(panel[i*t.nr:][:lanes])
		}
		return
	}
	done := 0
	if t.widen != nil && k > 1 {
		done = k / 2
		t.widen(done, &block[0], &panel[0], t.nr*4)
	}
	for l := 2 * done; l < k; l++ {
		for i, pair := range pairs[l/2][lane:][:lanes] {
			panel[l*t.nr+i] = math.Float32frombits(pair >> (l % 2 * 16) << 16)
		}
	}
}
