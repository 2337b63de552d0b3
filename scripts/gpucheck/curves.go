package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// trainer is a model whose runs are compared: a command and where its runs go.
type trainer struct {
	b     *bench
	model string // as built into the command models; in f32, bf16, fp16 and fp8 where its name ends in _
	steps int
	dir   string
}

// stepLog is a line of a run's log.jsonl.
type stepLog struct {
	Step     int      `json:"step"`
	Loss     float64  `json:"loss"`
	GradNorm float64  `json:"grad_norm"`
	EvalLoss *float64 `json:"eval_loss"`
}

const interrupted = 75 // exit code of a training that a signal stopped, and that goes on

// Allowances of curves.
const (
	movedLoss = 1e-4 // between the losses of a run that went on on another device and of one that did not
	movedNorm = 1e-4 // between their weights, by the Euclidean norm
)

func curves(b *bench) []result {
	dir, err := os.MkdirTemp("", "gpucheck-")
	if err != nil {
		return []result{b.fail("curves", time.Now(), "%v", err)}
	}
	defer os.RemoveAll(dir)
	large, small, text := trainer{b, "curve_", 200, dir}, trainer{b, "small", 20, dir}, trainer{b, textModel, 1000, dir}
	var rows [5]result
	var running sync.WaitGroup
	running.Go(func() { rows[0] = text.onText(sixteenBits) })
	running.Go(func() { rows[1] = large.repeated() })
	running.Go(func() { rows[2] = large.stopped("fp16") })
	running.Go(func() { rows[3] = large.stopped("fp8") })
	running.Go(func() { rows[4] = small.moved() })
	running.Wait()
	return rows[:]
}

// train runs the model in a folder up to a step; more are further arguments.
func (c trainer) train(model, run, device string, steps int, more ...string) error {
	p := c.process(model, run, device, steps)
	p.args = append(p.args, more...)
	log, err := c.b.run(p)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", run, err, tail(log, 8))
	}
	if device != "cpu" && !strings.Contains(log, "device: cuda") {
		return fmt.Errorf("%s: it did not run on the GPU\n%s", run, tail(log, 8))
	}
	return nil
}

func (c trainer) process(model, run, device string, steps int) process {
	return process{
		log: "curves-" + run + "-" + fmt.Sprint(steps) + "-" + device, limit: 5 * time.Minute,
		args: []string{c.b.built("models"), model, "train", "--run", filepath.Join(c.dir, run), "--steps", fmt.Sprint(steps), "--device", device},
	}
}

// log reads the log of a run, which must have come to a step.
func (c trainer) log(run string, steps int) ([]stepLog, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, run, "log.jsonl"))
	if err != nil {
		return nil, err
	}
	var all []stepLog
	for line := range bytes.Lines(data) {
		var s stepLog
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, fmt.Errorf("%s: log.jsonl: %w", run, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 || all[len(all)-1].Step != steps {
		return nil, fmt.Errorf("%s: the log has %d lines and does not end at step %d", run, len(all), steps)
	}
	return all, nil
}

// repeated trains twice in bf16 and says how equal the runs are.
func (c trainer) repeated() result {
	began := time.Now()
	same := result{part: c.b.part, what: "two runs in bf16: the same log and files"}
	runs := []string{"bf16", "bf16-again"}
	errs := make([]error, len(runs))
	var running sync.WaitGroup
	for i, run := range runs {
		running.Go(func() { errs[i] = c.train(c.model+"bf16", run, c.b.device, c.steps) })
	}
	running.Wait()
	logs := make([][]stepLog, len(runs))
	for i, run := range runs {
		if errs[i] == nil {
			logs[i], errs[i] = c.log(run, c.steps)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c.b.fail(same.what, began, "%v", err)
	}
	for i, line := range logs[0] {
		again := logs[1][min(i, len(logs[1])-1)]
		same.cases++
		if line.Step != again.Step || line.Loss != again.Loss || line.GradNorm != again.GradNorm {
			same.failed++
			same.failures = append(same.failures, fmt.Sprintf("step %d: loss %v and %v, gradient norm %v and %v", line.Step, line.Loss, again.Loss, line.GradNorm, again.GradNorm))
		}
	}
	c.equal(&same, "bf16", "bf16-again")
	same.took = time.Since(began)
	return same
}

// compare adds the lines of a log, held to another log: their losses may be as far off as allowed.
func (r *result) compare(got, want []stepLog, allowed float64) {
	worst, at := -1.0, 0
	for i, w := range want {
		r.cases++
		if i >= len(got) || got[i].Step != w.Step {
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("step %d is not in both logs", w.Step))
			continue
		}
		off := math.Abs(got[i].Loss - w.Loss)
		if w.EvalLoss != nil && got[i].EvalLoss != nil {
			off = max(off, math.Abs(*got[i].EvalLoss-*w.EvalLoss))
		} else if w.EvalLoss != got[i].EvalLoss {
			off = math.Inf(1) // one was evaluated, the other was not
		}
		if !(off <= worst) {
			worst, at = off, w.Step
		}
		if !(off <= allowed) {
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("step %d: loss %g, want %g: off by %.3g, allowed are %g", w.Step, got[i].Loss, w.Loss, off, allowed))
		}
	}
	r.note = fmt.Sprintf("largest difference %.2g, at step %d", worst, at)
}

// equal adds a comparison of the files of weights and moments that two runs saved at their last step.
func (c trainer) equal(r *result, a, b string) {
	for _, run := range []string{a, b} {
		if files := c.saved(run); len(files) < 2 {
			r.cases, r.failed = r.cases+1, r.failed+1
			r.failures = append(r.failures, fmt.Sprintf("%s: the save of step %d has the files %q; weights and moments are wanted", run, c.steps, files))
		}
	}
	for _, file := range c.saved(a) {
		r.cases++
		x, err := os.ReadFile(filepath.Join(c.checkpoint(a), file))
		if err == nil {
			var y []byte
			if y, err = os.ReadFile(filepath.Join(c.checkpoint(b), file)); err == nil && !bytes.Equal(x, y) {
				err = fmt.Errorf("%s: %d of %d bytes differ between %s and %s", file, different(x, y), len(x), a, b)
			}
		}
		if err != nil {
			r.failed++
			r.failures = append(r.failures, err.Error())
		}
	}
	if r.failed == 0 {
		r.note = "all bytes equal"
	}
}

func different(x, y []byte) int {
	n := max(len(x), len(y)) - min(len(x), len(y))
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			n++
		}
	}
	return n
}

func (c trainer) checkpoint(run string) string {
	return filepath.Join(c.dir, run, fmt.Sprintf("checkpoint-%d", c.steps))
}

// saved lists the files of tensors of a run's last save.
func (c trainer) saved(run string) (names []string) {
	files, _ := filepath.Glob(filepath.Join(c.checkpoint(run), "*.safetensors")) // the pattern is good
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	return names
}

// stopped trains in a precision in one go, and again with a signal on the way; both must end with the same bytes.
func (c trainer) stopped(precision string) result {
	began := time.Now()
	r := result{part: c.b.part, what: precision + ", stopped by a signal and resumed: the same files"}
	unbroken, broken := precision, precision+"-stopped"
	ended := make(chan error, 1)
	go func() { ended <- c.train(c.model+precision, unbroken, c.b.device, c.steps) }()
	err := c.stop(c.model+precision, broken)
	if err == nil {
		err = c.train(c.model+precision, broken, c.b.device, c.steps)
	}
	if err = errors.Join(err, <-ended); err != nil {
		return c.b.fail(r.what, began, "%v", err)
	}
	c.equal(&r, unbroken, broken)
	r.took = time.Since(began)
	return r
}

// stop trains until a fifth of the steps is logged, and sends a signal then.
func (c trainer) stop(model, run string) error {
	p := c.process(model, run, c.b.device, c.steps)
	p.log += "-stopped"
	cmd, wait := c.b.start(p)
	type end struct {
		log string
		err error
	}
	ended := make(chan end, 1)
	go func() {
		log, err := wait()
		ended <- end{log, err}
	}()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	signalled := false
	for {
		select {
		case e := <-ended:
			var exit *exec.ExitError
			if errors.As(e.err, &exit) && exit.ExitCode() == interrupted && signalled {
				return nil
			}
			return fmt.Errorf("%s: it was to be stopped on the way (signalled: %v), and ended otherwise: %v\n%s", run, signalled, e.err, tail(e.log, 8))
		case <-look.C:
			if signalled {
				continue
			}
			data, _ := os.ReadFile(filepath.Join(c.dir, run, "log.jsonl")) // nothing, as long as there is none
			for line := range bytes.Lines(data) {
				var s stepLog
				if json.Unmarshal(line, &s) == nil && s.Step*5 >= c.steps {
					signalled = true
				}
			}
			if signalled {
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					return fmt.Errorf("%s: it ended before it could be stopped: %w", run, err)
				}
			}
		}
	}
}

// moved trains on the GPU, and half of the steps on the CPU and half on the GPU, in both orders.
func (c trainer) moved() result {
	began := time.Now()
	r := result{part: c.b.part, what: fmt.Sprintf("f32, %d steps on the GPU beside half of them on the CPU, either half", c.steps)}
	for _, run := range []struct{ name, first, second string }{{"gpu", c.b.device, c.b.device}, {"cpu-gpu", "cpu", c.b.device}, {"gpu-cpu", c.b.device, "cpu"}} {
		err := c.train(c.model, run.name, run.first, c.steps/2)
		if err == nil {
			err = c.train(c.model, run.name, run.second, c.steps)
		}
		if err != nil {
			return c.b.fail(r.what, began, "%v", err)
		}
	}
	want, err := c.log("gpu", c.steps)
	if err != nil {
		return c.b.fail(r.what, began, "%v", err)
	}
	var notes []string
	for _, run := range []string{"cpu-gpu", "gpu-cpu"} {
		got, err := c.log(run, c.steps)
		if err != nil {
			return c.b.fail(r.what, began, "%v", err)
		}
		r.compare(got, want, movedLoss)
		off, err := distance(filepath.Join(c.checkpoint(run), "model.safetensors"), filepath.Join(c.checkpoint("gpu"), "model.safetensors"))
		r.cases++
		if err != nil || !(off <= movedNorm) {
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: weights differ by %.3g of their norm, allowed are %g (error: %v)", run, off, movedNorm, err))
		}
		notes = append(notes, fmt.Sprintf("%s: %s, weights %.2g", run, r.note, off))
	}
	r.note, r.took = strings.Join(notes, "; "), time.Since(began)
	return r
}

// distance is the Euclidean norm of the difference of two files of f32 tensors, by that of the second.
func distance(a, b string) (float64, error) {
	x, err := floats(a)
	if err != nil {
		return math.NaN(), err
	}
	y, err := floats(b)
	if err != nil {
		return math.NaN(), err
	}
	if len(x) != len(y) {
		return math.NaN(), fmt.Errorf("%s has %d numbers, %s %d", a, len(x), b, len(y))
	}
	d, n := 0.0, 0.0
	for i := range y {
		d += (x[i] - y[i]) * (x[i] - y[i])
		n += y[i] * y[i]
	}
	return math.Sqrt(d / n), nil
}

// floats reads the numbers of a safetensors file, tensor by tensor in the order of their names.
func floats(file string) ([]float64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(data) < 8 || binary.LittleEndian.Uint64(data) > uint64(len(data)-8) {
		return nil, fmt.Errorf("%s is no safetensors file", file)
	}
	size := binary.LittleEndian.Uint64(data)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(data[8:8+size], &header); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	delete(header, "__metadata__")
	body := data[8+size:]
	var names []string
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	var all []float64
	for _, name := range names {
		var t struct {
			DType string `json:"dtype"`
			At    [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(header[name], &t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, name, err)
		}
		if t.DType != "F32" || t.At[0] < 0 || t.At[0] > t.At[1] || t.At[1] > len(body) {
			return nil, fmt.Errorf("%s: %s is not F32 within the file", file, name)
		}
		for p := body[t.At[0]:t.At[1]]; len(p) >= 4; p = p[4:] {
			all = append(all, float64(math.Float32frombits(binary.LittleEndian.Uint32(p))))
		}
	}
	return all, nil
}
