package gpu

import (
	"errors"
	"fmt"
	"math"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// Backend is a program's code for GPUs, for lm.Config.
func Backend(p *Program) lm.Backend { return backend{p} }

type backend struct{ program *Program }

// Find implements lm.Backend. All kernels are compiled for the same GPUs, so one of them tells.
func (b backend) Find() (int, error) {
	image, err := b.program.image()
	if err != nil {
		return 0, err
	}
	_, modules, err := kernelfile.Unpack(image)
	if err != nil {
		return 0, err
	}
	if len(modules) == 0 {
		return 0, errors.New("the package's file of kernels is empty: run tfc build again")
	}
	d, err := cuda.Find(modules[0].Fatbin)
	return d.Index, err
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
	monitor monitor
}

func (d *device) String() string {
	at := d.ctx.Device()
	return fmt.Sprintf("cuda:%d, %s, compute capability %s, %.1f GiB", at.Index, at.Name, capability(at), float64(at.Memory)/(1<<30))
}

func (d *device) Close() error { return errors.Join(d.monitor.close(), d.ctx.Close()) }

// blasWorkspace is the memory that cuBLASLt is given beside its operands; 32 MiB is what NVIDIA advises for Hopper.
const blasWorkspace = 32 << 20

// align is where buffers start: more than any access needs.
const align = 256

func roundUp(n int) int { return (n + align - 1) / align * align }

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
	m.used += roundUp(bytes)
	return p
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
