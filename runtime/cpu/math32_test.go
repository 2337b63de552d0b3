package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// ulps returns |got-want| in units in the last place of want as a float32.
func ulps(got float32, want float64) float64 {
	w := float32(want)
	if got == w {
		return 0
	}
	unit := math.Abs(float64(math.Nextafter32(w, inf)) - float64(w))
	return math.Abs(float64(got)-want) / unit
}

func TestExpRow(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		var x []float32
		for v := float32(-104); v < 88.7; v += 0.0017 {
			x = append(x, v)
		}
		y := make([]float32, len(x))
		expRow(y, x, 0)
		for i, v := range x {
			if u := ulps(y[i], math.Exp(float64(v))); !(u <= 2) {
				t.Fatalf("exp(%g) is %g, %.1f ulp off", v, y[i], u)
			}
		}
		for _, c := range [][2]float32{{-inf, 0}, {-200, 0}, {inf, inf}, {100, inf}, {0, 1}} {
			z := []float32{c[0]}
			expRow(z, z, 0)
			if z[0] != c[1] {
				t.Fatalf("exp(%g) is %g", c[0], z[0])
			}
		}
		z := []float32{nan}
		if sum := expRow(z, z, 0); sum == sum || z[0] == z[0] {
			t.Fatalf("exp(NaN) is %g, the sum %g", z[0], sum)
		}
	})
}

// TestExpRowSum checks sums and shifts at every length near whole registers, and that nothing beside dst is written.
func TestExpRowSum(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		for n := range 70 {
			x, dst := randoms(r, n), make([]float32, n+16)
			fill(dst, nan)
			sum := expRow(dst, x, 0.5)
			want := 0.0
			for i, v := range x {
				e := math.Exp(float64(v - 0.5))
				want += e
				if ulps(dst[i], e) > 2 {
					t.Fatalf("length %d, element %d: %g, want %g", n, i, dst[i], e)
				}
			}
			if math.Abs(float64(sum)-want) > 1e-6*want {
				t.Fatalf("length %d: sum %g, want %g", n, sum, want)
			}
			for _, v := range dst[n:] {
				if v == v {
					t.Fatalf("length %d: written beyond dst", n)
				}
			}
			if again := expRow(x, x, 0.5); again != sum {
				t.Fatalf("length %d: in place the sum is %g, else %g", n, again, sum)
			}
		}
	})
}

// TestRowsIgnorePlace holds each element to one value wherever in the row it stands.
func TestRowsIgnorePlace(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		const n = 53
		x := randoms(rand.New(rand.NewPCG(2, 1)), n)
		for what, f := range map[string]func(row []float32){
			"exp":      func(row []float32) { expRow(row, row, 0) },
			"tanh":     func(row []float32) { tanhRow(row, row, 1.1, 0.9) },
			"gelu":     func(row []float32) { apply(GELU, row, row) },
			"tanhgelu": func(row []float32) { apply(GELUTanh, row, row) },
			"silu":     func(row []float32) { apply(SiLU, row, row) },
			"grad":     func(row []float32) { gradRow(GELU, row, row, row) },
		} {
			whole := append([]float32(nil), x...)
			f(whole)
			for i := range x {
				one := []float32{x[i]}
				f(one)
				if one[0] != whole[i] {
					t.Fatalf("%s: element %d is %g in the row, %g alone", what, i, whole[i], one[0])
				}
			}
		}
	})
}

func TestTanhRow(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		var x []float32
		for v := float32(1e-30); v < 100; v *= 1.003 {
			x = append(x, v, -v)
		}
		y := make([]float32, len(x))
		tanhRow(y, x, 1, 1)
		for i, v := range x {
			if u := ulps(y[i], math.Tanh(float64(v))); !(u <= 3) {
				t.Fatalf("tanh(%g) is %g, %.1f ulp off", v, y[i], u)
			}
		}
		tanhRow(y, x, 0.5, 30)
		for i, v := range x {
			if u := ulps(y[i], 30*math.Tanh(0.5*float64(v))); !(u <= 5) {
				t.Fatalf("30*tanh(%g/2) is %g, %.1f ulp off", v, y[i], u)
			}
		}
	})
}

func TestRowMax(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 1))
		for n := range 70 {
			x := randoms(r, n)
			want := -inf
			for _, v := range x {
				want = max(want, v)
			}
			if got := rowMax(x); got != want {
				t.Fatalf("length %d: %g, want %g", n, got, want)
			}
		}
	})
}

// TestActivations compares with the definitions, and derivatives with central differences, over the range where float32
// tells them from 0 and x.
func TestActivations(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		for _, act := range []Activation{None, GELU, GELUTanh, ReLU, ReLU2, SiLU} {
			var x []float32
			for v := float32(-20); v < 20; v += 0.0113 {
				x = append(x, v)
			}
			y, dx, dy := append([]float32(nil), x...), make([]float32, len(x)), make([]float32, len(x))
			fill(dx, nan)
			fill(dy, 1.5)
			apply(act, y, y)
			gradRow(act, dx, dy, x)
			for i, v := range x {
				at := float64(v)
				want := act64(act, at)
				if d := math.Abs(float64(y[i]) - want); !(d <= 2e-7+3e-7*math.Abs(want)) {
					t.Fatalf("activation %d of %g is %g, want %g", act, v, y[i], want)
				}
				const h = 1e-5
				slope := 1.5 * (act64(act, at+h) - act64(act, at-h)) / (2 * h)
				if d := math.Abs(float64(dx[i]) - slope); !(d <= 1e-6*(1+math.Abs(slope))) {
					t.Fatalf("slope of activation %d at %g is %g, want %g", act, v, dx[i], slope)
				}
			}
			inPlace := append([]float32(nil), x...)
			gradRow(act, inPlace, dy, inPlace)
			near(t, "dx over x", wide(inPlace), wide(dx), 0)
			gradRow(act, dy, dy, x)
			near(t, "dx over dy", wide(dy), wide(dx), 0)
		}
	})
}

func BenchmarkRows(b *testing.B) {
	x, y := make([]float32, 2048), make([]float32, 2048)
	for i := range x {
		x[i] = float32(i%16) - 8
	}
	for what, f := range map[string]func(){
		"exp":          func() { expRow(y, x, 8) },
		"tanh":         func() { tanhRow(y, x, 1, 1) },
		"gelu":         func() { apply(GELU, y, x) },
		"geluTanh":     func() { apply(GELUTanh, y, x) },
		"silu":         func() { apply(SiLU, y, x) },
		"geluGrad":     func() { gradRow(GELU, y, x, x) },
		"geluTanhGrad": func() { gradRow(GELUTanh, y, x, x) },
		"relu2":        func() { apply(ReLU2, y, x) },
		"reluGrad":     func() { gradRow(ReLU, y, x, x) },
	} {
		for _, v := range variants() {
			b.Run(fmt.Sprint(what, "/", v.name), func(b *testing.B) {
				before := active
				defer func() { active = before }()
				active = v
				b.SetBytes(4 * int64(len(x)))
				for b.Loop() {
					f()
				}
			})
		}
	}
}
