package stories

import "github.com/tfc-dev/tfc/runtime/rng"

// dice rolls the numbers of one story.
type dice struct {
	key   rng.Key
	next  uint64
	words [4]uint32
}

func newDice(seed uint64, i int) dice {
	const micro = 0x5354 // apart from the streams that a training run with the same seed draws
	return dice{key: rng.Key{Seed: seed, Step: uint32(i), Stream: uint32(uint64(i) >> 32), Micro: micro}}
}

// below returns a number from 0 to n-1.
func (d *dice) below(n int) int {
	if n == 1 {
		return 0
	}
	if d.next%4 == 0 {
		d.words = d.key.Block(d.next / 4)
	}
	w := d.words[d.next%4]
	d.next++
	return int(uint64(w) * uint64(n) >> 32)
}
