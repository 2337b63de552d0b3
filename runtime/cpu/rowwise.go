package cpu

import "github.com/tfc-dev/tfc/runtime/rng"

// rowwise is a kernel that computes each row of its results from the same row of its operands.
type rowwise struct {
	row        func(k *rowwise, r int, s *scratch)
	rows, each int // each: rows in a part

	y, y2   Mat // results
	a, b, c Mat // operands
	vector  []float32
	scale   float32
	act     Activation
	key     rng.Key
	norm    norm
	ids     []int32
	rope    *RopeTable
	heads   int
	width   int  // of a head
	inverse bool // rotate back
}

// rowStep is the elements that vector kernels take at a time: whole registers of every variant.
const rowStep = 16

// partElements is the number of matrix elements that one part of a light kernel handles: about what a core gets through
// while another wakes up.
const partElements = 8192

func (p *Pool) runRows(rows, cols int, k rowwise) {
	k.rows, k.each = rows, max(1, partElements/max(1, cols))
	p.rowwise = k
	p.run(&p.rowwise, (rows+k.each-1)/k.each)
}

func (k *rowwise) part(i int, s *scratch) {
	for r := i * k.each; r < min((i+1)*k.each, k.rows); r++ {
		k.row(k, r, s)
	}
}
