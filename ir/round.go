package ir

import "math"

// Round is the nearest number of a type, ties to even.
func Round(v float64, d DType) float64 {
	bits, least := 24, -149 // of the fraction, and of the exponent of the smallest number
	switch d {
	case BF16:
		bits, least = 8, -133
	case F16:
		bits, least = 11, -24
	case I32, U64:
		return v
	}
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	_, exp := math.Frexp(v)
	unit := max(exp-bits, least)
	r := math.Ldexp(math.RoundToEven(math.Ldexp(v, -unit)), unit)
	if d == F16 && math.Abs(r) > 65504 {
		return math.Inf(int(math.Copysign(1, r)))
	}
	return r
}
