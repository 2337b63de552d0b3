package cpu

// scratch is the working memory of one worker. A part finds garbage in it, so its result cannot depend on the worker.
type scratch struct {
	worker       int
	packA, packB []float32 // gemm: packed rows of A, packed columns of B
	tile         []float32 // gemm: one tile of C

	own []float32

	kept      []float32 // a product's packed rows of A: see rowsOf
	keptPiece uint64
	keptRow   int
}

// maxTile bounds mr*nr of every variant, maxBlockM its rowsPerBlock.
const (
	maxTile   = 32 * 32
	maxBlockM = 70
)

func newScratch(worker int) *scratch {
	return &scratch{
		worker: worker,
		packA:  make([]float32, maxBlockM*maxBlockK),
		packB:  make([]float32, blockN*maxBlockK),
		tile:   make([]float32, maxTile),
	}
}

// rowsOf returns n floats for the rows of A from the given one on, in a piece of the pool's product, and whether the worker has packed them
// already: parts that follow each other often have the same rows.
func (s *scratch) rowsOf(piece uint64, row, n int) (packed []float32, isPacked bool) {
	if len(s.kept) < n {
		s.kept = Floats(n)
	}
	isPacked = s.keptPiece == piece && s.keptRow == row
	s.keptPiece, s.keptRow = piece, row
	return s.kept[:n], isPacked
}

// floats returns n floats of working memory with undefined contents, good until the next call of floats. gemm does not
// touch them. The memory grows on the first use of a size and is kept, so a repeated call allocates nothing.
func (s *scratch) floats(n int) []float32 {
	if cap(s.own) < n {
		s.own = make([]float32, n)
	}
	return s.own[:n]
}
