package cpu

import (
	"math"
	"testing"
)

// ulps returns |got-want| in units in the last place of want as a float32.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	if float64(got) == want || got == w {
		return 0
	}
	next := math.Nextafter32(w, float32(math.Inf(1)))
	unit := math.Abs(float64(next) - float64(w))
	return math.Abs(float64(got)-want) / unit
}

func TestScalar(t *testing.T) {
	var we, wt, wq float64
	var xe, xt, xq float32
	for x := float32(-103); x < 88.7; x += 0.00137 {
		if u := ulps(exp32(x), math.Exp(float64(x))); u > we {
			we, xe = u, x
		}
		y := x / 8
		if u := ulps(tanh32(y), math.Tanh(float64(y))); u > wt {
			wt, xt = u, y
		}
		q, _ := normalTail(y)
		want := 0.5 * math.Erfc(math.Abs(float64(y))/math.Sqrt2)
		if u := math.Abs(float64(q)-want) * (1 << 24); u > wq {
			wq, xq = u, y
		}
	}
	t.Log("exp", we, xe, "tanh", wt, xt, "tail(abs, of 1)", wq, xq)
	t.Log(exp32(float32(math.Inf(-1))), exp32(200), exp32(float32(math.NaN())), tanh32(1e-30), tanh32(50), tanh32(float32(math.NaN())), exp32(89), exp32(88.7), exp32(-150), math.Exp(88.7))
}
