package nvcc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
)

// Job is what to compile.
type Job struct {
	Sources  map[string]string   // .cu files by name; each has at least one extern "C" kernel
	Includes map[string]string   // what they include, by the name between the quotes
	Archs    []string            // architectures, as sm_80 or sm_90a
	Only     map[string][]string // for sources that are not for all of Archs: those that they are for
	Defines  []string            // macros, as NAME or NAME=VALUE

	AllowSpills bool // let kernels keep registers in memory
	LineInfo    bool // tables for profilers; they hold the names of folders of scratch, so the same job gives other bytes

	// Progress, where it is set, hears of every compilation that is done, of how many there are; calls do not overlap.
	Progress func(done, total int)
}

// Result is what comes of a job.
type Result struct {
	Fatbin   []byte   // the file of kernels, as package kernelfile reads it
	Kernels  []Kernel // by entry
	Warnings Errors
	Compiled int // compilations, one for each group of sources and architecture
	Cached   int // those that the cache had
}

// Kernel is an entry and what it needs.
type Kernel struct {
	Entry string
	File  string           // the source
	Usage map[string]Usage // by architecture
}

// Compile compiles a job's files, as many at a time as GOMAXPROCS says. What is wrong with them is one Errors. When the context
// ends, compilers that run are killed, and what was finished stays in the cache.
func (t *Toolkit) Compile(ctx context.Context, job Job) (*Result, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	host, err := t.Host(ctx)
	if err != nil {
		return nil, err
	}
	store, err := openCache()
	if err != nil {
		return nil, err
	}
	store.trim(time.Now())
	b := &build{toolkit: t, host: host, cache: store, job: job, failed: map[string]bool{}}
	b.hostWorks = sync.OnceValue(func() error { return host.Check(ctx) })
	return b.run(ctx)
}

var (
	sourceName = regexp.MustCompile(`^\w[\w.+-]*\.cu$`)
	archName   = regexp.MustCompile(`^sm_\d+[a-z]?$`)
	defineName = regexp.MustCompile(`^[A-Za-z_]\w*(=|$)`)
)

// check finds jobs that no caller should make.
func (j *Job) check() error {
	for name := range j.Sources {
		if !sourceName.MatchString(name) {
			return fmt.Errorf("nvcc: %q is no name of a .cu file", name)
		}
	}
	for name := range j.Includes {
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return fmt.Errorf("nvcc: %q is no name of a file to include", name)
		}
	}
	for name, archs := range j.Only {
		if _, ok := j.Sources[name]; !ok {
			return fmt.Errorf("nvcc: architectures are given for %s, which is no source", name)
		}
		if len(archs) == 0 {
			return fmt.Errorf("nvcc: %s is for no architecture", name)
		}
		for _, a := range archs {
			if !slices.Contains(j.Archs, a) {
				return fmt.Errorf("nvcc: %s is for %s, which the job is not for", name, a)
			}
		}
	}
	if len(j.Archs) == 0 {
		return errors.New("nvcc: no architecture to compile for")
	}
	for _, a := range j.Archs {
		if !archName.MatchString(a) {
			return fmt.Errorf("nvcc: %q is no architecture; they are named as sm_80 or sm_90a", a)
		}
	}
	for _, d := range j.Defines {
		if !defineName.MatchString(d) {
			return fmt.Errorf("nvcc: %q is no macro; they are given as NAME or NAME=VALUE", d)
		}
	}
	return nil
}

// flags are those of every compilation.
func (j *Job) flags() []string {
	list := []string{"-std=c++20", "-O3", "-Xptxas", "-v"}
	if j.LineInfo {
		list = append(list, "-lineinfo")
	}
	for _, d := range j.Defines {
		list = append(list, "-D"+d)
	}
	return list
}

// Add adds a file: a source, or where its name ends in .cuh what sources include. arch is the one architecture that a source is
// for; "" for all.
func (j *Job) Add(name string, data []byte, arch string) {
	if strings.HasSuffix(name, ".cuh") {
		if j.Includes == nil {
			j.Includes = map[string]string{}
		}
		j.Includes[name] = string(data)
		return
	}
	if j.Sources == nil {
		j.Sources = map[string]string{}
	}
	j.Sources[name] = string(data)
	if arch != "" {
		if j.Only == nil {
			j.Only = map[string][]string{}
		}
		j.Only[name] = []string{arch}
	}
}

// archs returns the architectures of a source, in order and each once.
func (j *Job) archs(name string) []string {
	list, ok := j.Only[name]
	if !ok {
		list = j.Archs
	}
	list = slices.SortedFunc(slices.Values(list), func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return slices.Compact(list)
}

// build is a job under way.
type build struct {
	toolkit   *Toolkit
	host      Host
	hostWorks func() error
	cache     cache
	job       Job

	mu       sync.Mutex // of what follows
	errors   Errors
	fatal    error           // what is not the sources' fault
	failed   map[string]bool // groups with errors
	done     int
	compiled int
	cached   int
}

// piece is a unit with its result.
type piece struct {
	unit
	at     int // of its architecture in the group's
	built  built
	cubin  []byte
	errors Errors
}

func (b *build) run(ctx context.Context) (*Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	groups := b.job.groups()
	of := make([][]*piece, len(groups)) // the pieces of each
	var pieces []*piece
	for i, g := range groups {
		for at, arch := range g.archs {
			p := &piece{unit: unit{group: g, toolkit: b.toolkit, host: b.host, arch: arch, flags: b.job.flags()}, at: at}
			of[i] = append(of[i], p)
			pieces = append(pieces, p)
		}
	}
	// All groups for one architecture before the next: an error in a source shows at the first.
	slices.SortStableFunc(pieces, func(x, y *piece) int { return cmp.Compare(x.at, y.at) })
	parallel(len(pieces), func(i int) {
		if err := b.compile(ctx, pieces[i]); err != nil {
			b.fail(pieces[i], err, stop)
		}
		b.report(len(pieces))
	})
	for _, list := range of { // of what architectures share, the first to be compiled for tells
		if i := slices.IndexFunc(list, func(p *piece) bool { return len(p.errors) > 0 }); i >= 0 {
			b.errors = append(b.errors, list[i].errors...)
		}
	}
	if err := b.outcome(); err != nil {
		return nil, err
	}

	modules := make([]kernelfile.Module, len(groups))
	parallel(len(groups), func(i int) {
		fatbin, err := b.pack(ctx, of[i])
		if err != nil {
			b.fail(of[i][0], err, stop)
		}
		modules[i] = kernelfile.Module{File: groups[i].name, Entries: entries(of[i]), Fatbin: fatbin}
	})
	if err := b.outcome(); err != nil {
		return nil, err
	}
	fatbin, err := kernelfile.Pack(b.toolkit.Version.String(), modules)
	if err != nil {
		return nil, err
	}
	r := &Result{Fatbin: fatbin, Compiled: b.compiled, Cached: b.cached}
	for i, m := range modules {
		for _, entry := range m.Entries {
			k := Kernel{Entry: entry, Usage: map[string]Usage{}}
			k.File, _ = groups[i].declaring(entry)
			for _, p := range of[i] {
				if u, has := p.built.Usage[entry]; has {
					k.Usage[p.arch] = u
				}
			}
			r.Kernels = append(r.Kernels, k)
		}
	}
	slices.SortFunc(r.Kernels, func(x, y Kernel) int { return cmp.Compare(x.Entry, y.Entry) })
	for _, p := range pieces {
		r.Warnings = append(r.Warnings, p.built.Warnings...)
	}
	r.Warnings = r.Warnings.sorted()
	return r, nil
}

// parallel calls f for 0 to n-1, as many at a time as GOMAXPROCS says, in that order.
func parallel(n int, f func(i int)) {
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
}

// fail records an error. One that is no fault of the source ends everything.
func (b *build) fail(p *piece, err error, stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.As(err, &p.errors) {
		b.failed[p.name] = true
		return
	}
	if b.fatal == nil {
		b.fatal = err
	}
	stop()
}

// skip says whether a unit need not be tried: its group has failed for another architecture, or there is enough to show.
func (b *build) skip(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed[name] || len(b.failed) >= maxErrors
}

func (b *build) report(total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done++
	if b.job.Progress != nil {
		b.job.Progress(b.done, total)
	}
}

func (b *build) outcome() error {
	if b.fatal != nil {
		return fmt.Errorf("compile the kernels: %w", b.fatal)
	}
	if len(b.errors) > 0 {
		return b.errors.sorted()
	}
	return nil
}

// compile fills in a piece, from the cache or by nvcc, and checks it.
func (b *build) compile(ctx context.Context, p *piece) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if b.skip(p.name) {
		return nil
	}
	key := p.key()
	cubin, hit := b.cache.get(key, &p.built)
	if !hit {
		if err := b.hostWorks(); err != nil {
			return err
		}
		work, err := b.cache.work()
		if err != nil {
			return err
		}
		defer os.RemoveAll(work)
		fresh, made, err := p.build(ctx, work)
		if err != nil {
			return err
		}
		p.built, cubin = *fresh, made
		if err := b.cache.put(work, key, fresh, made); err != nil {
			return err
		}
	}
	p.cubin = cubin
	b.mu.Lock()
	if hit {
		b.cached++
	} else {
		b.compiled++
	}
	b.mu.Unlock()
	return p.sound(b.job.AllowSpills)
}

// sound checks what was compiled.
func (p *piece) sound(spills bool) error {
	var list Errors
	wrong := func(source string, line int, format string, args ...any) {
		list = append(list, p.complete(message{Error: Error{File: source, Line: line, Text: fmt.Sprintf(format, args...)}}))
	}
	has := map[string]bool{}
	for entry, u := range p.built.Usage {
		source, line := p.declaring(entry)
		has[source] = true
		if u.Spills() && !spills {
			wrong(source, line, "kernel %s needs more registers than the %d that %s gives it: a thread stores %d bytes in memory and "+
				"loads %d; let it hold less at a time, or give it fewer threads a block", entry, u.Registers, p.arch, u.SpillStores, u.SpillLoads)
		}
	}
	for _, source := range p.sources {
		if !has[source] {
			wrong(source, 0, "there is no kernel in it")
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list
}

// entries lists the kernels of a group, in whatever architecture.
func entries(pieces []*piece) (list []string) {
	for _, p := range pieces {
		for entry := range p.built.Usage {
			list = append(list, entry)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// pack returns the fatbin of a group, from the cache or by fatbinary.
func (b *build) pack(ctx context.Context, pieces []*piece) ([]byte, error) {
	parts := []string{"fatbin", b.toolkit.build, pieces[0].name}
	var archs []string
	var cubins [][]byte
	for _, p := range pieces {
		sum := sha256.Sum256(p.cubin)
		archs, cubins = append(archs, p.arch), append(cubins, p.cubin)
		parts = append(parts, p.arch, string(sum[:]))
	}
	key := key(parts...)
	var none struct{}
	if fatbin, hit := b.cache.get(key, &none); hit {
		return fatbin, nil
	}
	work, err := b.cache.work()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	fatbin, err := b.toolkit.pack(ctx, work, pieces[0].name, archs, cubins)
	if err != nil {
		return nil, err
	}
	return fatbin, b.cache.put(work, key, none, fatbin)
}
