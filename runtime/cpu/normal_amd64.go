package cpu

import "github.com/tfc-dev/tfc/runtime/rng"

// normalVector does what Normal says for as many numbers as the active variant has a kernel for, and returns how many.
func normalVector(dst []float32, key rng.Key, first uint64, scale float64) (done int) {
	const step = 32                                  // numbers
	n := min(len(dst), int(4*(1<<32-first%(1<<32)))) // the kernel counts in the low word
	n -= n % step
	if n == 0 || active.rows == rowsPlain {
		return 0
	}
	c := [6]uint32{uint32(first), key.Step, key.Stream, uint32(key.Micro)<<16 | uint32(key.Layer),
		uint32(key.Seed), uint32(key.Seed>>32) ^ uint32(first>>32)}
	if active.rows == rowsAVX512 {
		normalAVX512(&dst[0], n, &c, scale)
	} else {
		normalAVX2(&dst[0], n, &c, scale)
	}
	return n
}
