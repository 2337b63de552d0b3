package cpu

import "unsafe"

// Memory is one allocation that stretches are taken from: many pages of the common size cost a processor that reads on and
// on a tenth of its bandwidth, so the system is asked for large ones.
type Memory struct{ free []byte }

// NewMemory allocates so many bytes.
func NewMemory(bytes int) *Memory { return &Memory{largePages(bytes)} }

// take returns the next n bytes, from the start of a cache line on.
func (m *Memory) take(n int) []byte {
	taken := m.free[:n:n]
	m.free = m.free[min(len(m.free), ceil(n, cacheLine)*cacheLine):]
	return taken
}

const cacheLine = 64

// Floats returns n zeros in memory of their own, as NewMemory allocates it.
func Floats(n int) []float32 {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&largePages(4 * n)[0])), n)
}
