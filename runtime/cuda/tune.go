package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	maxCandidates = 8                      // algorithms that are timed at most
	minCandidates = 3                      // and at least, however long they take
	timedScan     = 40 * time.Millisecond  // on the device, after which no further candidate is tried
	timedBudget   = 60 * time.Millisecond  // and after which no further round is run
	timedThorough = 12                     // times as much, where timing is what the program was asked for: by then the device is as warm, and its clock as low, as in a step
	timedDrop     = 1.1                    // what takes this much longer than the quickest is timed once only
	timedRounds   = 5                      // of which the median counts
	timedSpan     = 400 * time.Microsecond // that one timing should last, so that the clock's steps do not matter
	timedRepeat   = 20                     // products in a timing at most
	timedMargin   = 0.99                   // a later candidate must take less than this of an earlier one's time
)

// contender is an algorithm in a trial.
type contender struct {
	number    int // among the candidates
	algorithm algorithm
	stream    *Stream // of its own, which an error of another does not stop
	graph     *Graph  // of repeat products, made for the rounds
	repeat    int
	took      time.Duration // of one product
	rounds    []time.Duration
}

// fastest times algorithms on random operands and returns the number of the fastest and its time, and that of the first.
// Products are timed as they are in use: in a graph, and each on operands that the level 2 cache no longer holds. All
// candidates run once, and those that come close to the quickest then take turns, so that a clock that changes or a device
// that grows warm is to nobody's advantage.
// The error is an *OutOfMemoryError where the operands do not fit.
func (p *Prepared) fastest(candidates []heuristicResult) (best int, first, took time.Duration, err error) {
	t, err := p.newTrial()
	if err != nil {
		return 0, 0, 0, err
	}
	winner, first, err := t.compare(candidates)
	if closed := t.close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return winner.number, first, winner.took, nil
}

// compare returns the fastest of the candidates, and the time of the first: 0 where that cannot be run.
func (t *trial) compare(candidates []heuristicResult) (winner *contender, first time.Duration, err error) {
	quickest := time.Duration(math.MaxInt64)
	var firstErr error
	for i, r := range candidates {
		if r.algorithm[0] != rivalMark && len(t.field) >= minCandidates && t.spent > time.Duration(t.much)*timedScan {
			continue
		}
		c := &contender{number: i, algorithm: r.algorithm}
		if err := t.try(c); err != nil {
			if firstErr == nil {
				firstErr = err
			}
			if Fault(err) {
				return nil, 0, err
			}
			continue
		}
		t.field = append(t.field, c)
		quickest = min(quickest, c.took)
	}
	if len(t.field) == 0 {
		return nil, 0, fmt.Errorf("no algorithm could be timed: %w", firstErr)
	}
	var last []*contender
	for _, c := range t.field {
		if float64(c.took) <= timedDrop*float64(quickest) {
			last = append(last, c)
		}
	}
	for round := 0; len(last) > 1 && round < timedRounds && (round == 0 || t.spent < time.Duration(t.much)*timedBudget); round++ {
		for i := 0; i < len(last); i++ {
			err := t.again(last[i])
			if Fault(err) {
				return nil, 0, err
			}
			if err != nil {
				last = slices.Delete(last, i, i+1)
				i--
				firstErr = err
			}
		}
	}
	if len(last) == 0 {
		return nil, 0, fmt.Errorf("no algorithm could be timed: %w", firstErr)
	}
	for _, c := range last {
		if winner == nil || float64(c.took) < timedMargin*float64(winner.took) {
			winner = c
		}
	}
	if t.field[0].number == 0 {
		first = t.field[0].took
	}
	return winner, first, nil
}

// trial is a place to time a product in: sets of operands, one behind the other.
type trial struct {
	p      *Prepared
	much   int // times as much as need be
	memory Ptr
	set    int // bytes of a set
	sets   int
	a, b   int // offsets in a set; D is at 0
	c      int
	bias   int
	aux    int
	sums   int
	scale  int // of A and of B
	turned int // D with rows as columns
	noted  int // D's scale, and behind it a history
	events [3]*Event
	field  []*contender  // that ran
	spent  time.Duration // by the device
}

func (p *Prepared) newTrial() (*trial, error) {
	q, c := &p.product, p.blas.ctx
	t := &trial{p: p, much: 1}
	if p.blas.lock.Anew {
		t.much = timedThorough
	}
	place := func(rows, cols, ld, bytes int) int {
		at := t.set
		t.set += ((rows-1)*ld + cols) * bytes
		t.set = (t.set + 255) &^ 255
		return at
	}
	dCols, auxCols := q.columns()
	place(q.M, dCols, q.LDD, q.D.Size())
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
	if q.aux() {
		size := q.D.Size()
		if q.quantizes() {
			size = BF16.Size()
		}
		t.aux = place(q.M, auxCols, q.LDAux, size)
	}
	if q.Sums {
		t.sums = place(4*((q.M+127)/128), dCols, dCols, 4)
	}
	if q.scaled() {
		t.scale = place(1, 1, 1, 4)
	}
	if q.quantizes() {
		t.turned, t.noted = place(dCols, q.M, q.M, q.D.Size()), place(1, 3, 3, 4)
	}
	free, total, err := c.MemInfo()
	if err != nil {
		return nil, err
	}
	t.sets = 1 + 2*c.device.L2/t.set
	t.sets = max(1, min(t.sets, timedRepeat, int(free/2/uint64(t.set))))
	if need := uint64(t.sets * t.set); need > free {
		return nil, &OutOfMemoryError{Device: c.device, What: "timing a product", Asked: need, Free: free, Total: total}
	}
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
	for _, c := range t.field {
		err = errors.Join(err, c.close())
	}
	for _, e := range t.events {
		if e != nil {
			err = errors.Join(err, e.Close())
		}
	}
	return errors.Join(err, t.p.blas.ctx.Free(t.memory))
}

func (c *contender) close() error {
	var err error
	if c.graph != nil {
		err = c.graph.Close()
	}
	return errors.Join(err, c.stream.Close())
}

// fill writes random numbers of magnitude 0.5 to 2 to all operands, whatever their type: speed depends on the bits.
func (t *trial) fill() error {
	c, total := t.p.blas.ctx, t.sets*t.set
	random := rand.New(rand.NewPCG(1, 2))
	block := make([]uint16, min(total, 1<<20)/2)
	free, set := uint16(0x80ff), uint16(0x3f00) // as bf16 and as half of a float: ±0.5 to 2; as half: ±1.75 to 2
	if t.p.product.scaled() {
		free, set = 0x8f8f, 0x3030 // as e4m3: ±0.5 to 2, as e5m2: ±0.125 to 2
	}
	for i := range block {
		block[i] = uint16(random.Uint32())&free | set
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

// multiply puts the product by a contender on its stream, on the i-th set of operands.
func (t *trial) multiply(by *contender, i int) {
	at := t.memory + Ptr(i%t.sets*t.set)
	e := t.p.product.Epilogue.info()
	var bias, aux, c, sums Ptr
	if e.bias {
		bias = at + Ptr(t.bias)
	}
	if t.p.product.aux() {
		aux = at + Ptr(t.aux)
	}
	if t.sums != 0 {
		sums = at + Ptr(t.sums)
	}
	if t.c != 0 {
		c = at + Ptr(t.c)
	}
	var scale Ptr
	if t.scale != 0 {
		scale = at + Ptr(t.scale)
	}
	var quantized Quantized
	if t.turned != 0 {
		quantized = Quantized{Transposed: at + Ptr(t.turned), Scale: at + Ptr(t.noted), History: at + Ptr(t.noted+4)}
	}
	t.p.algorithm = by.algorithm
	by.stream.multiply(t.p, operands{d: at, a: at + Ptr(t.a), b: at + Ptr(t.b), c: c, bias: bias, aux: aux, sums: sums, scaleA: scale, scaleB: scale, quantized: quantized}, 1)
}

// try runs a product twice: the first time loads what is loaded once, the second is timed. Both are put on the stream
// together, so that the device does not wait for the host between them.
func (t *trial) try(c *contender) (err error) {
	if c.stream, err = t.p.blas.ctx.NewStream(); err != nil {
		return err
	}
	c.stream.Record(t.events[0])
	t.multiply(c, 0)
	c.stream.Record(t.events[1])
	t.multiply(c, 1)
	c.stream.Record(t.events[2])
	if err = c.stream.Sync(); err == nil {
		c.took, err = Elapsed(t.events[1], t.events[2])
	}
	if err == nil {
		var all time.Duration
		all, err = Elapsed(t.events[0], t.events[2])
		t.spent += all
	}
	if err != nil {
		return errors.Join(err, c.stream.Close())
	}
	return nil
}

// again times a contender once more, and has it take the median of its rounds.
func (t *trial) again(c *contender) (err error) {
	if c.graph == nil {
		c.repeat = t.much * int(max(1, min(timedRepeat, timedSpan/max(c.took, 1))))
		c.graph, err = c.stream.Capture(func() {
			for i := range c.repeat {
				t.multiply(c, i)
			}
		})
		if err != nil {
			return err
		}
	}
	c.stream.Record(t.events[0])
	c.stream.Run(c.graph)
	c.stream.Record(t.events[1])
	if err := c.stream.Sync(); err != nil {
		return err
	}
	all, err := Elapsed(t.events[0], t.events[1])
	if err != nil {
		return err
	}
	t.spent += all
	c.rounds = append(c.rounds, all/time.Duration(c.repeat))
	slices.Sort(c.rounds)
	c.took = c.rounds[len(c.rounds)/2]
	return nil
}
