package gpu

import (
	"errors"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
)

// transferFloats is how many numbers are converted and copied at once: enough for the bus's full speed, and few enough for a
// processor's caches.
const transferFloats = 2 << 20

// transfer moves numbers between host and device through two page-locked buffers: while one is copied, all cores fill or
// empty the other. It begins when all work of the device is done, and other streams do not wait for it.
type transfer struct {
	ctx     *cuda.Context
	stream  *cuda.Stream
	buffers [2]*cuda.Pinned
	copied  [2]*cuda.Event
	next    int // buffers taken by up
}

// newTransfer makes a transfer, for no more than so many numbers at once.
func (d *device) newTransfer(floats int) (*transfer, error) {
	t := &transfer{ctx: d.ctx}
	if err := t.start(4 * min(floats, transferFloats)); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *transfer) start(bytes int) (err error) {
	if err := t.ctx.Sync(); err != nil {
		return err
	}
	if t.stream, err = t.ctx.NewStream(); err != nil {
		return err
	}
	for i := range t.buffers {
		if t.buffers[i], err = t.ctx.Pinned(bytes); err != nil {
			return err
		}
		if t.copied[i], err = t.ctx.NewEvent(); err != nil {
			return err
		}
	}
	return nil
}

// source fills in len(dst) of some numbers, from an index on.
type source func(dst []float32, from int)

// held is numbers that the host holds.
func held(x []float32) source {
	return func(dst []float32, from int) {
		inParallel(len(dst), func(begin, end int) { copy(dst[begin:end], x[from+begin:]) })
	}
}

// up writes n numbers to the device and, where their type is not f32, copies of them in that type. They are there after the
// stream's Sync, which has the error.
func (t *transfer) up(n int, read source, to, copies Ptr, d DType) {
	for at := 0; at < n; at += transferFloats {
		i, err := t.take()
		if err != nil {
			return
		}
		part := t.buffers[i].Float32s()[:min(n-at, transferFloats)]
		read(part, at)
		t.put(i, to.At(4*at), 4*len(part))
		if d == F32 {
			continue
		}
		j, err := t.take()
		if err != nil {
			return
		}
		inParallel(len(part), func(from, end int) { encode(t.buffers[j].Bytes()[from*d.Size():], part[from:end], d) })
		t.put(j, copies.At(at*d.Size()), len(part)*d.Size())
	}
}

// take returns the next buffer, once what it held is copied.
func (t *transfer) take() (i int, err error) {
	i = t.next % len(t.buffers)
	t.next++
	return i, t.stream.Await(t.copied[i])
}

// put begins the copy of a buffer to the device.
func (t *transfer) put(i int, to Ptr, bytes int) {
	t.stream.CopyIn(to, t.buffers[i], 0, bytes)
	t.stream.Record(t.copied[i])
}

// down reads float32s from the device.
func (t *transfer) down(x []float32, from Ptr) error {
	read := func(at int) []float32 { return x[at:min(at+transferFloats, len(x))] }
	begin := func(at int) {
		i := at / transferFloats % len(t.buffers)
		t.stream.CopyOut(t.buffers[i], 0, from.At(4*at), 4*len(read(at)))
		t.stream.Record(t.copied[i])
	}
	if len(x) > 0 {
		begin(0)
	}
	for at := 0; at < len(x); at += transferFloats {
		if at+transferFloats < len(x) {
			begin(at + transferFloats) // beside the decoding below
		}
		i := at / transferFloats % len(t.buffers)
		if err := t.stream.Await(t.copied[i]); err != nil {
			return err
		}
		part := read(at)
		inParallel(len(part), func(begin, end int) { decode(part[begin:end], t.buffers[i].Bytes()[4*begin:], F32) })
	}
	return t.stream.Err()
}

// close gives everything back. Copies must be done, unless one failed.
func (t *transfer) close() error {
	var errs []error
	if t.stream != nil {
		if t.stream.Err() != nil {
			t.ctx.Sync() // what began before; the error is told already
		}
		errs = append(errs, t.stream.Close())
	}
	for i := range t.buffers {
		if t.copied[i] != nil {
			errs = append(errs, t.copied[i].Close())
		}
		if t.buffers[i] != nil {
			errs = append(errs, t.buffers[i].Free())
		}
	}
	return errors.Join(errs...)
}

// upload writes weights to the device, and where the program's elements are others, a copy in their type.
func (d *device) upload(weights []float32, to, copies Ptr) (err error) {
	t, err := d.newTransfer(len(weights))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	t.up(len(weights), held(weights), to, copies, d.program.Element)
	return t.stream.Sync()
}

// uploadTables writes the tables one after another, and returns where each lies.
func (d *device) uploadTables(at Ptr) ([]Ptr, error) {
	var all []Ptr
	for _, t := range d.program.Tables {
		if err := d.ctx.Upload(at, cuda.Bytes(t.values())); err != nil {
			return nil, err
		}
		all = append(all, at)
		at = at.At(footprint.Round(4 * t.Max * len(t.Freqs)))
	}
	return all, nil
}
