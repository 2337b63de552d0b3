package cpu

import "github.com/tfc-dev/tfc/runtime/rng"

// Dropout computes y = x/(1-prob) where key keeps element row*Cols+col and 0 elsewhere (Srivastava et al. 2014).
// The gradient is the same call on dy. y may be x. prob is in [0, 1).
func Dropout(p *Pool, y, x Mat, prob float32, key rng.Key) {
	p.runRows(y.Rows, y.Cols, rowwise{row: dropoutRow, y: y, a: x, scale: prob, key: key})
}

func dropoutRow(k *rowwise, r int, _ *scratch) {
	y := k.y.Row(r)
	dropTo(y, k.a.Row(r), k.scale, k.key, uint64(r)*uint64(len(y)))
}

// dropTo writes y = x/(1-prob) where key keeps element first+i and 0 elsewhere.
func dropTo(y, x []float32, prob float32, key rng.Key, first uint64) {
	x = x[:len(y)]
	keep := 1 / (1 - prob)
	var words [4]uint32
	for i := range y {
		at := first + uint64(i)
		if at%4 == 0 || i == 0 {
			words = key.Block(at / 4)
		}
		v := float32(0)
		if rng.Uniform(words[at%4]) >= prob {
			v = x[i] * keep
		}
		y[i] = v
	}
}
