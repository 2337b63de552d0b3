package gpu

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// ledger lists the launches of a job. Where it is timed, it lists those of a capture, and puts an event after each into the
// graph; otherwise those of a dry run.
type ledger struct {
	ctx              *cuda.Context
	timed            bool
	positions, slots []int32 // of the rows
	maxPositions     int

	launches []lm.Launch
	events   []*cuda.Event
	keys     map[int][2]int // of kernels: the keys that their rows read, and the pairs of row and key
}

// emptyIntervals is how many pairs of events with nothing between them tell what an event takes.
const emptyIntervals = 16

// add lists a launch that r has put on its stream.
func (l *ledger) add(r *Run, x lm.Launch) {
	if l == nil || l.timed == r.dry {
		return
	}
	l.launches = append(l.launches, x)
	l.mark(r.stream)
}

// mark puts an event into the graph.
func (l *ledger) mark(s *cuda.Stream) {
	if !l.timed {
		return
	}
	e, err := l.ctx.NewEvent()
	if err != nil {
		s.Fail(err)
		return
	}
	l.events = append(l.events, e)
	s.Mark(e)
}

func (l *ledger) close() error {
	var errs []error
	for _, e := range l.events {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// kernel describes a launch of kernel k.
func (l *ledger) kernel(r *Run, k int, g Grid) lm.Launch {
	x := &r.code.program.Kernels[k]
	keys, pairs := l.attended(k, x)
	return lm.Launch{
		Kernel: x.Entry, About: x.About, Grid: g,
		Bytes: float64(x.Bytes + r.Rows*x.RowBytes + keys*x.KeyBytes),
		FLOPs: float64(x.FLOPs + r.Rows*x.RowFLOPs + pairs*x.KeyFLOPs),
	}
}

// attended counts the keys of the cache that the rows of a call read, each slot's once and without those of the call itself,
// and the pairs of a row and a key that it sees.
func (l *ledger) attended(k int, x *Kernel) (keys, pairs int) {
	if x.Keys == nil {
		return 0, 0
	}
	if n, ok := l.keys[k]; ok {
		return n[0], n[1]
	}
	own, seen := map[[2]int32]bool{}, map[[2]int32]bool{}
	for i, p := range l.positions {
		own[[2]int32{l.slots[i], p}] = true
	}
	for i, p := range l.positions {
		for j := range p + 1 {
			if !x.Keys.Allowed(int(p), int(j)) {
				continue
			}
			pairs++
			if at := [2]int32{l.slots[i], j}; !own[at] {
				seen[at] = true
			}
		}
	}
	l.keys[k] = [2]int{len(seen), pairs}
	return len(seen), pairs
}

// product describes a matrix product.
func product(p Product, rows int) lm.Launch {
	if p.Dynamic {
		p.M = rows
	}
	bytes := p.A.Size()*p.M*p.K + p.B.Size()*p.K*p.N + p.D.Size()*p.M*p.N
	if p.Beta != 0 {
		bytes += p.D.Size() * p.M * p.N
	}
	switch p.Epilogue {
	case cuda.EpilogueBias, cuda.EpilogueGELUBias:
		bytes += p.D.Size() * p.N
	case cuda.EpilogueGELUAuxBias:
		bytes += p.D.Size() * (p.N + p.M*p.N)
	}
	return lm.Launch{Kernel: fmt.Sprintf("product %d×%d×%d", p.M, p.N, p.K), About: p.About, Bytes: float64(bytes), FLOPs: 2 * float64(p.M) * float64(p.N) * float64(p.K)}
}

// profile captures a job with an event after each launch, and runs that graph, and the plain one, so many times.
func (r *Run) profile(d *device, j *Job, l *ledger, plain *cuda.Graph, before, after func(Ptr), times int) (p *lm.Profile, err error) {
	l.ctx, l.timed, l.keys = d.ctx, true, map[int][2]int{}
	r.ledger = l
	defer func() { r.ledger, err = nil, errors.Join(err, l.close()) }()
	graph, err := r.capture(j, func(result Ptr) {
		for range emptyIntervals + 1 {
			l.mark(r.stream)
		}
		before(result)
		l.add(r, lm.Launch{Kernel: "copies to the device"})
	}, func(result Ptr) {
		after(result)
		l.add(r, lm.Launch{Kernel: "copies from the device"})
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, graph.Close()) }()
	p = &lm.Profile{Launches: l.launches}
	if p.Step, err = r.timeGraph(d.ctx, plain, times); err != nil {
		return nil, err
	}
	intervals := make([][]time.Duration, len(l.events)-1)
	for i := range times + 1 {
		r.stream.Run(graph)
		if err := r.stream.Sync(); err != nil {
			return nil, err
		}
		for k := range intervals {
			t, err := cuda.Elapsed(l.events[k], l.events[k+1])
			if err != nil {
				return nil, err
			}
			if i > 0 { // the first warms up
				intervals[k] = append(intervals[k], t)
			}
		}
	}
	p.Event = median(slices.Concat(intervals[:emptyIntervals]...))
	for i := range p.Launches {
		p.Launches[i].Time = max(0, median(intervals[emptyIntervals+i])-p.Event)
	}
	return p, nil
}

// timeGraph returns the median time of a graph on the device.
func (r *Run) timeGraph(ctx *cuda.Context, g *cuda.Graph, times int) (time.Duration, error) {
	return medianTime(ctx, r.stream, times, func() { r.stream.Run(g) })
}

// medianTime runs what f puts on a stream once, and then so many times between two events, and returns the median.
func medianTime(ctx *cuda.Context, s *cuda.Stream, times int, f func()) (t time.Duration, err error) {
	var events [2]*cuda.Event
	for i := range events {
		if events[i], err = ctx.NewEvent(); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, events[i].Close()) }()
	}
	var all []time.Duration
	for i := range times + 1 {
		s.Record(events[0])
		f()
		s.Record(events[1])
		if err := s.Sync(); err != nil {
			return 0, err
		}
		t, err := cuda.Elapsed(events[0], events[1])
		if err != nil {
			return 0, err
		}
		if i > 0 {
			all = append(all, t)
		}
	}
	return median(all), nil
}

func median(x []time.Duration) time.Duration {
	slices.Sort(x)
	return x[len(x)/2]
}

// ProfileStep implements lm.ProfiledTrainer.
func (t *trainer) ProfileStep(tokens, targets []int32, p lm.StepParams, times int) (*lm.Profile, error) {
	if _, _, err := t.Step(tokens, targets, p); err != nil { // which makes the graph, and tells the step what it works on
		return nil, err
	}
	profile, err := t.run.profile(t.d, &t.p.Train, &ledger{}, t.train, t.copyIn(len(tokens), true), t.copyOut, times)
	if err != nil {
		return nil, err
	}
	profile.Planned = t.Bytes()
	profile.FLOPs, err = t.run.modelFLOPs(t.p)
	return profile, err
}

// modelFLOPs counts a step's as those of the forward pass of every micro-batch, three times: the gradients take two products
// for each of the forward pass.
func (r *Run) modelFLOPs(p *Program) (float64, error) {
	l := &ledger{}
	r.ledger, r.dry = l, true
	p.Eval.Enqueue(r)
	r.ledger, r.dry = nil, false
	sum := 0.0
	for _, x := range l.launches {
		sum += x.FLOPs
	}
	return 3 * sum * float64(p.MicroBatches), r.stream.Err()
}

// ProfileDecode implements lm.ProfiledGenerator.
func (g *generator) ProfileDecode(tokens, positions, slots []int32, times int) (*lm.Profile, error) {
	if len(tokens) > g.p.MaxDecode {
		return nil, fmt.Errorf("a decode step of %d rows is several graphs, of at most %d each: profile that many", len(tokens), g.p.MaxDecode)
	}
	if _, err := g.Decode(tokens, positions, slots); err != nil {
		return nil, err
	}
	n := len(tokens)
	g.run.Rows = n
	l := &ledger{positions: positions, slots: slots}
	p, err := g.run.profile(g.d, &g.p.Decode, l, g.decode[n], func(Ptr) { g.copyIn(n) },
		func(result Ptr) { g.stream.CopyOut(g.output, 0, result, n*g.p.VocabSize*g.p.Element.Size()) }, times)
	if err != nil {
		return nil, err
	}
	p.Planned = int64(g.memory.size)
	for _, x := range p.Launches {
		p.FLOPs += x.FLOPs
	}
	return p, nil
}
