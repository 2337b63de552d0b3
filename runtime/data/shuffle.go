package data

import (
	"math/bits"

	"github.com/tfc-dev/tfc/runtime/rng"
)

// streamOrder is the stream of random numbers that orders the windows.
const streamOrder = 0x6f726472

const rounds = 8

// epoch is the order of one pass: a permutation that needs no table, a Feistel network over the smallest power of four
// that holds the count, applied until the result is below the count (Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", CT-RSA 2002).
type epoch struct {
	seed   uint64
	number uint32
}

// word returns a random word of the epoch. Round rounds is the one that draws the offset.
func (e epoch) word(round uint16, i uint64) [4]uint32 {
	return rng.Key{Seed: e.seed, Step: e.number, Stream: streamOrder, Micro: round}.Block(i)
}

// offset returns a number below n, drawn anew for each epoch.
func (e epoch) offset(n uint64) uint64 {
	w := e.word(rounds, 0)
	hi, _ := bits.Mul64(uint64(w[0])<<32|uint64(w[1]), n)
	return hi
}

// permute returns where i of n goes.
func (e epoch) permute(i, n uint64) uint64 {
	half := (bits.Len64(n-1) + 1) / 2
	mask := uint64(1)<<half - 1
	for {
		left, right := i>>half, i&mask
		for r := range uint16(rounds) {
			w := e.word(r, right)
			left, right = right, left^(uint64(w[0])<<32|uint64(w[1]))&mask
		}
		if i = left<<half | right; i < n {
			return i
		}
	}
}
