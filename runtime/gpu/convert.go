package gpu

import (
	"encoding/binary"
	"math"
	"runtime"
	"sync"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// encode writes x as elements of type d, one of 16 bits, rounded to nearest even.
func encode(dst []byte, x []float32, d DType) {
	switch d {
	case BF16:
		dst = dst[:2*len(x)]
		for ; len(x) >= 2 && len(dst) >= 4; x, dst = x[2:], dst[4:] {
			binary.LittleEndian.PutUint32(dst, uint32(bf16(x[0]))|uint32(bf16(x[1]))<<16)
		}
		if len(x) > 0 {
			binary.LittleEndian.PutUint16(dst, bf16(x[0]))
		}
	case F16:
		for i, v := range x {
			binary.LittleEndian.PutUint16(dst[2*i:], f16(v))
		}
	}
}

// decode reads elements of type d.
func decode(x []float32, src []byte, d DType) {
	switch d {
	case F32:
		copy(cuda.Bytes(x), src) // hosts of GPUs are little-endian, too
	case BF16:
		for i := range x {
			x[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F16:
		for i := range x {
			x[i] = fromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// bf16 rounds to the nearest bfloat16, ties to even.
func bf16(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40 // a quiet NaN
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// f16 rounds to the nearest half, ties to even.
func f16(v float32) uint16 {
	b := math.Float32bits(v)
	sign := uint16(b >> 16 & 0x8000)
	a := b & 0x7fffffff
	switch {
	case a > 0x7f800000:
		return sign | 0x7e00
	case a >= 0x477ff000: // rounds to 65520 or more
		return sign | 0x7c00
	case a < 0x38800000: // below the smallest normal: in units of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(a))*(1<<24)))
	}
	a += 0xfff + a>>13&1
	return sign | uint16((a-0x38000000)>>13)
}

// fromF16 is exact.
func fromF16(h uint16) float32 {
	exponent, fraction := int(h>>10&31), float64(h&0x3ff)
	var v float64
	switch exponent {
	case 0:
		v = math.Ldexp(fraction, -24)
	case 31:
		v = math.Inf(1)
		if fraction != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(fraction+1024, exponent-25)
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return float32(v)
}

// inParallel calls f for consecutive ranges of n elements, on all cores.
func inParallel(n int, f func(from, to int)) {
	workers := runtime.GOMAXPROCS(0)
	var wait sync.WaitGroup
	for i := range workers {
		from, to := n*i/workers, n*(i+1)/workers
		wait.Go(func() { f(from, to) })
	}
	wait.Wait()
}
