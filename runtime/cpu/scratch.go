package cpu

// scratch is the working memory of one worker. A part finds garbage in it, so its result cannot depend on the worker.
type scratch struct {
	worker       int
	packA, packB []float32 // gemm: packed rows of A, packed columns of B
	tile         []float32 // gemm: one tile of C

	own []float32
}

// maxTile bounds mr*nr of every variant, maxBlockM its rowsPerBlock.
const (
	maxTile   = 32 * 32
	maxBlockM = 70
)

func newScratch(worker int) *scratch {
	return &scratch{
		worker: worker,
		packA:  make([]float32, maxBlockM*blockK),
		packB:  make([]float32, blockN*blockK),
		tile:   make([]float32, maxTile),
	}
}

// floats returns n floats of working memory with undefined contents, good until the next call of floats. gemm does not
// touch them. The memory grows on the first use of a size and is kept, so a repeated call allocates nothing.
func (s *scratch) floats(n int) []float32 {
	if cap(s.own) < n {
		s.own = make([]float32, n)
	}
	return s.own[:n]
}
