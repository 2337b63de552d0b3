package cpu

// scratch is the working memory of one worker. A part finds garbage in it, so its result cannot depend on the worker.
type scratch struct {
	own []float32
}

func newScratch() *scratch { return &scratch{} }

// floats returns n floats of working memory with undefined contents, good until the next call of floats. gemm does not
// touch them. The memory grows on the first use of a size and is kept, so a repeated call allocates nothing.
func (s *scratch) floats(n int) []float32 {
	if cap(s.own) < n {
		s.own = make([]float32, n)
	}
	return s.own[:n]
}
