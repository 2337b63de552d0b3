package gpu

import (
	"errors"
	"fmt"
	"math"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// Backend is a program's code for GPUs, for lm.Config.
func Backend(p *Program) lm.Backend { return backend{p} }

type backend struct{ program *Program }

// Find implements lm.Backend. Kernels for all GPUs are compiled for the same ones, so one of them tells.
func (b backend) Find() (int, error) {
	image, err := b.program.image()
	if err != nil {
		return 0, err
	}
	_, modules, err := kernelfile.Unpack(image)
	if err != nil {
		return 0, err
	}
	for _, m := range modules { // those for one architecture alone say nothing about the others
		if len(m.Entries) > 0 && !b.program.elsewhere(m.Entries[0], "") {
			d, err := cuda.Find(m.Fatbin)
			return d.Index, err
		}
	}
	return 0, errors.New("the package's file of kernels is empty: run tfc build again")
}

// Open takes GPU number index into use, and loads the program's code there.
func (b backend) Open(index int) (lm.Device, error) {
	image, err := b.program.image()
	if err != nil {
		return nil, err
	}
	ctx, err := cuda.Open(index)
	if err != nil {
		return nil, err
	}
	d := &device{program: b.program, ctx: ctx}
	err = d.load(image)
	if err == nil { // that products can be made is found out now, where auto can still choose the CPU
		var blas *cuda.BLAS
		if blas, err = ctx.NewBLAS(0, 0, nil); err == nil {
			err = blas.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(err, ctx.Close())
	}
	return d, nil
}

// device is a GPU with the program's kernels on it.
type device struct {
	program *Program
	ctx     *cuda.Context
	kernels []cuda.Kernel
	noted   []string // for the user
	read    int      // of them, so many are read
	monitor monitor
}

func (d *device) String() string {
	at := d.ctx.Device()
	return fmt.Sprintf("cuda:%d, %s, compute capability %s, %.1f GiB", at.Index, at.Name, capability(at), float64(at.Memory)/(1<<30))
}

func (d *device) Close() error { return errors.Join(d.monitor.close(), d.ctx.Close()) }

// memory is one allocation on the device, cut into buffers.
type memory struct {
	ctx  *cuda.Context
	base Ptr
	size int
	used int
}

// take returns the next bytes; while the allocation is not made yet, it only counts them.
func (m *memory) take(bytes int) Ptr {
	p := m.base.At(m.used)
	m.used += footprint.Round(bytes)
	return p
}

// takeAll returns where each buffer of a list lies, by its name.
func (m *memory) takeAll(list []footprint.Buffer) map[string]Ptr {
	at := map[string]Ptr{}
	for _, b := range list {
		at[b.Name] = m.take(b.Bytes)
	}
	return at
}

// allocate runs cut twice: to count the bytes it takes, and, over memory of that size, to take them.
func (d *device) allocate(what string, cut func(m *memory)) (*memory, error) {
	m := &memory{ctx: d.ctx}
	cut(m)
	m.size = m.used
	if err := d.ctx.CheckFree(m.size, what); err != nil {
		return nil, err
	}
	var err error
	if m.base, err = d.ctx.Alloc(m.size); err != nil {
		return nil, err
	}
	m.used = 0
	cut(m)
	return m, nil
}

func (m *memory) free() error { return m.ctx.Free(m.base) }

// values computes a table, with the roundings of the CPU's.
func (t RotaryTable) values() []float32 {
	n := len(t.Freqs)
	x := make([]float32, t.Max*n)
	for pos := range t.Max {
		for i, f := range t.Freqs {
			sin, cos := math.Sincos(float64(float32(pos) * f))
			if t.Sine {
				cos = sin
			}
			x[pos*n+i] = float32(cos) * t.Scale
		}
	}
	return x
}
