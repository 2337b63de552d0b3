package ir

import "math"

// Round is the nearest number of a type, ties to even. Beyond the largest number of a type of 8 bits it is that number.
func Round(v float64, d DType) float64 {
	bits, least := 24, -149 // of the fraction, and of the exponent of the smallest number
	switch d {
	case BF16:
		bits, least = 8, -133
	case F16:
		bits, least = 11, -24
	case E4M3:
		bits, least = 4, -9
	case E5M2:
		bits, least = 3, -16
	case I32, U64:
		return v
	}
	r := round(v, bits, least)
	if most := EightBits[d]; most > 0 && math.Abs(r) > most {
		return math.Copysign(most, r)
	}
	if d == F16 && math.Abs(r) > 65504 {
		return math.Inf(int(math.Copysign(1, r)))
	}
	return r
}

// RoundTF32 is the nearest number that a product in TF32 can take as an operand, ties to even: a float with 10 bits behind
// the first.
func RoundTF32(v float64) float64 { return round(v, 11, -136) }

// round is the nearest number with so many bits, the last of which is worth 1<<least or more.
func round(v float64, bits, least int) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	_, exp := math.Frexp(v)
	unit := max(exp-bits, least)
	return math.Ldexp(math.RoundToEven(math.Ldexp(v, -unit)), unit)
}
