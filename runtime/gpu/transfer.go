package gpu

import (
	"encoding/binary"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
)

// transferFloats is how many numbers are converted and moved at once.
const transferFloats = 4 << 20

// upload writes x to the device as elements of type d.
func upload(ctx *cuda.Context, to Ptr, x []float32, d DType) error {
	buffer := make([]byte, min(len(x), transferFloats)*d.Size())
	for at := 0; at < len(x); at += transferFloats {
		part := x[at:min(at+transferFloats, len(x))]
		inParallel(len(part), func(from, end int) { encode(buffer[from*d.Size():], part[from:end], d) })
		if err := ctx.Upload(to.At(at*d.Size()), buffer[:len(part)*d.Size()]); err != nil {
			return err
		}
	}
	return nil
}

// download reads float32s from the device.
func download(ctx *cuda.Context, x []float32, from Ptr) error {
	buffer := make([]byte, 4*min(len(x), transferFloats))
	for at := 0; at < len(x); at += transferFloats {
		part := x[at:min(at+transferFloats, len(x))]
		if err := ctx.Download(buffer[:4*len(part)], from.At(4*at)); err != nil {
			return err
		}
		inParallel(len(part), func(begin, end int) { decode(part[begin:end], buffer[4*begin:], F32) })
	}
	return nil
}

func intBytes(x []int32) []byte {
	b := make([]byte, 4*len(x))
	for i, v := range x {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(v))
	}
	return b
}

// uploadTables writes the tables one after another, and returns where each lies.
func (d *device) uploadTables(at Ptr) ([]Ptr, error) {
	var all []Ptr
	for _, t := range d.program.Tables {
		if err := upload(d.ctx, at, t.values(), F32); err != nil {
			return nil, err
		}
		all = append(all, at)
		at = at.At(footprint.Round(4 * t.Max * len(t.Freqs)))
	}
	return all, nil
}
