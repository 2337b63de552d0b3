package gpu

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// inputs are what generation is told of each row: token, position and slot, and how to pick the next token. The host knows
// what the device has of them, so that only what differs is copied: where a decode step has picked tokens, these and their
// positions lie where the next one reads them.
type inputs struct {
	capacity int // rows
	rows     int // of ints that the device has, too

	ints    *cuda.Pinned // tokens, positions and slots, of capacity each
	options *cuda.Pinned // SampleOptions (sample.cuh)
	given   []lm.PickOptions
	vocab   int
}

func (in *inputs) allocate(ctx *cuda.Context, p *Program) (err error) {
	in.capacity, in.vocab = p.footprint().InputRows(), p.VocabSize
	if in.ints, err = ctx.Pinned(3 * 4 * in.capacity); err != nil {
		return err
	}
	in.options, err = ctx.Pinned(footprint.PickOptions * p.MaxDecode)
	return err
}

func (in *inputs) tokens() []int32    { return in.ints.Int32s()[:in.capacity] }
func (in *inputs) positions() []int32 { return in.ints.Int32s()[in.capacity:][:in.capacity] }
func (in *inputs) slots() []int32     { return in.ints.Int32s()[2*in.capacity:][:in.capacity] }

// put brings the device's inputs up to date. No slots and no options: the call reads none. The stream must be done with
// earlier ones.
func (in *inputs) put(r *Run, tokens, positions, slots []int32, options []lm.PickOptions) {
	n := len(tokens)
	if n > in.rows || !slices.Equal(in.tokens()[:n], tokens) || !slices.Equal(in.positions()[:n], positions) || !slices.Equal(in.slots()[:n], slots) {
		copy(in.tokens(), tokens)
		copy(in.positions(), positions)
		copy(in.slots(), slots)
		for i, to := range []Ptr{r.Tokens, r.Positions, r.Slots} {
			r.stream.CopyIn(to, in.ints, 4*i*in.capacity, 4*n)
		}
		in.rows = n
	}
	if n := len(options); n > len(in.given) || !slices.Equal(in.given[:n], options) {
		for i, o := range options {
			in.encode(in.options.Bytes()[footprint.PickOptions*i:], o)
		}
		r.stream.CopyIn(r.Options, in.options, 0, footprint.PickOptions*n)
		in.given = append(in.given[:0], options...)
	}
}

// encode writes SampleOptions.
func (in *inputs) encode(b []byte, o lm.PickOptions) {
	tokens := in.vocab
	if 0 < o.Tokens && o.Tokens < tokens {
		tokens = o.Tokens
	}
	binary.LittleEndian.PutUint64(b, math.Float64bits(o.Temperature))
	binary.LittleEndian.PutUint64(b[8:], math.Float64bits(o.TopP))
	binary.LittleEndian.PutUint64(b[16:], o.Seed)
	binary.LittleEndian.PutUint32(b[24:], uint32(min(o.TopK, tokens)))
	binary.LittleEndian.PutUint32(b[28:], uint32(o.Sequence))
	binary.LittleEndian.PutUint64(b[32:], uint64(tokens))
}

// advance says that a pick has moved the device's positions of some rows. The stream must be done with it.
func (in *inputs) advance(from, to int) {
	positions := in.positions()
	for i := from; i < to; i++ {
		positions[i]++
	}
}
