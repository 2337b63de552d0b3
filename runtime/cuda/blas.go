package cuda

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"
)

// BLAS makes matrix products by cuBLASLt, on one stream at a time: products share its workspace.
//
// The same product gives the same bits every time: sums that are split over K are added in a fixed order, never by atomics,
// and the algorithm of a product is what the Lock says, or else the heuristic's first choice, which depends on nothing but
// the device and the library's version. Each algorithm among those that may be chosen gives its own bits, and always these.
type BLAS struct {
	ctx       *Context
	lib       *blasLibrary
	handle    uintptr
	workspace Ptr
	bytes     int
	lock      *Lock
	where     string // the lock's name for this device and library

	mu       sync.Mutex
	prepared map[Product]*Prepared
	dynamic  []Product // those of prepared with Dynamic set, a ring whose oldest is at next
	next     int
	timings  []Timing
}

// maxDynamic is how many products with Dynamic set stay prepared.
const maxDynamic = 1024

// NewBLAS makes ready for products. workspace is device memory at a multiple of 256 bytes that is the BLAS's until Close;
// 32 MiB are enough for every algorithm, with none those that split sums are left out. lock may be nil.
func (c *Context) NewBLAS(workspace Ptr, bytes int, lock *Lock) (*BLAS, error) {
	if workspace%256 != 0 || bytes < 0 || (workspace == 0) != (bytes == 0) {
		return nil, fmt.Errorf("workspace for products: %d bytes at %#x", bytes, uint64(workspace))
	}
	lib, err := openBLAS(c.drv.version)
	if err != nil {
		return nil, err
	}
	b := &BLAS{ctx: c, lib: lib, workspace: workspace, bytes: bytes, lock: lock, prepared: map[Product]*Prepared{}}
	b.where = fmt.Sprintf("%s, cuBLASLt %s", c.device.Name, lib.versionText())
	if err := b.do(&lib.create, uintptr(unsafe.Pointer(&b.handle))); err != nil {
		if isStatus(err, statusNotInitialized) {
			return nil, fmt.Errorf("cuBLASLt %s (%s) does not work with %s and its driver for CUDA %s: %w; name another in TFC_LIBCUBLASLT",
				lib.versionText(), lib.library.name, c.device, versionText(c.drv.version), err)
		}
		return nil, err
	}
	c.add(b)
	return b, nil
}

// Version returns the version of cuBLASLt, such as "13.1.0".
func (b *BLAS) Version() string { return b.lib.versionText() }

// Close frees all that was prepared. A second Close does nothing.
func (b *BLAS) Close() error { return b.ctx.discard(b) }

func (b *BLAS) release() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	for _, p := range b.prepared {
		err = errors.Join(err, p.destroy())
	}
	b.prepared = nil
	return errors.Join(err, b.do(&b.lib.destroy, b.handle))
}

// do calls a function of cuBLASLt with the context current. As for cfunc.call, addresses of Go variables must be converted
// in the call itself.
//
//go:uintptrescapes
func (b *BLAS) do(f *cfunc, args ...uintptr) error {
	return b.ctx.Do(func() error { return b.lib.check(f, int32(invoke(f.address, args))) })
}

// Prepare makes a product ready for Multiply: its algorithm is the lock's; or where the lock has none and wants it, the
// fastest of up to eight that the heuristic proposes and of the rivals, timed here; or else, as where there is no memory to time in, the
// heuristic's first. The lock then holds it; call its Save once all is prepared, until which other processes of this machine
// wait with their timing.
// What was prepared once is returned again, without allocation. Products with Dynamic set are dropped, the oldest first,
// when there are more than 1024: use those at once.
func (b *BLAS) Prepare(product Product, rivals ...Rival) (*Prepared, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.prepared[product]; p != nil {
		return p, nil
	}
	if b.prepared == nil {
		return nil, errors.New("the BLAS is closed")
	}
	p, err := b.prepare(product, rivals)
	if err != nil {
		return nil, err
	}
	if product.Dynamic {
		if len(b.dynamic) < maxDynamic {
			b.dynamic = append(b.dynamic, product)
		} else {
			oldest := b.dynamic[b.next]
			if err := b.prepared[oldest].destroy(); err != nil {
				return nil, errors.Join(err, p.destroy())
			}
			delete(b.prepared, oldest)
			b.dynamic[b.next] = product
			b.next = (b.next + 1) % maxDynamic
		}
	}
	b.prepared[product] = p
	return p, nil
}

// Timings returns what Prepare has timed since the last call.
func (b *BLAS) Timings() []Timing {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.timings
	b.timings = nil
	return t
}

func (b *BLAS) prepare(product Product, rivals []Rival) (*Prepared, error) {
	complete, err := product.complete()
	if err != nil {
		return nil, fmt.Errorf("product of %s: %w", product.About, err)
	}
	p := &Prepared{blas: b, product: complete, info: complete.info()}
	err = p.takeRivals(rivals)
	if err == nil && !complete.owned() {
		err = p.describe()
	}
	if err == nil {
		err = p.choose()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", &p.info, earlier(err)), p.destroy())
	}
	return p, nil
}

// Multiply puts a prepared product on the stream: D = epilogue(alpha·op(A)·op(B) + Beta·C). c may be 0 where Beta is, or
// where C is D; bias and aux are 0 where the epilogue has none. It allocates nothing.
func (s *Stream) Multiply(p *Prepared, d, a, b, c, bias, aux Ptr, alpha float32) {
	s.multiply(p, operands{d: d, a: a, b: b, c: c, bias: bias, aux: aux}, alpha)
}

// MultiplySums is Multiply of a product with Sums set, which go to the address given.
func (s *Stream) MultiplySums(p *Prepared, d, a, b, c, bias, aux, sums Ptr) {
	s.multiply(p, operands{d: d, a: a, b: b, c: c, bias: bias, aux: aux, sums: sums}, 1)
}

// MultiplyScaled is Multiply of operands in 8 bits: the elements of A and B count as many times the floats at scaleA and scaleB.
func (s *Stream) MultiplyScaled(p *Prepared, d, a, b, c, bias, scaleA, scaleB Ptr) {
	s.multiply(p, operands{d: d, a: a, b: b, c: c, bias: bias, scaleA: scaleA, scaleB: scaleB}, 1)
}

// Quantized is what a product has that quantises beside the operands of others: D with rows as columns, its scale, two floats of its history, and the largest magnitudes, as
// bits, that give the scale where the history does not, or that are raised in the history's place. The last two may be 0.
type Quantized struct{ Transposed, Scale, History, Amax, Top Ptr }

// MultiplyQuantized is MultiplyScaled of a product whose D has 8 bits.
func (s *Stream) MultiplyQuantized(p *Prepared, d, a, b, bias, aux, scaleA, scaleB, sums Ptr, q Quantized) {
	s.multiply(p, operands{d: d, a: a, b: b, bias: bias, aux: aux, sums: sums, scaleA: scaleA, scaleB: scaleB, quantized: q}, 1)
}

// operands are the addresses of what a product reads and writes; 0 is what it has not.
type operands struct {
	d, a, b, c, bias, aux, sums, scaleA, scaleB Ptr
	quantized                                   Quantized
}

func (s *Stream) multiply(p *Prepared, o operands, alpha float32) {
	if s.err != nil {
		return
	}
	if o.c == 0 || p != nil && p.product.Beta == 0 {
		o.c = o.d
	}
	if err := p.check(s.ctx, o); err != nil {
		s.err = err
		return
	}
	if r, _ := p.rival(&p.algorithm); r != nil && alpha == 1 {
		if p.product.quantizes() {
			s.quantizeBy(r, p, o)
		} else {
			s.multiplyBy(r, p, o)
		}
		return
	} else if r != nil {
		s.err = fmt.Errorf("%s: alpha is %g, a kernel of the program's own takes 1", &p.info, alpha)
		return
	}
	if err := p.point(s, o); err != nil {
		s.err = fmt.Errorf("%s: %w", &p.info, err)
		return
	}
	x := s.scratch
	x.algorithm, x.alpha, x.beta = p.algorithm, alpha, p.product.Beta
	// cuBLASLt's matrices are column-major, so to it ours are their transposes: it computes Dᵀ = op(B)ᵀ·op(A)ᵀ.
	x.args = [16]uintptr{
		p.blas.handle, p.operation,
		uintptr(unsafe.Pointer(&x.alpha)),
		uintptr(o.b), p.layoutB,
		uintptr(o.a), p.layoutA,
		uintptr(unsafe.Pointer(&x.beta)),
		uintptr(o.c), p.layoutC,
		uintptr(o.d), p.layoutD,
		uintptr(unsafe.Pointer(&x.algorithm)),
		uintptr(p.blas.workspace), uintptr(p.blas.bytes),
		s.handle,
	}
	s.note(&p.info)
	s.captured++
	s.behind = false
	code, err := s.invoke(&p.blas.lib.matmul, 16)
	if code != 0 {
		err = p.blas.lib.check(&p.blas.lib.matmul, code)
		if !s.capturing { // a fault of a kernel before has no code of its own here
			if fault := s.ctx.do(&s.ctx.drv.streamSynchronize, s.handle); fault != nil {
				err = fault
			}
		}
	}
	if err != nil {
		s.err = s.blame(err, p.info.String())
	}
}
