package cpu

import "github.com/tfc-dev/tfc/runtime/rng"

// Dropout computes y = x/(1-prob) where key keeps element row*Cols+col and 0 elsewhere (Srivastava et al. 2014).
// The gradient is the same call on dy. y may be x. prob is in [0, 1).
func Dropout(p *Pool, y, x Mat, prob float32, key rng.Key) {
	p.note("Dropout", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowDropout, y: y, a: x, scale: prob, key: key})
}

func rowDropout(k *rowwise, r int, s *scratch) {
	y := k.y.Row(r)
	factors := s.floats(len(y))
	keepTo(factors, k.scale, k.key, uint64(r)*uint64(len(y)))
	mulTo(y, k.a.Row(r), factors)
}

// keepTo writes 1/(1-prob) to factors[i] where key keeps element first+i, else 0.
func keepTo(factors []float32, prob float32, key rng.Key, first uint64) {
	if keepVector(factors, prob, key, first) {
		return
	}
	keep := 1 / (1 - prob)
	var words [4]uint32
	for i := range factors {
		at := first + uint64(i)
		if at%4 == 0 || i == 0 {
			words = key.Block(at / 4)
		}
		f := float32(0)
		if rng.Uniform(words[at%4]) >= prob {
			f = keep
		}
		factors[i] = f
	}
}
