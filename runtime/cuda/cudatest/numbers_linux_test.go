//go:build linux && (amd64 || arm64)

package cudatest

import (
	"math"
	"math/bits"
	"slices"
	"testing"
)

// format is a type of 16 bits: so many bits of exponent, the rest of mantissa.
type format struct{ exponent int }

var bfloat16, float16 = format{8}, format{5}

// value is what 16 bits mean.
func (f format) value(b uint16) float64 {
	m := 15 - f.exponent
	bias := 1<<(f.exponent-1) - 1
	e, frac := int(b>>m)&(1<<f.exponent-1), float64(b&(1<<m-1))/float64(uint(1)<<m)
	x := 0.0
	switch {
	case e == 0:
		x = math.Ldexp(frac, 1-bias)
	case e < 1<<f.exponent-1:
		x = math.Ldexp(1+frac, e-bias)
	case frac == 0:
		x = math.Inf(1)
	default:
		return math.NaN()
	}
	return math.Copysign(x, 0.5-float64(b>>15))
}

// largest is the bits of the largest finite number.
func (f format) largest() uint16 { return (1<<f.exponent-1)<<(15-f.exponent) - 1 }

// round rounds to nearest even by looking for the neighbours.
func (f format) round(x float32) uint16 {
	if x != x {
		return 0x7fff
	}
	sign := uint16(math.Float32bits(x) >> 16 & 0x8000)
	size := math.Abs(float64(x))
	above, _ := slices.BinarySearchFunc(f.finite(), size, func(v, x float64) int {
		if v < x {
			return -1
		}
		return 1
	}) // the first number that is not below
	if above == 0 {
		return sign
	}
	low, high := f.value(uint16(above-1)), f.value(uint16(above))
	if above == int(f.largest())+1 { // infinity counts as the number that would follow
		high = low + (low - f.value(uint16(above-2)))
	}
	switch d := (size - low) - (high - size); {
	case d < 0 || d == 0 && (above-1)%2 == 0:
		return sign | uint16(above-1)
	}
	return sign | uint16(above)
}

var finite = map[format][]float64{}

func (f format) finite() []float64 {
	if finite[f] == nil {
		for i := range f.largest() + 1 {
			finite[f] = append(finite[f], f.value(i))
		}
	}
	return finite[f]
}

// nasty are floats at which a conversion may go wrong: all numbers of both formats, the middles between them, the floats
// beside these, and all sorts of extremes.
func nasty() []float32 {
	var xs []float32
	around := func(x float32) {
		b := math.Float32bits(x)
		for _, n := range []uint32{b, b + 1, b - 1} {
			xs = append(xs, math.Float32frombits(n), math.Float32frombits(n^1<<31))
		}
	}
	for _, f := range []format{bfloat16, float16} {
		v := f.finite()
		for i := range v[1:] {
			around(float32(v[i]))
			around(float32((v[i] + v[i+1]) / 2))
		}
		around(float32(v[len(v)-1]))
	}
	for _, b := range []uint32{0x7f800000, 0x7fc00000, 0x7fffffff, 0x7f7fffff, 0x00800000, 0x007fffff, 1, 0x477fefff, 0x477ff000, 0x33000000, 0x7f7f8000} {
		around(math.Float32frombits(b))
	}
	return xs
}

func TestConversions(t *testing.T) {
	for name, before := range map[string]string{"CPU": "", "software": "#define SOFTWARE\n"} {
		t.Run(name, func(t *testing.T) {
			a := open(t)
			a.load("numbers.cu", before)
			fromBF16, fromHalf := a.alloc(4<<16), a.alloc(4<<16)
			a.run("widen", blocks(64, 1024), fromBF16, fromHalf)
			for f, p := range map[format]uintptr{bfloat16: fromBF16, float16: fromHalf} {
				for i, x := range download[float32](a, p, 1<<16) {
					want := f.value(uint16(i))
					if float64(x) != want && !(isNaN(x) && want != want) || math.Signbit(float64(x)) != (i >= 1<<15) && !isNaN(x) {
						t.Fatalf("%v: %#x is %v, not %v", f, i, x, want)
					}
				}
			}
			xs := nasty()
			toBF16, toHalf := a.alloc(2*len(xs)), a.alloc(2*len(xs))
			a.run("narrow", blocks((len(xs)+255)/256, 256), toBF16, toHalf, upload(a, xs), len(xs))
			for f, p := range map[format]uintptr{bfloat16: toBF16, float16: toHalf} {
				for i, b := range download[uint16](a, p, len(xs)) {
					if want := f.round(xs[i]); b != want {
						t.Fatalf("%v: %v (%#x) becomes %#x, not %#x", f, xs[i], math.Float32bits(xs[i]), b, want)
					}
				}
			}
		})
	}
}

func TestPack(t *testing.T) {
	a := open(t)
	a.load("numbers.cu", "")
	out := a.alloc(8)
	a.run("pack", oneBlock(1), out, upload(a, []float32{1.5, -2}))
	equal(t, "packed", download[uint32](a, out, 2), []uint32{0xc0003fc0, 0xc0003e00})
}

func TestFunctions(t *testing.T) {
	a := open(t)
	a.load("numbers.cu", "")
	out := a.alloc(4 * 9)
	near := func(what string, got float32, want float64) {
		t.Helper()
		if math.Abs(float64(got)-want) > 1e-6*math.Abs(want) {
			t.Errorf("%s is %v, not %v", what, got, want)
		}
	}
	a.run("floats", oneBlock(1), out, float32(2.5), float32(-7))
	f := download[float32](a, out, 8)
	near("exp2_fast", f[0], math.Exp2(2.5))
	near("__expf", f[1], math.Exp(2.5))
	near("__fdividef", f[2], 2.5/-7)
	near("rsqrtf", f[3], 1/math.Sqrt(2.5))
	near("__logf", f[4], math.Log(2.5))
	equal(t, "fmaf, max, min", f[5:], []float32{-16.5, 2.5, -7})
	a.run("floats", oneBlock(1), out, float32(math.Inf(-1)), float32(0))
	equal(t, "exp2_fast and __expf of -∞", download[float32](a, out, 2), []float32{0, 0})
	a.run("floats", oneBlock(1), out, float32(-130), float32(math.Ldexp(1, 127)))
	f = download[float32](a, out, 3)
	equal(t, "a result that is subnormal, and a quotient by more than 2^126", []float32{f[0], f[2]}, []float32{0, float32(math.Copysign(0, -1))})

	x, y := uint32(0x81234567), uint32(0x9abcdef0)
	a.run("bits", oneBlock(1), out, x, y)
	hi, _ := bits.Mul32(x, y)
	equal(t, "bits", download[uint32](a, out, 9), []uint32{
		hi, uint32(bits.OnesCount32(x)), 0, 1, bits.Reverse32(x), 0x819a45de, y<<8 | x>>24, y<<24 | x>>8, x,
	})
	a.run("bits", oneBlock(1), out, uint32(0), uint32(0))
	equal(t, "bits of 0", download[uint32](a, out, 5), []uint32{0, 0, 32, 0, 0})
}
