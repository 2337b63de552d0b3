package cpu

import (
	"math"

	"github.com/tfc-dev/tfc/runtime/rng"
)

// Normal writes normal numbers of mean 0 and standard deviation scale, of key's blocks from first on, four a block: the
// Box-Muller transform (Box and Muller, 1958) of pairs of uniform numbers. With 24 bits to a number no value lies further
// than 5.77 deviations out. All variants, on all processors, give the same bits.
func Normal(dst []float32, key rng.Key, first uint64, scale float64) {
	done := normalVector(dst, key, first, scale)
	for i := done; i < len(dst); i += 4 {
		words := key.Block(first + uint64(i/4))
		var four [4]float64
		four[0], four[1] = normalPair(words[0], words[1])
		four[2], four[3] = normalPair(words[2], words[3])
		for j := range min(4, len(dst)-i) {
			dst[i+j] = float32(scale * four[j])
		}
	}
}

// normalPair turns two words into two independent standard normal numbers.
func normalPair(a, b uint32) (float64, float64) {
	radius := math.Sqrt(-2 * logUnit(1-float64(rng.Uniform(a)))) // of (0, 1]
	sin, cos := sincosTurn(float64(rng.Uniform(b)))
	return radius * cos, radius * sin
}

// The logarithm and the sine of package math differ in their last bit between processors. These two use nothing but
// single rounded operations (the conversions keep the compiler from fusing a product with a sum), which do not. They have
// no branches: a processor could not guess them.

// logUnit returns ln x for a normal x in (0, 1], as e*ln 2 + 2*atanh((m-1)/(m+1)) with m in [sqrt(1/2), sqrt 2).
// Its relative error is below 1e-13.
func logUnit(x float64) float64 {
	const rootHalf = 0x3fe6a09e667f3bcd // the bits of sqrt(1/2)
	bits := math.Float64bits(x)
	e := int64(bits-rootHalf) >> 52
	m := math.Float64frombits(bits - uint64(e)<<52)
	s := (m - 1) / (m + 1)
	return float64(float64(e)*math.Ln2) + float64(2*s*horner(&atanhSeries, s*s))
}

// sincosTurn returns the sine and cosine of u turns, u in [0, 1), by their Taylor series within a quarter turn.
// Its error is below 1e-14.
func sincosTurn(u float64) (sin, cos float64) {
	quarter := int(4 * u)
	x := (4*u - float64(quarter)) * (math.Pi / 2)
	sin, cos = x*horner(&sinSeries, x*x), horner(&cosSeries, x*x)
	turned := [4]float64{sin, cos, -sin, -cos}
	return turned[quarter&3], turned[(quarter+1)&3]
}

// The coefficients of atanh(s)/s in s², and of sin(x)/x and cos(x) in x².
var atanhSeries, sinSeries, cosSeries = func() (a, s, c [11]float64) {
	factorial := 1.0 // of 2i, with its sign
	for i := range a {
		a[i], s[i], c[i] = 1/float64(2*i+1), 1/(factorial*float64(2*i+1)), 1/factorial
		factorial *= -float64((2*i + 1) * (2*i + 2))
	}
	return a, s, c
}()

// horner evaluates a polynomial, constant term first.
func horner(c *[11]float64, x float64) float64 {
	sum := float64(c[10]*x) + c[9]
	sum = float64(sum*x) + c[8]
	sum = float64(sum*x) + c[7]
	sum = float64(sum*x) + c[6]
	sum = float64(sum*x) + c[5]
	sum = float64(sum*x) + c[4]
	sum = float64(sum*x) + c[3]
	sum = float64(sum*x) + c[2]
	sum = float64(sum*x) + c[1]
	return float64(sum*x) + c[0]
}
