package cpu

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// counting counts how often each part runs.
type counting struct {
	seen  []atomic.Int32
	pause time.Duration
}

func (c *counting) part(i int, _ *scratch) {
	if c.pause > 0 {
		time.Sleep(c.pause)
	}
	c.seen[i].Add(1)
}

func TestPoolRunsEachPartOnce(t *testing.T) {
	for _, procs := range []int{1, 2} {
		before := runtime.GOMAXPROCS(procs)
		for _, workers := range []int{1, 2, 3, 7} {
			p := NewPool(workers)
			if p.Workers() != workers {
				t.Fatalf("%d workers, want %d", p.Workers(), workers)
			}
			for run := range 1000 {
				c := &counting{seen: make([]atomic.Int32, run%17)}
				if run%500 == 7 {
					c.pause = 100 * time.Microsecond // workers and caller fall asleep
				}
				p.run(c, len(c.seen))
				for i := range c.seen {
					if n := c.seen[i].Load(); n != 1 {
						t.Fatalf("%d workers: part %d of %d ran %d times", workers, i, len(c.seen), n)
					}
				}
				if run%500 == 8 {
					time.Sleep(200 * time.Microsecond)
				}
			}
			p.Close()
			p.Close()
		}
		runtime.GOMAXPROCS(before)
	}
}

func TestPoolEndsItsWorkers(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		p := NewPool(4)
		p.run(&counting{seen: make([]atomic.Int32, 9)}, 9)
		p.Close()
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func TestPoolAllocatesNothing(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	c := &counting{seen: make([]atomic.Int32, 40)}
	if n := testing.AllocsPerRun(100, func() { p.run(c, 40) }); n != 0 {
		t.Fatalf("%v allocations a run", n)
	}
}

// BenchmarkPoolRun measures what it costs to hand out a kernel that does next to nothing.
func BenchmarkPoolRun(b *testing.B) {
	p := NewPool(2)
	defer p.Close()
	c := &counting{seen: make([]atomic.Int32, 16)}
	for b.Loop() {
		p.run(c, 16)
	}
}
