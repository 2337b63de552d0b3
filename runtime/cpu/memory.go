package cpu

// Floats returns n zeros. Where the system has them, they lie on huge pages, which take fewer page faults to begin with and fewer
// look-ups of addresses in products that go down the columns of a matrix.
func Floats(n int) []float32 {
	x := make([]float32, n)
	adviseHuge(x)
	return x
}
