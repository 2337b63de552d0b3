package cpu

import (
	"runtime"
	"sync/atomic"
)

// A task is a kernel with its operands; part(i, s) computes the i-th of its independent parts.
// Parts are cut by shape alone, never by the number of workers: that keeps results equal on any machine.
// s is the working memory of the worker that runs the part. What it holds at the start is garbage.
type task interface{ part(i int, s *scratch) }

// Pool runs kernels on a fixed set of workers. One kernel runs at a time; a Pool is not for concurrent use.
// A running kernel allocates nothing: its operands live in the Pool's kernel slots.
//
// Workers look out for the next kernel for some microseconds before they sleep, for kernels follow each other closely.
// A kernel ends when its parts are done, not when every worker has seen it: a worker that wakes late is not waited for.
//
// Each worker has a share of parts that follow each other, so that it reads on where it was, which what fetches memory ahead counts on; whoever has
// done its own takes the last of another's.
type Pool struct {
	scratch []*scratch // one a worker; the caller's is the first
	shares  []share    // one a worker
	sleep   []sleeper  // one a worker but the caller
	caller  sleeper
	spins   int
	closed  atomic.Bool

	bf16 bool // products round their factors to bf16

	task task

	recorder *recorder // nil unless a profile is taken

	_ [64]byte // the counters below change often; keep them off the lines of what is only read
	// todo counts the parts not yet taken in its low half, and runs in its high half, so that a worker which was held up
	// cannot take a part of a later run by mistake.
	todo    atomic.Uint64
	_       [64]byte
	pending atomic.Int64 // parts not yet done
	_       [64]byte

	kernels // operands of the kernel that runs now, one slot a kernel
}

// spinsBeforeSleep is about fifty microseconds of looking.
const spinsBeforeSleep = 40000

// NewPool starts a pool of the given number of workers, the caller counted as one; 0 means GOMAXPROCS.
func NewPool(workers int) *Pool {
	choose()
	cores := runtime.GOMAXPROCS(0)
	if workers <= 0 {
		workers = cores
	}
	p := &Pool{sleep: make([]sleeper, workers-1), shares: make([]share, workers)}
	if workers <= cores {
		p.spins = spinsBeforeSleep // with fewer cores, who looks out keeps another from working
	}
	p.caller.init()
	for i := range workers {
		p.scratch = append(p.scratch, newScratch(i))
	}
	for i := range p.sleep {
		p.sleep[i].init()
		go p.work(&p.sleep[i], i+1)
	}
	return p
}

// InBF16 makes products, those of attention too, round their factors to bf16; sums stay f32, as do all numbers in memory. A
// product of at most eight rows may keep its factors as they are. It returns p.
func (p *Pool) InBF16() *Pool {
	p.bf16 = true
	return p
}

func (p *Pool) tiling() *tiling {
	if p.bf16 {
		return active.bf16
	}
	return active.f32
}

// Factors names the type that products round their factors to: bf16, or f32 where they do not round.
func (p *Pool) Factors() string {
	if p.bf16 {
		return "bf16"
	}
	return "f32"
}

// Close ends the workers. The pool must not be used afterwards; a second Close does nothing.
func (p *Pool) Close() {
	p.closed.Store(true)
	for i := range p.sleep {
		p.sleep[i].rouse()
	}
}

// Workers returns the number of workers, the caller counted.
func (p *Pool) Workers() int { return len(p.scratch) }

// run computes parts 0..n-1 of t and returns when all are done.
func (p *Pool) run(t task, n int) {
	if p.recorder != nil {
		p.recorder.run(p, t, n)
		return
	}
	p.start(t, n)
}

func (p *Pool) start(t task, n int) {
	if n <= 1 || len(p.sleep) == 0 {
		for i := range n {
			t.part(i, p.scratch[0])
		}
		return
	}
	p.task = t
	for i := range p.shares {
		p.shares[i].set(i*n/len(p.shares), (i+1)*n/len(p.shares))
	}
	p.pending.Store(int64(n))
	p.todo.Store((p.todo.Load()>>32+1)<<32 | uint64(n))
	for i := range min(n-1, len(p.sleep)) {
		p.sleep[i].rouse()
	}
	p.drain(0)
	p.caller.wait(p.spins, func() bool { return p.pending.Load() == 0 })
	p.task = nil
}

// work is the life of a worker.
func (p *Pool) work(sleep *sleeper, me int) {
	for {
		sleep.wait(p.spins, func() bool { return uint32(p.todo.Load()) != 0 || p.closed.Load() })
		if p.closed.Load() {
			return
		}
		p.drain(me)
	}
}

// drain takes parts until none is left.
func (p *Pool) drain(me int) {
	for {
		todo := p.todo.Load()
		if uint32(todo) == 0 {
			return
		}
		if !p.todo.CompareAndSwap(todo, todo-1) {
			continue
		}
		// Some share has a part for this worker, and the run does not end before it is done.
		p.task.part(p.take(me), p.scratch[me])
		if p.pending.Add(-1) == 0 {
			p.caller.rouse()
		}
	}
}

// take takes the first part of the worker's own share, or the last of the next one that has any.
func (p *Pool) take(me int) int {
	for {
		if part, ok := p.shares[me].first(); ok {
			return part
		}
		for i := 1; i < len(p.shares); i++ {
			if part, ok := p.shares[(me+i)%len(p.shares)].last(); ok {
				return part
			}
		}
	}
}

// share is the parts from one to another, in the low and the high half.
type share struct {
	left atomic.Uint64
	_    [56]byte // a line of the cache each
}

func (s *share) set(from, to int) { s.left.Store(uint64(to)<<32 | uint64(from)) }

func (s *share) first() (part int, ok bool) {
	for {
		left := s.left.Load()
		if uint32(left) == uint32(left>>32) {
			return 0, false
		}
		if s.left.CompareAndSwap(left, left+1) {
			return int(uint32(left)), true
		}
	}
}

func (s *share) last() (part int, ok bool) {
	for {
		left := s.left.Load()
		if uint32(left) == uint32(left>>32) {
			return 0, false
		}
		if s.left.CompareAndSwap(left, left-1<<32) {
			return int(left>>32) - 1, true
		}
	}
}

// sleeper lets one goroutine sleep until a condition holds, which whoever changes it follows with rouse.
type sleeper struct {
	asleep atomic.Bool
	wake   chan struct{}
}

func (s *sleeper) init() { s.wake = make(chan struct{}, 1) }

// wait returns once ready does: it looks spins times, then sleeps.
func (s *sleeper) wait(spins int, ready func() bool) {
	for range spins {
		if ready() {
			return
		}
	}
	for {
		s.asleep.Store(true)
		// Now either this sees the condition or rouse sees the sleeper.
		if ready() && s.asleep.CompareAndSwap(true, false) {
			return
		}
		<-s.wake
		if ready() {
			return
		}
	}
}

// rouse wakes the goroutine if it sleeps.
func (s *sleeper) rouse() {
	if s.asleep.CompareAndSwap(true, false) {
		s.wake <- struct{}{}
	}
}
