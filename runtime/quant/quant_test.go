package quant

import (
	"math"
	"math/rand/v2"
	"testing"
)

func group(r *rand.Rand, scale float64) []float32 {
	x := make([]float32, Group)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// TestErrors holds every code to half a step of its number, and to a step and what a rounded scale adds at the ends.
func TestErrors(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	codes := make([]int8, Group)
	for _, size := range []float64{1e-20, 1e-3, 1, 1e10} {
		for range 200 {
			x := group(r, size)
			check := func(name string, scale float32, ends float64) {
				t.Helper()
				for i, v := range x {
					step := math.Abs(float64(scale))
					d := math.Abs(float64(v) - float64(codes[i])*float64(scale))
					bound := step * 0.5001
					if codes[i] >= 7 && name == "int4" || codes[i] == -8 || codes[i] == 127 || codes[i] == -127 {
						bound = step * ends
					}
					if d > bound {
						t.Fatalf("%s: %g became %d × %g", name, v, codes[i], scale)
					}
				}
			}
			check("int8", FromBF16(Int8(codes, x)), 0.75)
			check("int4", FromBF16(Int4(codes, x)), 1.05)
			check("activations", Activations(codes, x), 0.5001)
		}
	}
}

func TestSpecialGroups(t *testing.T) {
	codes := make([]int8, 4)
	zero := []float32{0, 0, 0, 0}
	if Int8(codes, zero) != 0 || Int4(codes, zero) != 0 || Activations(codes, zero) != 0 {
		t.Error("a group of zeros has a scale")
	}
	if Activations(codes, []float32{1e-38, 0, -1e-38, 0}) != 0 || codes != nil && codes[0] != 0 {
		t.Error("a tiny group is not 0")
	}
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		x := []float32{1, bad, 2, 3}
		for name, s := range map[string]float32{"int8": FromBF16(Int8(codes, x)), "int4": FromBF16(Int4(codes, x)), "activations": Activations(codes, x)} {
			if s-s == 0 {
				t.Errorf("%s: the scale of a group with %v is %v", name, bad, s)
			}
		}
	}
	Int8(codes, []float32{-127, 127, 1, 0})
	if codes[0] != -127 || codes[1] != 127 || codes[2] != 1 {
		t.Error(codes)
	}
	Int4(codes, []float32{-8, 7, 1, 0})
	if codes[0] != -8 || codes[1] != 7 || codes[2] != 1 || codes[3] != 0 {
		t.Error(codes)
	}
}

func TestBF16(t *testing.T) {
	for bits := range 1 << 16 {
		x := FromBF16(uint16(bits))
		if got := BF16(x); got != uint16(bits) && x == x {
			t.Fatalf("%#x came back as %#x", bits, got)
		}
		if x != x && FromBF16(BF16(x)) == FromBF16(BF16(x)) {
			t.Fatalf("NaN %#x became a number", bits)
		}
	}
	for x, want := range map[float32]float32{1 + 1.0/256: 1, 1 + 3.0/256: 1 + 1.0/64, 1 + 1.0/256 + 1e-6: 1 + 1.0/128, -1 - 1.0/256: -1} {
		if got := FromBF16(BF16(x)); got != want {
			t.Errorf("%v became %v, want %v", x, got, want)
		}
	}
}
