package gpu

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// openLock opens the lock of products: that of a run, and the machine's behind it, which is what makes a second run choose
// as the first one did. With TFC_TUNE=off only the run's counts, and products that it does not hold take cuBLASLt's first
// choice.
func (d *device) openLock(tuned string) (*cuda.Lock, error) {
	switch v := os.Getenv("TFC_TUNE"); v {
	case "off":
		return cuda.OpenLock(tuned, ""), nil
	case "":
		return d.openTuningLock(tuned), nil
	default:
		return nil, fmt.Errorf("TFC_TUNE is %q; it can be off, so that no product is timed, or not set", v)
	}
}

func (d *device) openTuningLock(tuned string) *cuda.Lock {
	machine, err := cuda.MachineLock()
	if err != nil {
		d.note(err.Error())
	}
	lock := cuda.OpenLock(tuned, machine)
	lock.Tune = true
	return lock
}

// note keeps a sentence for the user, who reads it once.
func (d *device) note(sentence string) {
	if !slices.Contains(d.noted, sentence) {
		d.noted = append(d.noted, sentence)
	}
}

// Notes implements lm.Device.
func (d *device) Notes() []string {
	notes := slices.Clone(d.noted[d.read:])
	d.read = len(d.noted)
	return notes
}

// prepare has the products of a job ready. Those that no lock knows are timed, which is done before anything of the job runs
// or is captured.
func (r *Run) prepare(j *Job) error {
	begin := time.Now()
	r.dry = true
	j.Enqueue(r)
	r.dry = false
	r.code.saveLock()
	timed := 0
	for _, t := range r.code.blas.Timings() {
		if t.Took > 0 {
			timed++
		}
	}
	if timed > 0 {
		r.code.d.note(fmt.Sprintf("%d matrix products were timed, once for this machine, in %.1f s", timed, time.Since(begin).Seconds()))
	}
	return r.stream.Err()
}

// saveLock saves the lock, and says where that fails.
func (c *code) saveLock() (saved bool) {
	c.lock.Save()
	notes := c.lock.Notes()
	for _, n := range notes {
		c.d.note(n)
	}
	return len(notes) == 0
}

// Tune implements lm.Device. It holds no more memory than the one product that is timed at a time.
func (d *device) Tune(tuned string) (timings []lm.Timing, err error) {
	workspace, err := d.allocate("timing products", func(m *memory) { m.take(footprint.Workspace) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, workspace.free()) }()
	c := &code{d: d, program: d.program, arch: d.ctx.Device().Arch(), lock: d.openTuningLock(tuned), rivals: d.rivals()}
	c.lock.Anew = true
	if c.blas, err = d.ctx.NewBLAS(workspace.base, footprint.Workspace, c.lock); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.blas.Close()) }()
	stream, err := d.ctx.NewStream()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	p := d.program
	layers := make([]Ptr, len(p.CacheWidths))
	r := Run{Tables: make([]Ptr, len(p.Tables)), Keys: layers, Values: layers, stream: stream, code: c, dry: true}
	for _, j := range []struct {
		job  *Job
		rows int
	}{{&p.Train, 0}, {&p.Eval, 0}, {&p.Prefill, p.MaxPrefill}, {&p.Decode, 1}} {
		r.Rows = j.rows
		j.job.Enqueue(&r)
	}
	saved := c.saveLock()
	if err := stream.Err(); err != nil {
		return nil, err
	}
	for _, t := range c.blas.Timings() {
		q := t.Product
		timings = append(timings, lm.Timing{
			About: q.About, Shape: fmt.Sprintf("%d × %d × %d %v", q.M, q.N, q.K, q.A),
			Candidates: t.Candidates, Chosen: t.Chosen, First: t.First, Took: t.Took,
		})
	}
	if paths := c.lock.Paths(); saved && len(paths) > 0 {
		d.note("the choices are kept in " + strings.Join(paths, " and "))
	}
	return timings, nil
}
