package gpu

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/quant"
)

// ProfileStep implements lm.ProfiledTrainer.
func (t *trainer) ProfileStep(tokens, targets []int32, p lm.StepParams, times int) (*lm.Profile, error) {
	if t.p.Histories > 0 {
		p.Step = max(p.Step, quant.MeasuredSteps+1)
	}
	for { // steps that measure come first; it is captured, and leaves the plain one what it learns from
		if _, _, err := t.Step(tokens, targets, p); err != nil {
			return nil, err
		}
		if !t.run.measures {
			break
		}
	}
	profile, err := t.run.profile(t.d.ctx, &t.p.Train, &ledger{}, t.train, edge{}, times)
	if err != nil {
		return nil, err
	}
	profile.Planned = t.Bytes()
	profile.FLOPs, err = t.run.modelFLOPs(t.p)
	return profile, err
}

// modelFLOPs is what the model needs for a step: three times the forward pass of every micro-batch, for each product of it
// has two in the backward pass (Chowdhery et al., "PaLM", 2022, appendix B).
func (r *Run) modelFLOPs(p *Program) (float64, error) {
	l := &ledger{}
	r.ledger, r.dry = l, true
	p.Eval.Enqueue(r)
	r.ledger, r.dry = nil, false
	return 3 * float64(p.MicroBatches) * l.flops(), r.stream.Err()
}

// ProfileDecode implements lm.ProfiledGenerator. More rows than the program has in a step are several, as in Decode.
func (g *generator) ProfileDecode(tokens, positions, slots []int32, times int) (*lm.Profile, error) {
	whole := &lm.Profile{Planned: int64(g.memory.size)}
	for at := 0; at < len(tokens); at += g.p.MaxDecode {
		end := min(at+g.p.MaxDecode, len(tokens))
		p, err := g.profileStep(tokens[at:end], positions[at:end], slots[at:end], times)
		if err != nil {
			return nil, err
		}
		var begin time.Duration // behind the step before
		if n := len(whole.Launches); n > 0 {
			begin = whole.Launches[n-1].Begin + whole.Launches[n-1].Time + whole.Event
		}
		for _, x := range p.Launches {
			x.Begin += begin
			whole.Launches = append(whole.Launches, x)
			whole.FLOPs += x.FLOPs
		}
		whole.Step += p.Step
		whole.Event = p.Event
	}
	return whole, nil
}

func (g *generator) profileStep(tokens, positions, slots []int32, times int) (*lm.Profile, error) {
	step := decodeStep{len(tokens), g.p.Pick.Enqueue != nil}
	var options []lm.PickOptions
	timed := positions // of a replay whose launches are timed
	if step.pick {     // and each replay goes to the next position: the last one comes to those given, or close
		options = make([]lm.PickOptions, step.rows)
		times = max(1, min(times, g.p.MaxPositions/2-2))
		positions, timed = slices.Clone(positions), slices.Clone(positions)
		for i := range positions {
			positions[i] = max(0, positions[i]-int32(2*times+2))
			timed[i] = positions[i] + int32(times+3+times/2) // the one in the middle
		}
		defer func() { g.inputs.rows = 0 }() // where they are now is not what inputs knows
	}
	if err := g.step(tokens, positions, slots, options); err != nil { // which captures the step, and leaves it what it works on
		return nil, err
	}
	g.run.Rows = step.rows
	back := 4 * step.rows
	if !step.pick {
		back = step.rows * g.p.VocabSize * g.p.Element.Size()
	}
	return g.run.profile(g.d.ctx, &g.p.Decode, &ledger{positions: timed, slots: slots}, g.decode[step],
		edge{func(result Ptr) { g.after(step, result) }, back}, times)
}

// edge is what a graph does after its job: copies of so many bytes to the host, or nothing.
type edge struct {
	copy  func(result Ptr)
	bytes int
}

// emptyIntervals is how many pairs of events with nothing between them tell what an event takes.
const emptyIntervals = 16

// profile captures a job with an event between launches, and replays that graph and the plain one so many times each.
// l knows of the rows of the call.
func (r *Run) profile(ctx *cuda.Context, j *Job, l *ledger, plain *cuda.Graph, out edge, times int) (p *lm.Profile, err error) {
	l.ctx = ctx
	r.ledger = l
	defer func() {
		r.ledger = nil
		err = errors.Join(err, l.close())
	}()
	graph, err := r.capture(j, func(Ptr) {
		for range emptyIntervals + 1 {
			l.mark(r.stream)
		}
	}, func(result Ptr) {
		if out.copy == nil {
			return
		}
		out.copy(result)
		l.add(r, lm.Launch{Kernel: "copies to the host", Bytes: float64(out.bytes)})
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, graph.Close()) }()
	p = &lm.Profile{Launches: l.launches}
	if p.Step, err = medianTime(ctx, r.stream, times, func() { r.stream.Run(plain) }); err != nil {
		return nil, err
	}
	intervals, err := l.replay(r.stream, graph, times)
	if err != nil {
		return nil, err
	}
	p.Event = median(slices.Concat(intervals[:emptyIntervals]...))
	var begin time.Duration
	for i, took := range intervals[emptyIntervals:] {
		t := median(took)
		p.Launches[i].Begin, p.Launches[i].Time = begin, max(0, t-p.Event)
		begin += t
	}
	return p, nil
}

// ledger lists the launches of a job: those of a dry run or, with a context, those of a capture, whose graph then records an
// event after each of them.
type ledger struct {
	ctx              *cuda.Context
	positions, slots []int32 // of the rows of the call, where they attend to the cache

	launches []lm.Launch
	events   []*cuda.Event
	keys     map[int]attended // by kernel
}

// attended are the keys of the cache that the rows of a call see: each slot's counted once, without those that the rows
// themselves bring; and counted for each row, with these.
type attended struct{ keys, pairs int }

// lists says whether the ledger lists what r does now. It may be nil.
func (l *ledger) lists(r *Run) bool { return l != nil && r.dry == (l.ctx == nil) }

func (l *ledger) add(r *Run, x lm.Launch) {
	if !l.lists(r) {
		return
	}
	l.launches = append(l.launches, x)
	if l.ctx != nil {
		l.mark(r.stream)
	}
}

// mark lets the graph that is captured record another event.
func (l *ledger) mark(s *cuda.Stream) {
	e, err := l.ctx.NewEvent()
	if err != nil {
		s.Fail(err)
		return
	}
	l.events = append(l.events, e)
	s.Mark(e)
}

// replay runs the graph so many times, and once before, and returns the times from each event to the next.
func (l *ledger) replay(s *cuda.Stream, g *cuda.Graph, times int) ([][]time.Duration, error) {
	intervals := make([][]time.Duration, len(l.events)-1)
	for i := range times + 1 {
		s.Run(g)
		if err := s.Sync(); err != nil {
			return nil, err
		}
		for k := range intervals {
			t, err := cuda.Elapsed(l.events[k], l.events[k+1])
			if err != nil {
				return nil, err
			}
			if i > 0 {
				intervals[k] = append(intervals[k], t)
			}
		}
	}
	return intervals, nil
}

// close frees the events.
func (l *ledger) close() error {
	var errs []error
	for _, e := range l.events {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

func (l *ledger) flops() float64 {
	sum := 0.0
	for _, x := range l.launches {
		sum += x.FLOPs
	}
	return sum
}

// kernel lists a launch of kernel k.
func (l *ledger) kernel(r *Run, k int, g Grid) {
	if !l.lists(r) {
		return
	}
	x := &r.code.program.Kernels[k]
	a := l.attended(k, x)
	l.add(r, lm.Launch{
		Kernel: x.Entry, About: x.About, Grid: g,
		Bytes: float64(x.Bytes + r.Rows*x.RowBytes + a.keys*x.KeyBytes),
		FLOPs: float64(x.FLOPs + r.Rows*x.RowFLOPs + a.pairs*x.KeyFLOPs),
	})
}

func (l *ledger) attended(k int, x *Kernel) (a attended) {
	if x.Keys == nil {
		return a
	}
	if a, ok := l.keys[k]; ok {
		return a
	}
	type place struct{ slot, position int32 }
	own, seen := map[place]bool{}, map[place]bool{}
	for i, p := range l.positions {
		own[place{l.slots[i], p}] = true
	}
	for i, p := range l.positions {
		for key := range p + 1 {
			if !x.Keys.Allowed(int(p), int(key)) {
				continue
			}
			a.pairs++
			if at := (place{l.slots[i], key}); !own[at] {
				seen[at] = true
			}
		}
	}
	a.keys = len(seen)
	if l.keys == nil {
		l.keys = map[int]attended{}
	}
	l.keys[k] = a
	return a
}

// product lists a matrix product.
func (l *ledger) product(r *Run, p Product) {
	if !l.lists(r) {
		return
	}
	if p.Dynamic {
		p.M = r.Rows
	}
	launch := lm.Launch{Kernel: fmt.Sprintf("product %d×%d×%d", p.M, p.N, p.K), About: p.About, Bytes: p.Bytes(), FLOPs: p.FLOPs()}
	if p.A.Size() == 1 {
		launch.Type = "fp8"
	}
	l.add(r, launch)
}

// medianTime runs what f puts on a stream once, and then so many times between two events, and returns the median time.
func medianTime(ctx *cuda.Context, s *cuda.Stream, times int, f func()) (t time.Duration, err error) {
	begin, err := ctx.NewEvent()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, begin.Close()) }()
	end, err := ctx.NewEvent()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, end.Close()) }()
	var all []time.Duration
	for i := range times + 1 {
		s.Record(begin)
		f()
		s.Record(end)
		if err := s.Sync(); err != nil {
			return 0, err
		}
		took, err := cuda.Elapsed(begin, end)
		if err != nil {
			return 0, err
		}
		if i > 0 {
			all = append(all, took)
		}
	}
	return median(all), nil
}

func median(x []time.Duration) time.Duration {
	slices.Sort(x)
	return x[len(x)/2]
}
