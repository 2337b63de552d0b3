package gpu

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// The peaks are measured on work that grows until it takes long enough for the time to be its own, or is as large as this.
const (
	longEnough = time.Millisecond
	mostCopied = 1 << 30 // bytes
	mostSide   = 8192    // of the matrices of a product
	leastSide  = 128
	peakTimes  = 10
)

// MemoryUsed implements lm.Measured.
func (d *device) MemoryUsed() (int64, error) {
	free, total, err := d.ctx.MemInfo()
	return int64(total - free), err
}

// Roofline implements lm.Measured. The product is of the program's type, and where it has such products another one of 8 bits, on
// numbers drawn at random: a GPU is slower at those than at zeros, which take less power.
func (d *device) Roofline() (r lm.Roofline, err error) {
	s, err := d.ctx.NewStream()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p := Product{TransB: true, A: d.program.Element, B: d.program.Element, D: d.program.Element}
	r.Product = p.A.String()
	for _, q := range d.program.Products {
		if q.Compute == ComputeTF32 {
			p.Compute, r.Product = q.Compute, q.Compute.String()
		}
	}
	err = grow(1<<20, mostCopied, func(bytes int) (time.Duration, error) {
		took, err := d.timeCopy(s, bytes)
		if err == nil {
			r.Copied, r.Bandwidth = bytes, 2*float64(bytes)/took.Seconds()
		}
		return took, err
	})
	if err != nil {
		return r, err
	}
	if r.Side, r.FLOPS, err = d.peak(s, p); err != nil {
		return r, err
	}
	for _, q := range d.program.Products {
		if q.A == E4M3 {
			var flops float64
			_, flops, err = d.peak(s, Product{TransB: true, A: q.A, B: q.B, D: BF16})
			r.Rates = map[string]float64{"fp8": flops}
			break
		}
	}
	return r, err
}

// peak measures products like p of square matrices, and returns the side of the largest and its floating-point operations a second.
func (d *device) peak(s *cuda.Stream, p Product) (side int, flops float64, err error) {
	err = grow(leastSide, mostSide, func(n int) (time.Duration, error) {
		p.M, p.N, p.K = n, n, n
		took, err := d.timeProduct(s, p)
		if err == nil {
			side, flops = n, p.FLOPs()/took.Seconds()
		}
		return took, err
	})
	return side, flops, err
}

// grow calls f with twice as much each time, until it takes long enough, or memory is out.
func grow(from, to int, f func(n int) (time.Duration, error)) error {
	for n := from; n <= to; n *= 2 {
		took, err := f(n)
		var full *cuda.OutOfMemoryError
		if n > from && errors.As(err, &full) {
			return nil // what was measured before counts
		}
		if err != nil || took >= longEnough {
			return err
		}
	}
	return nil
}

// timeCopy returns the time of a copy on the device.
func (d *device) timeCopy(s *cuda.Stream, bytes int) (t time.Duration, err error) {
	var from, to Ptr
	m, err := d.allocate("measuring the memory's speed", func(m *memory) { from, to = m.take(bytes), m.take(bytes) })
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.free()) }()
	return medianTime(d.ctx, s, peakTimes, func() { s.Copy(to, from, bytes) })
}

// timeProduct returns the time of a product.
func (d *device) timeProduct(s *cuda.Stream, p Product) (t time.Duration, err error) {
	bytes, eight := p.M*p.N*p.A.Size(), p.A.Size() == 1
	var c, a, b, scale, workspace Ptr
	m, err := d.allocate("measuring the speed of products", func(m *memory) {
		c, a, b, workspace = m.take(p.M*p.N*p.D.Size()), m.take(bytes), m.take(bytes), m.take(footprint.Workspace)
		if eight {
			scale = m.take(4)
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.free()) }()
	r := rand.New(rand.NewPCG(1, 2))
	var data []byte
	if eight {
		data = make([]byte, bytes)
		for i := range data {
			data[i] = byte(r.Uint32())&0x8f | 0x30 // as e4m3: ±0.5 to 2
		}
		if err := d.ctx.Upload(scale, cuda.Bytes([]float32{1})); err != nil {
			return 0, err
		}
	} else {
		x := make([]float32, p.M*p.K)
		for i := range x[:min(len(x), transferFloats)] {
			x[i] = float32(r.NormFloat64())
		}
		for at := transferFloats; at < len(x); at += transferFloats { // often enough drawn
			copy(x[at:], x[:transferFloats])
		}
		data = cuda.Bytes(x)
		if p.A != F32 {
			data = make([]byte, bytes)
			inParallel(len(x), func(from, to int) { encode(data[2*from:], x[from:to], p.A) })
		}
	}
	for _, to := range []Ptr{a, b} {
		if err := d.ctx.Upload(to, data); err != nil {
			return 0, err
		}
	}
	blas, err := d.ctx.NewBLAS(workspace, footprint.Workspace, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, blas.Close()) }()
	prepared, err := blas.Prepare(p)
	if err != nil {
		return 0, err
	}
	return medianTime(d.ctx, s, peakTimes, func() {
		if eight {
			s.MultiplyScaled(prepared, c, a, b, 0, 0, scale, scale)
		} else {
			s.Multiply(prepared, c, a, b, 0, 0, 0, 1)
		}
	})
}
