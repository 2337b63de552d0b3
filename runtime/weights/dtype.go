package weights

import (
	"encoding/binary"
	"math"
)

// A dtype is an element type of safetensors. toFloat and toInt are nil where no conversion exists.
type dtype struct {
	bits    uint64
	toFloat func(dst []float32, src []byte)
	toInt   func(dst []int64, src []byte)
}

var dtypes = map[string]dtype{
	"F64":         {bits: 64, toFloat: floatsFromF64},
	"F32":         {bits: 32, toFloat: floatsFromF32},
	"F16":         {bits: 16, toFloat: floatsFromF16},
	"BF16":        {bits: 16, toFloat: floatsFromBF16},
	"I64":         {bits: 64, toInt: ints(8, func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) })},
	"I32":         {bits: 32, toInt: ints(4, func(b []byte) int64 { return int64(int32(binary.LittleEndian.Uint32(b))) })},
	"I16":         {bits: 16, toInt: ints(2, func(b []byte) int64 { return int64(int16(binary.LittleEndian.Uint16(b))) })},
	"I8":          {bits: 8, toInt: ints(1, func(b []byte) int64 { return int64(int8(b[0])) })},
	"U32":         {bits: 32, toInt: ints(4, func(b []byte) int64 { return int64(binary.LittleEndian.Uint32(b)) })},
	"U16":         {bits: 16, toInt: ints(2, func(b []byte) int64 { return int64(binary.LittleEndian.Uint16(b)) })},
	"U8":          {bits: 8, toInt: ints(1, func(b []byte) int64 { return int64(b[0]) })},
	"BOOL":        {bits: 8, toInt: ints(1, func(b []byte) int64 { return int64(b[0]) })},
	"U64":         {bits: 64},
	"C64":         {bits: 64},
	"F8_E5M2":     {bits: 8},
	"F8_E4M3":     {bits: 8},
	"F8_E8M0":     {bits: 8},
	"F8_E4M3FNUZ": {bits: 8},
	"F8_E5M2FNUZ": {bits: 8},
	"F6_E2M3":     {bits: 6},
	"F6_E3M2":     {bits: 6},
	"F4":          {bits: 4},
}

func floatsFromF64(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
}

func floatsFromF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func floatsFromBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

func floatsFromF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = fromF16(binary.LittleEndian.Uint16(src[2*i:]))
	}
}

// fromF16 widens an IEEE 754 binary16; every value, subnormals and NaN payloads included, has an exact float32.
func fromF16(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exponent {
	case 0: // zero or subnormal: fraction * 2^-24
		return math.Float32frombits(sign | math.Float32bits(float32(fraction)*(1.0/(1<<24))))
	case 31: // infinity or NaN
		return math.Float32frombits(sign | 255<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

func ints(size int, one func([]byte) int64) func([]int64, []byte) {
	return func(dst []int64, src []byte) {
		for i := range dst {
			dst[i] = one(src[size*i:])
		}
	}
}
