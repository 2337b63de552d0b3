package cpu

import (
	"math"
	"testing"

	"github.com/tfc-dev/tfc/runtime/rng"
)

func TestOwnMathAgainstPackageMath(t *testing.T) {
	for i := 1; i <= 1<<24; i += 997 {
		x := float64(i) / (1 << 24)
		if got, want := logUnit(x), math.Log(x); math.Abs(got-want) > 1e-13*math.Abs(want) {
			t.Fatalf("ln %v = %v, want %v", x, got, want)
		}
		u := float64(i-1) / (1 << 24)
		sin, cos := sincosTurn(u)
		wantSin, wantCos := math.Sincos(2 * math.Pi * u)
		if math.Abs(sin-wantSin) > 2e-15*4 || math.Abs(cos-wantCos) > 2e-15*4 {
			t.Fatalf("sin, cos of %v turns = %v, %v, want %v, %v", u, sin, cos, wantSin, wantCos)
		}
	}
}

// TestNormalIsTheSame on all variants, wherever the numbers begin and end.
func TestNormalIsTheSame(t *testing.T) {
	const most = 1<<20 + 7
	defer func(v *variant) { active = v }(active)
	key := rng.Key{Seed: 0x123456789abcdef, Step: 3, Stream: 0xfedcba98, Micro: 5, Layer: 0xfff0}
	want, got := make([]float32, most), make([]float32, most)
	for _, c := range []struct {
		first uint64
		n     int
		scale float64
	}{{0, most, 1}, {7, 1, 1}, {1, 35, 3}, {1<<32 - 9, 4096, 0.02}, {1<<32 - 1024, 4096, 0.02}, {5 << 32, 64, 0.02}, {3, 0, 1}} {
		active = plain
		Normal(want[:c.n], key, c.first, c.scale)
		for _, active = range variants() {
			Normal(got[:c.n], key, c.first, c.scale)
			for i, w := range want[:c.n] {
				if math.Float32bits(got[i]) != math.Float32bits(w) {
					t.Fatalf("%s: number %d of %d from block %d on is %v, want %v", active.name, i, c.n, c.first, got[i], w)
				}
			}
		}
	}
}
