package cudarun

import (
	"encoding/binary"
	"math"

	"github.com/tfc-dev/tfc/ir"
)

// Encode writes numbers as elements of a type, rounded to nearest even.
func Encode(x []float64, d ir.DType) []byte {
	b := make([]byte, len(x)*d.Bytes())
	for i, v := range x {
		switch d {
		case ir.F32:
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(v)))
		case ir.I32:
			binary.LittleEndian.PutUint32(b[4*i:], uint32(int32(v)))
		case ir.BF16:
			binary.LittleEndian.PutUint16(b[2*i:], uint16(math.Float32bits(float32(ir.Round(v, d)))>>16))
		case ir.F16:
			binary.LittleEndian.PutUint16(b[2*i:], half(ir.Round(v, d)))
		case ir.E4M3, ir.E5M2:
			b[i] = eightBits(ir.Round(v, d), fractions[d])
		}
	}
	return b
}

// Decode reads elements of a type.
func Decode(b []byte, d ir.DType) []float64 {
	x := make([]float64, len(b)/d.Bytes())
	for i := range x {
		switch d {
		case ir.F32:
			x[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		case ir.I32:
			x[i] = float64(int32(binary.LittleEndian.Uint32(b[4*i:])))
		case ir.BF16:
			x[i] = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16))
		case ir.F16:
			x[i] = fromHalf(binary.LittleEndian.Uint16(b[2*i:]))
		case ir.E4M3, ir.E5M2:
			x[i] = fromEightBits(b[i], fractions[d])
		}
	}
	return x
}

// half encodes a number that is one of f16.
func half(v float64) uint16 {
	var sign uint16
	if math.Signbit(v) {
		sign, v = 0x8000, -v
	}
	switch {
	case math.IsNaN(v):
		return sign | 0x7e00
	case math.IsInf(v, 0):
		return sign | 0x7c00
	case v < 0x1p-14:
		return sign | uint16(math.Ldexp(v, 24))
	}
	fraction, exp := math.Frexp(v)
	return sign | uint16((exp+14)<<10) | uint16(math.Ldexp(fraction, 11))&0x3ff
}

func fromHalf(h uint16) float64 {
	exponent, fraction := int(h>>10&31), float64(h&0x3ff)
	v := math.Ldexp(fraction+1024, exponent-25)
	switch exponent {
	case 0:
		v = math.Ldexp(fraction, -24)
	case 31:
		v = math.Inf(1)
		if fraction != 0 {
			v = math.NaN()
		}
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return v
}

// fractions are the bits behind the first of types of 8 bits.
var fractions = map[ir.DType]int{ir.E4M3: 3, ir.E5M2: 2}

// bias8 is what the exponents of a type of 8 bits are more than their worth.
func bias8(fraction int) int { return 1<<(6-fraction) - 1 }

// eightBits encodes a number that is one of a type of 8 bits, or NaN.
func eightBits(v float64, fraction int) byte {
	var sign byte
	if math.Signbit(v) {
		sign, v = 0x80, -v
	}
	if math.IsNaN(v) {
		return 0x7f
	}
	bias := bias8(fraction)
	if v < math.Ldexp(1, 1-bias) {
		return sign | byte(math.Ldexp(v, bias+fraction-1))
	}
	f, exp := math.Frexp(v)
	return sign | byte((exp-1+bias)<<fraction) | byte(math.Ldexp(f, fraction+1))&(1<<fraction-1)
}

func fromEightBits(b byte, fraction int) float64 {
	bias := bias8(fraction)
	exponent, f := int(b&0x7f)>>fraction, float64(int(b)&(1<<fraction-1))
	v := math.Ldexp(f+float64(int(1)<<fraction), exponent-bias-fraction)
	switch {
	case exponent == 0:
		v = math.Ldexp(f, 1-bias-fraction)
	case fraction == 3 && b&0x7f == 0x7f, fraction == 2 && exponent == 31 && f > 0:
		v = math.NaN()
	case fraction == 2 && exponent == 31:
		v = math.Inf(1)
	}
	if b&0x80 != 0 {
		v = -v
	}
	return v
}
