package rng

import "testing"

// The known answers are those published with the Random123 library (kat_vectors, philox4x32 10).
func TestPhiloxKnownAnswers(t *testing.T) {
	cases := []struct {
		c    [4]uint32
		k    [2]uint32
		want [4]uint32
	}{
		{[4]uint32{0, 0, 0, 0}, [2]uint32{0, 0}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	}
	for _, c := range cases {
		if got := Philox(c.c, c.k); got != c.want {
			t.Errorf("Philox(%x, %x) = %x, want %x", c.c, c.k, got, c.want)
		}
	}
}

func TestKeepRate(t *testing.T) {
	k, kept := Key{Seed: 7, Step: 3, Stream: 2, Micro: 1, Layer: 5}, 0
	const n = 200_000
	for i := range uint64(n) {
		if k.Keep(i, 0.25) {
			kept++
		}
	}
	if rate := float64(kept) / n; rate < 0.745 || rate > 0.755 {
		t.Errorf("kept %.4f of the elements at p = 0.25", rate)
	}
}
