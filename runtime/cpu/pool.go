package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A task is a kernel with its operands; part(i, s) computes the i-th of its independent parts.
// Parts are cut by shape alone, never by the number of workers: that keeps results equal on any machine.
// s is the working memory of the worker that runs the part. What it holds at the start is garbage.
type task interface{ part(i int, s *scratch) }

// Pool runs kernels on a fixed set of workers. One kernel runs at a time; a Pool is not for concurrent use.
// A running kernel allocates nothing: its operands live in the Pool's kernel slots.
type Pool struct {
	workers int
	next    atomic.Int64
	parts   int
	task    task
	start   []chan struct{}
	done    sync.WaitGroup
	closed  bool
	scratch []*scratch // one a worker; the caller's is the first

	kernels // operands of the kernel that runs now, one slot a kernel
}

// NewPool starts a pool of the given number of workers, the caller counted as one; 0 means GOMAXPROCS.
func NewPool(workers int) *Pool {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	p := &Pool{workers: workers, scratch: []*scratch{newScratch()}}
	for range workers - 1 {
		c := make(chan struct{}, 1)
		s := newScratch()
		p.start = append(p.start, c)
		p.scratch = append(p.scratch, s)
		go func() {
			for range c {
				p.drain(s)
				p.done.Done()
			}
		}()
	}
	return p
}

// Close ends the workers. The pool must not be used afterwards; a second Close does nothing.
func (p *Pool) Close() {
	if p.closed {
		return
	}
	p.closed = true
	for _, c := range p.start {
		close(c)
	}
}

// Workers returns the number of workers, the caller counted.
func (p *Pool) Workers() int { return p.workers }

// run computes parts 0..n-1 of t and returns when all are done.
func (p *Pool) run(t task, n int) {
	if n <= 1 || p.workers == 1 {
		for i := range n {
			t.part(i, p.scratch[0])
		}
		return
	}
	p.task, p.parts = t, n
	p.next.Store(0)
	p.done.Add(len(p.start))
	for _, c := range p.start {
		c <- struct{}{}
	}
	p.drain(p.scratch[0])
	p.done.Wait()
	p.task = nil
}

func (p *Pool) drain(s *scratch) {
	for {
		i := int(p.next.Add(1)) - 1
		if i >= p.parts {
			return
		}
		p.task.part(i, s)
	}
}
