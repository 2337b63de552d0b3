// Package quant defines what the numbers of a product become where its weights are stored in fewer bits. ir.Eval computes by
// these definitions, and the kernels give the same codes and scales bit for bit.
//
// Weights of 8 and 4 bits are coded in groups of Group along the sum: an element is its code times the scale of its group, a
// bf16. There is no zero point: 0 is always code 0 (the scheme of ggml's q8_0 and q4_0, with bf16 instead of fp16 scales, so
// that no scale is out of range). The activations that meet them are coded in 8 bits in the same groups, with scales in
// float32. Where bf16 weights are read, the activations are rounded to bf16, too.
package quant

import "math"

// Group is how many consecutive weights of a row, or activations, share a scale. The last group of a row may be shorter.
const Group = 32

// MeasuredSteps is how many steps of a training in 8 bits measure what is quantised where no step before did. The first would do, but for
// weights that start as zeros, whose products' gradients are zeros until the next.
const MeasuredSteps = 3

// Tiny is the magnitude below which a whole group counts as 0: its scale's inverse would not be finite.
const Tiny = 0x1p-100

// BF16 returns the bits of the bfloat16 nearest to x, ties to even. A NaN stays one.
func BF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16 | 1<<6)
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromBF16 returns the number that a bfloat16's bits stand for.
func FromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// Int8 writes the codes, -127 to 127, of a group of weights and returns their scale: that of the largest, over 127.
func Int8(codes []int8, w []float32) (scale uint16) {
	return encode(codes, w, abs(largest(w))/127, -127, 127)
}

// Int4 writes the codes, -8 to 7, of a group of weights and returns their scale: that by which the largest, with its sign,
// becomes -8. All 16 codes are in use so; the scale may be negative.
func Int4(codes []int8, w []float32) (scale uint16) {
	return encode(codes, w, largest(w)/-8, -8, 7)
}

// largest returns the element of the largest magnitude, the positive one of equals.
func largest(w []float32) float32 {
	high, low := float32(0), float32(0)
	for _, x := range w {
		high, low = max(high, x), min(low, x)
	}
	if high >= -low {
		return high
	}
	return low
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// round returns x rounded to an integer, ties to even, for |x| < 2^22.
func round(x float32) float32 { return x + 3<<22 - 3<<22 }

// encode codes w by the bfloat16 nearest to scale. Weights that are not finite make a scale that is not.
func encode(codes []int8, w []float32, scale float32, low, high float32) uint16 {
	for _, x := range w {
		if x-x != 0 {
			for i := range codes {
				codes[i] = 1
			}
			return BF16(float32(math.NaN()))
		}
	}
	bits := BF16(scale)
	scale = FromBF16(bits)
	if abs(scale) < Tiny {
		clear(codes)
		return 0
	}
	inverse := 1 / scale
	for i, x := range w {
		codes[i] = int8(min(max(round(x*inverse), low), high))
	}
	return bits
}

// Activations writes the codes, -127 to 127, of a group of activations and returns their scale: the largest magnitude over
// 127. Where one is not finite, neither is the scale.
func Activations(codes []int8, x []float32) (scale float32) {
	top := uint32(0) // as bits, by which a NaN is larger than all numbers
	for _, v := range x {
		top = max(top, math.Float32bits(v)&^(1<<31))
	}
	largest := math.Float32frombits(top)
	if largest < Tiny {
		clear(codes)
		return 0
	}
	inverse := 127 / largest
	for i, v := range x {
		if c := round(v * inverse); c >= -128 && c <= 127 {
			codes[i] = int8(c)
		} else { // of a group that is not finite
			codes[i] = -128
		}
	}
	return largest / 127
}
