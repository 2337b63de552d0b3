package cuda

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	timedRuns   = 5                      // of which the median counts
	timedSpan   = 400 * time.Microsecond // that one run should last, so that the clock's steps do not matter
	timedRepeat = 20                     // products in a run at most
	timedMargin = 0.99                   // a later candidate must take less than this of an earlier one's time
)

// fastest times algorithms on random operands and returns the fastest and its time. Products are timed as they are in use:
// in a graph, and each on operands that the level 2 cache no longer holds.
// The error is an *OutOfMemoryError where the operands do not fit.
func (p *Prepared) fastest(candidates []heuristicResult) (best int, took time.Duration, err error) {
	t, err := p.newTrial()
	if err != nil {
		return 0, 0, err
	}
	best = -1
	var firstErr error
	for i, r := range candidates {
		p.algorithm = r.algorithm
		d, err := t.time()
		switch {
		case err == nil && (best < 0 || float64(d) < timedMargin*float64(took)):
			best, took = i, d
		case err != nil && firstErr == nil:
			firstErr = err
		}
		if Fault(err) {
			break
		}
	}
	if err := t.close(); err != nil && (firstErr == nil || Fault(err)) {
		return 0, 0, errors.Join(err, firstErr)
	}
	if best < 0 || Fault(firstErr) {
		return 0, 0, fmt.Errorf("no algorithm could be timed: %w", firstErr)
	}
	return best, took, nil
}

// trial is a place to time a product in: sets of operands, one behind the other.
type trial struct {
	p      *Prepared
	memory Ptr
	set    int // bytes of a set
	sets   int
	a, b   int // offsets in a set; D is at 0
	c      int
	bias   int
	aux    int
	events [2]*Event
}

func (p *Prepared) newTrial() (*trial, error) {
	q, c := &p.product, p.blas.ctx
	t := &trial{p: p}
	place := func(rows, cols, ld, bytes int) int {
		at := t.set
		t.set += ((rows-1)*ld + cols) * bytes
		t.set = (t.set + 255) &^ 255
		return at
	}
	place(q.M, q.N, q.LDD, q.D.Size())
	if p.layoutC != p.layoutD {
		t.c = place(q.M, q.N, q.LDC, q.C.Size())
	}
	rowsA, colsA, rowsB, colsB := q.M, q.K, q.K, q.N
	if q.TransA {
		rowsA, colsA = colsA, rowsA
	}
	if q.TransB {
		rowsB, colsB = colsB, rowsB
	}
	t.a = place(rowsA, colsA, q.LDA, q.A.Size())
	t.b = place(rowsB, colsB, q.LDB, q.B.Size())
	t.bias = place(1, q.N, q.N, q.Bias.Size())
	if q.Epilogue.info().aux {
		t.aux = place(q.M, q.N, q.LDAux, q.D.Size())
	}
	free, _, err := c.MemInfo()
	if err != nil {
		return nil, err
	}
	t.sets = 1 + 2*c.device.L2/t.set
	t.sets = max(1, min(t.sets, timedRepeat, int(free/2/uint64(t.set))))
	if t.memory, err = c.Alloc(t.sets * t.set); err != nil {
		return nil, err
	}
	for i := range t.events {
		if err == nil {
			t.events[i], err = c.NewEvent()
		}
	}
	if err == nil {
		err = t.fill()
	}
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

func (t *trial) close() error {
	var err error
	for _, e := range t.events {
		if e != nil {
			err = errors.Join(err, e.Close())
		}
	}
	return errors.Join(err, t.p.blas.ctx.Free(t.memory))
}

// fill writes random numbers of magnitude 0.5 to 2 to all operands, whatever their type: speed depends on the bits.
func (t *trial) fill() error {
	c, total := t.p.blas.ctx, t.sets*t.set
	random := rand.New(rand.NewPCG(1, 2))
	block := make([]uint16, min(total, 1<<20)/2)
	for i := range block {
		block[i] = uint16(random.Uint32())&0x80ff | 0x3f00 // as bf16 and as half of a float: ±0.5 to 2; as half: ±1.75 to 2
	}
	if err := c.Upload(t.memory, Bytes(block)); err != nil {
		return err
	}
	s, err := c.NewStream()
	if err != nil {
		return err
	}
	for n := 2 * len(block); n < total; n *= 2 {
		s.Copy(t.memory+Ptr(n), t.memory, min(n, total-n))
	}
	return errors.Join(s.Sync(), s.Close())
}

// multiply puts the product on s, on the i-th set of operands.
func (t *trial) multiply(s *Stream, i int) {
	at := t.memory + Ptr(i%t.sets*t.set)
	e := t.p.product.Epilogue.info()
	var bias, aux, c Ptr
	if e.bias {
		bias = at + Ptr(t.bias)
	}
	if e.aux {
		aux = at + Ptr(t.aux)
	}
	if t.c != 0 {
		c = at + Ptr(t.c)
	}
	s.Multiply(t.p, at, at+Ptr(t.a), at+Ptr(t.b), c, bias, aux, 1)
}

// time returns the time of one product by the algorithm that is set. Every algorithm has its own stream, which an error of
// another does not stop.
func (t *trial) time() (took time.Duration, err error) {
	s, err := t.p.blas.ctx.NewStream()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	t.multiply(s, 0) // loads what is loaded once
	if err := s.Sync(); err != nil {
		return 0, err
	}
	s.Record(t.events[0])
	t.multiply(s, 1)
	once, err := t.elapsed(s)
	if err != nil {
		return 0, err
	}
	repeat := int(max(1, min(timedRepeat, timedSpan/max(once, 1))))
	g, err := s.Capture(func() {
		for i := range repeat {
			t.multiply(s, i)
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	s.Run(g)
	times := make([]time.Duration, timedRuns)
	for i := range times {
		s.Record(t.events[0])
		s.Run(g)
		if times[i], err = t.elapsed(s); err != nil {
			return 0, err
		}
	}
	slices.Sort(times)
	return times[timedRuns/2] / time.Duration(repeat), nil
}

// elapsed returns the time since events[0] was recorded on s.
func (t *trial) elapsed(s *Stream) (time.Duration, error) {
	s.Record(t.events[1])
	if err := s.Sync(); err != nil {
		return 0, err
	}
	return Elapsed(t.events[0], t.events[1])
}
