package cpu

import "math"

// The elementary functions in float32. The polynomials are minimax fits made for this package; each is exact to a
// fraction of a float32 ulp, so what error is left is rounding. The vector kernels evaluate the same formulas.

var inf = float32(math.Inf(1))

const (
	log2E = 1.4426950408889634
	ln2Hi = 0.693359375 // ln 2 = ln2Hi + ln2Lo, and n*ln2Hi is exact for every n in use
	ln2Lo = -2.12194440054690583e-4

	// Beyond these bounds exp is 0 or +Inf in float32.
	expMin = -104
	expMax = 89

	roundToInt = 3 << 22 // x + roundToInt - roundToInt rounds to an integer for |x| < 2^22

	invSqrt2Pi = 0.3989422804014327
)

// expPoly approximates (e^r - 1 - r)/r² for |r| <= ln(2)/2 within 3e-9 of e^r.
var expPoly = [5]float32{0.4999999344776645, 0.16666520631651466, 0.04166838804987951, 0.008368716885160393, 0.0013814598480509836}

// tailPoly approximates, with t = 1/(1+tailScale*x), the function Q(x)*exp(x²/2)/t for 0 <= x <= 14 to 3.2e-8 relative,
// where Q(x) is the upper tail of the standard normal distribution.
var tailPoly = [9]float32{0.13962140435866838, 0.13986186859016397, 0.11983287563089823, 0.10550797208969113, -0.023109758851864348,
	0.1591740484513, -0.25571415529915026, 0.1439716492115979, -0.029145920127262994}

const tailScale = 0.35

// expSplit returns e^r - 1 and the integer n, as a float, with x = n*ln 2 + r, for x clamped to where exp is finite or 0.
func expSplit(x float32) (em1, n float32) {
	if x < expMin {
		x = expMin
	}
	if x > expMax {
		x = expMax
	}
	n = x*log2E + roundToInt - roundToInt
	r := x - n*ln2Hi - n*ln2Lo
	q := expPoly[4]
	q = q*r + expPoly[3]
	q = q*r + expPoly[2]
	q = q*r + expPoly[1]
	q = q*r + expPoly[0]
	return r + r*r*q, n
}

// pow2 returns 2^n for an integer n from -126 to 127.
func pow2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

// exp32 returns e^x within 2 ulp, subnormal results included.
func exp32(x float32) float32 {
	em1, n := expSplit(x)
	i := int32(n)
	half := i >> 1 // two steps, for 2^n itself may overflow or underflow
	return (1 + em1) * pow2(half) * pow2(i-half)
}

// tanh32 returns tanh(x), accurate near 0 too: tanh x = (e^2x - 1)/(e^2x + 1), with e^2x - 1 never rounded through e^2x.
func tanh32(x float32) float32 {
	y := 2 * x
	if y < -20 {
		y = -20
	}
	if y > 20 {
		y = 20
	}
	em1, n := expSplit(y)
	s := pow2(int32(n))
	em1 = em1*s + (s - 1)
	return em1 / (em1 + 2)
}

// sigmoid32 returns 1/(1+e^-x).
func sigmoid32(x float32) float32 { return 1 / (1 + exp32(-x)) }

// normalTail returns the upper tail Q(|x|) of the standard normal distribution and e^(-x²/2).
func normalTail(x float32) (q, e float32) {
	if x < 0 {
		x = -x
	}
	e = exp32(-0.5 * x * x)
	t := 1 / (1 + tailScale*x)
	q = tailPoly[8]
	for i := 7; i >= 0; i-- {
		q = q*t + tailPoly[i]
	}
	return q * t * e, e
}

// sumLanes is the number of partial sums of every vectorised sum. Element i belongs to lane i%sumLanes in every
// variant of a kernel.
const sumLanes = 16

// foldLanes adds the lanes pairwise, halving: the order that vector registers allow.
func foldLanes(l *[sumLanes]float32) float32 {
	for w := sumLanes / 2; w > 0; w /= 2 {
		for i := range w {
			l[i] += l[i+w]
		}
	}
	return l[0]
}

// expRow writes dst = exp(x - shift) and returns the sum of dst, taken in an order that depends on len(x) alone.
// dst may be x.
func expRow(dst, x []float32, shift float32) (sum float32) {
	var lanes [sumLanes]float32
	dst = dst[:len(x)]
	if expVector(dst, x, shift, &lanes) {
		return foldLanes(&lanes)
	}
	for i, v := range x {
		e := exp32(v - shift)
		dst[i] = e
		lanes[i%sumLanes] += e
	}
	return foldLanes(&lanes)
}

// tanhRow writes dst = out*tanh(in*x). dst may be x.
func tanhRow(dst, x []float32, in, out float32) {
	dst = dst[:len(x)]
	if tanhVector(dst, x, in, out) {
		return
	}
	for i, v := range x {
		dst[i] = out * tanh32(in*v)
	}
}

// foldLanes64 is foldLanes for sums in float64.
func foldLanes64(l *[sumLanes]float64) float64 {
	for w := sumLanes / 2; w > 0; w /= 2 {
		for i := range w {
			l[i] += l[i+w]
		}
	}
	return l[0]
}

// rowMax returns the largest element of x, -Inf where there is none. A NaN may or may not count.
func rowMax(x []float32) float32 {
	top, done := maxVector(x)
	for _, v := range x[done:] {
		if v > top {
			top = v
		}
	}
	return top
}
