package cpu

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Profile is what a pool noted of the kernels that ran between Record and Recorded, in order.
type Profile struct {
	Kernels []Kernel
	Workers [][]Slice // one list a worker, the caller's first
}

// Kernel is one kernel as it ran.
type Kernel struct {
	Name  string        // with the sizes of a product: rows × columns × summed
	Where string        // the call, as cpu_train.go:120
	Type  string        // of the factors of its products: f32 or bf16; empty for a kernel without products
	Bytes float64       // that it must move at least: each operand once
	FLOPs float64       // a multiply-add counts as two
	Begin time.Duration // since Record
	Time  time.Duration // to the end of its last part
}

// Slice is what one worker did of a kernel: from its first part to the end of its last.
type Slice struct {
	Kernel      int // index in Kernels
	Parts       int
	Begin, Time time.Duration
}

// recorder is what a pool notes while it records. Names and places are worked out at the end: while they were, the workers would fall
// asleep between two kernels.
type recorder struct {
	begin   time.Time
	kernels []noted
	slices  [][]Slice // by worker
}

// noted is a kernel as note leaves it.
type noted struct {
	Kernel
	product [3]int
	callers [16]uintptr
	depth   int
}

// cost is what a kernel takes at least. Only kernels with products have FLOPs worth counting: all others are bound by bytes.
type cost struct {
	bytes, flops float64
	product      [3]int // rows, columns, steps of the sum; zeros for a kernel that is no product
	in           string // type of the factors
}

// Record makes the pool note what runs on it from now on. Until then, and after Recorded, a kernel pays for it with the product of its
// sizes and a comparison: some nanoseconds.
func (p *Pool) Record() {
	const room = 1 << 10 // kernels
	r := &recorder{kernels: make([]noted, 0, room), slices: make([][]Slice, len(p.scratch))}
	for w := range r.slices {
		r.slices[w] = make([]Slice, 0, room)
	}
	r.begin = time.Now()
	p.recorder = r
}

// Recorded ends what Record began.
func (p *Pool) Recorded() Profile {
	r := p.recorder
	p.recorder = nil
	kernels := make([]Kernel, len(r.kernels))
	for i, k := range r.kernels {
		if d := k.product; d != [3]int{} {
			k.Name = fmt.Sprintf("%s %d×%d×%d", k.Name, d[0], d[1], d[2])
		}
		k.Where = place(k.callers[:k.depth])
		kernels[i] = k.Kernel
	}
	return Profile{kernels, r.slices}
}

// note says which kernel the coming runs belong to.
func (p *Pool) note(name string, c cost) {
	if p.recorder != nil {
		p.recorder.note(name, c)
	}
}

func (r *recorder) note(name string, c cost) {
	r.kernels = append(r.kernels, noted{Kernel: Kernel{Name: name, Type: c.in, Bytes: c.bytes, FLOPs: c.flops}, product: c.product})
	k := &r.kernels[len(r.kernels)-1]
	k.depth = runtime.Callers(3, k.callers[:])
	k.Begin = time.Since(r.begin)
}

// place names the line of the program that called into this package.
func place(callers []uintptr) string {
	if len(callers) == 0 {
		return ""
	}
	frames := runtime.CallersFrames(callers)
	for {
		f, more := frames.Next()
		if slash := strings.LastIndexByte(f.File, '/'); !strings.Contains(f.Function, "/runtime/cpu.") || strings.HasSuffix(f.File, "_test.go") {
			return f.File[slash+1:] + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return ""
		}
	}
}

// run is Pool.run with every worker's part of the time.
func (r *recorder) run(p *Pool, t task, n int) {
	if len(r.kernels) == 0 {
		r.note("kernel", cost{})
	}
	p.start(&recordedTask{t, r}, n)
	k := &r.kernels[len(r.kernels)-1]
	k.Time = time.Since(r.begin) - k.Begin
}

// recordedTask is a task whose parts are timed.
type recordedTask struct {
	task
	r *recorder
}

// part looks at the clock once, but for a worker's first part of a kernel: parts of few microseconds are many.
func (t *recordedTask) part(i int, s *scratch) {
	list, kernel := &t.r.slices[s.worker], len(t.r.kernels)-1
	if n := len(*list); n == 0 || (*list)[n-1].Kernel != kernel {
		*list = append(*list, Slice{Kernel: kernel, Begin: time.Since(t.r.begin)})
	}
	t.task.part(i, s)
	last := &(*list)[len(*list)-1]
	last.Parts++
	last.Time = time.Since(t.r.begin) - last.Begin
}

// Median returns the last of profiles of one program with the median times of all: kernel by kernel.
func Median(profiles []Profile) Profile {
	p := profiles[len(profiles)-1]
	times := make([]time.Duration, len(profiles))
	kernels := slices.Clone(p.Kernels)
	for i := range kernels {
		for j, q := range profiles {
			times[j] = q.Kernels[i].Time
		}
		slices.Sort(times)
		kernels[i].Time = times[len(times)/2]
	}
	p.Kernels = kernels
	return p
}

// moved is the bytes of matrices and vectors of float32, each moved once; those without Data are none.
func moved(ms ...Mat) float64 {
	n := 0
	for _, m := range ms {
		if m.Data != nil {
			n += m.Rows * m.Cols
		}
	}
	return 4 * float64(n)
}

func floats(xs ...[]float32) float64 {
	n := 0
	for _, x := range xs {
		n += len(x)
	}
	return 4 * float64(n)
}
