package cpu

import "math"

// expRow writes dst = exp(x - shift) and returns the sum of dst, taken in an order that depends on len(x) alone.
// dst may be x.
func expRow(dst, x []float32, shift float32) (sum float32) {
	for i, v := range x {
		e := float32(math.Exp(float64(v - shift)))
		dst[i] = e
		sum += e
	}
	return sum
}
