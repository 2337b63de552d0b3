package cpu

import "time"

// Machine is what a machine was measured to reach, all workers of a pool at once.
type Machine struct {
	Rates []Rate // of multiply-adds on registers, the widest first
	Reads []Read // of ever larger blocks; the last one fits no cache
}

// Rate is how fast one kind of multiply-add is.
type Rate struct {
	Type  string  // of the factors: f32 or bf16
	Width int     // of a register in bits
	FLOPS float64 // a second, a multiply-add counts as two
}

// Read is how fast a block is read again and again, each worker its share.
type Read struct {
	Bytes     int // of the block
	Bandwidth float64
}

// multiplyAdd is a loop of nothing but multiply-adds of one kind.
type multiplyAdd struct {
	Rate
	run   func(n int, x *float32)
	flops int // of a turn
}

const (
	rateTurns  = 1 << 18
	leastRead  = 1 << 15
	mostRead   = 1 << 27
	readGrowth = 4
	readBytes  = 1 << 26 // at least in a timed run

	// The best run counts, of so many at least and for so long: another process may disturb a run, nothing makes one faster, and a
	// processor that was idle takes milliseconds to reach its clock.
	leastRuns  = 7
	measureFor = 25 * time.Millisecond
)

// FLOPS returns the best rate at which products of factors of a type can be taken, 0 where there is none. Factors in bf16 are floats, too,
// whose multiply-adds are the faster ones on some processors that have those of bf16.
func (m Machine) FLOPS(of string) (best float64) {
	for _, r := range m.Rates {
		if r.Type == of || of == "bf16" && r.Type == "f32" {
			best = max(best, r.FLOPS)
		}
	}
	return best
}

// Measure measures the machine with the workers of p. It takes about half a second, and 128 MiB.
func (p *Pool) Measure() Machine {
	var m Machine
	for _, k := range multiplyAdds() {
		t := &rating{run: k.run}
		k.FLOPS = float64(k.flops) * rateTurns * float64(p.Workers()) / p.best(t).Seconds()
		m.Rates = append(m.Rates, k.Rate)
	}
	data := written(mostRead / 4)
	for bytes := leastRead; bytes <= mostRead; bytes *= readGrowth {
		m.Reads = append(m.Reads, Read{bytes, p.readBandwidth(data[:bytes/4])})
	}
	return m
}

// ReadBandwidth measures how many bytes a second all workers of p together read, over and over the same so many bytes: from memory,
// or from the caches where they fit.
func (p *Pool) ReadBandwidth(bytes int) float64 {
	step := 4 * readFloats * p.Workers()
	return p.readBandwidth(written(max(1, ceil(bytes, step)) * step / 4))
}

// written returns n floats in memory: a page that was never written is not there.
func written(n int) []float32 {
	x := Floats(n)
	for i := range x {
		x[i] = float32(i)
	}
	return x
}

func (p *Pool) readBandwidth(data []float32) float64 {
	t := &reading{data: data, workers: p.Workers()}
	t.turns = max(1, readBytes/(4*len(data)))
	return 4 * float64(t.share()*t.workers*t.turns) / p.best(t).Seconds()
}

// best times t, a part a worker.
func (p *Pool) best(t task) time.Duration {
	best := time.Duration(1<<63 - 1)
	for start, runs := time.Now(), 0; runs < leastRuns || time.Since(start) < measureFor; runs++ {
		begin := time.Now()
		p.run(t, p.Workers())
		best = min(best, time.Since(begin))
	}
	return best
}

type rating struct{ run func(n int, x *float32) }

func (t *rating) part(_ int, s *scratch) {
	x := s.floats(rowStep)
	for i := range x {
		x[i] = 0x1p-10 * float32(i+1)
	}
	t.run(rateTurns, &x[0])
}

type reading struct {
	data           []float32
	workers, turns int
}

// share is how many floats a worker reads in a turn.
func (t *reading) share() int { return len(t.data) / t.workers &^ (readFloats - 1) }

func (t *reading) part(i int, s *scratch) {
	x, sum := t.data[i*t.share():][:t.share()], s.floats(rowStep)
	for range t.turns {
		readVector(x, sum)
	}
}
