package cpu

// expWeightsVector returns how many leading elements it has done.
func expWeightsVector(dst []float64, logits []float32, highest, temperature float64, sums *[sumLanes]float64) int {
	n := len(logits) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		exp64AVX512(&dst[0], &logits[0], n, highest, temperature, sums)
	default:
		exp64AVX2(&dst[0], &logits[0], n, highest, temperature, sums)
	}
	return n
}
