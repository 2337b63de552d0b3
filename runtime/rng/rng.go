// Package rng is the counter-based random generator of tfc: Philox4x32-10 (Salmon, Moraes, Dror, Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). A number depends only on its key and index, never on what
// was drawn before it, so any kernel on any device draws the same numbers in any order.
package rng

import "math/bits"

// Key names one stream of numbers.
type Key struct {
	Seed   uint64 // of the run
	Step   uint32 // optimizer step
	Stream uint32 // the place in the program that draws
	Micro  uint16 // micro-batch within the step
	Layer  uint16 // layer, 0 outside of layers
}

const (
	mul0, mul1   = 0xD2511F53, 0xCD9E8D57
	weyl0, weyl1 = 0x9E3779B9, 0xBB67AE85
)

// Philox returns the four words of counter c under key k after ten rounds.
func Philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(mul0, c[0])
		hi1, lo1 := bits.Mul32(mul1, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += weyl0
		k[1] += weyl1
	}
	return c
}

// Block returns numbers 4*block .. 4*block+3 of the stream.
func (k Key) Block(block uint64) [4]uint32 {
	return Philox(
		[4]uint32{uint32(block), k.Step, k.Stream, uint32(k.Micro)<<16 | uint32(k.Layer)},
		[2]uint32{uint32(k.Seed), uint32(k.Seed>>32) ^ uint32(block>>32)})
}

// Uint32 returns number i of the stream.
func (k Key) Uint32(i uint64) uint32 { return k.Block(i / 4)[i%4] }

// Uniform maps a word to [0, 1) with 24 bits, exactly representable in float32.
func Uniform(word uint32) float32 { return float32(word>>8) * (1.0 / (1 << 24)) }

// Keep says whether dropout with probability p keeps element i of the stream: Uniform(word) >= p.
func (k Key) Keep(i uint64, p float32) bool { return Uniform(k.Uint32(i)) >= p }
