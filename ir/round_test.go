package ir

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestRoundTF32 compares with arithmetic on the bits of floats, of all magnitudes.
func TestRoundTF32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 1 << 16 {
		bits := r.Uint32()
		if i%4 == 0 {
			bits = bits&^0x1fff | 0x1000 // halfway between two
		}
		x := math.Float32frombits(bits)
		if x-x != 0 {
			continue
		}
		want := float64(math.Float32frombits((bits + 0xfff + bits>>13&1) &^ 0x1fff))
		if math.IsInf(want, 0) { // beyond what float holds, as Round has it
			continue
		}
		if got := RoundTF32(float64(x)); got != want {
			t.Fatalf("%g becomes %g, not %g", x, got, want)
		}
	}
}
