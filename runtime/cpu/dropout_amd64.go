package cpu

import (
	"math"

	"github.com/tfc-dev/tfc/runtime/rng"
)

// keepVector does what keepTo says and returns true, or returns false where the active variant has no kernel or the
// row reaches past the counters whose low word the kernel counts in.
func keepVector(factors []float32, prob float32, key rng.Key, first uint64) bool {
	const step = 32 // numbers
	block := first / 4
	if active.rows == rowsPlain || (block+uint64(len(factors))/4+step)>>32 != block>>32 {
		return false
	}
	// rng.Key.Block in words, and a limit: Uniform(w) >= prob where w>>8 > limit.
	limit := int32(math.Ceil(float64(prob)*(1<<24))) - 1
	c := [8]uint32{uint32(block), key.Step, key.Stream, uint32(key.Micro)<<16 | uint32(key.Layer),
		uint32(key.Seed), uint32(key.Seed>>32) ^ uint32(block>>32), uint32(limit), math.Float32bits(1 / (1 - prob))}
	skip := int(first % 4)
	var some [step]float32
	for len(factors) > 0 {
		if n := len(factors) &^ (step - 1); skip == 0 && n > 0 {
			keepWhole(&factors[0], n, &c)
			c[0] += uint32(n / 4)
			factors = factors[n:]
			continue
		}
		keepWhole(&some[0], step, &c)
		c[0] += step / 4
		factors = factors[copy(factors, some[skip:]):]
		skip = 0
	}
	return true
}

func keepWhole(dst *float32, n int, c *[8]uint32) {
	if active.rows == rowsAVX512 {
		keepAVX512(dst, n, c)
	} else {
		keepAVX2(dst, n, c)
	}
}
