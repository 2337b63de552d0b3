package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"
)

// Two trainings that differ in their roundings alone drift apart, and end as far from each other as those of two seeds do: one run of
// fp8 and one of bf16 decide nothing about half a percent. What seeds compares is the mean of many, by pairs of the same seed, which
// have the same weights, batches and dropout to start from.
const (
	seedCount = 16
	atOnce    = 4 // trainings that share the GPU

	eightLoss = 5e-3   // of fp8's losses above those of bf16, of the latter, on average
	eightSure = 2.5e-3 // of the standard error of that average: with more the runs do not decide
)

// text is the model that seeds trains, in bf16 and in fp8, and realText what it reads where gpu.sh had it.
const (
	textModel = "text_"
	realText  = "text.txt"
)

// seeds trains on a real text, or, without it, on built-in stories.
func seeds(b *bench) []result {
	dir, err := os.MkdirTemp("", "gpucheck-")
	if err != nil {
		return []result{b.fail("seeds", time.Now(), "%v", err)}
	}
	defer os.RemoveAll(dir)
	of, more := "built-in stories", []string(nil)
	if _, err := os.Stat(b.built(realText)); err == nil {
		of, more = "a real text", []string{"--root", b.folder, "--data", realText}
	}
	c := trainer{b, textModel, 2000, dir}
	return []result{c.pairs(of, seedCount, more...)}
}

// pairs trains in bf16 and in fp8 with each of n seeds.
func (c trainer) pairs(text string, n int, more ...string) result {
	began := time.Now()
	r := result{part: c.b.part, what: fmt.Sprintf("losses of fp8 within %g%% of bf16's after %d steps on %s, means of %d seeds", 100*eightLoss, c.steps, text, n)}
	ends, errs := make([][2]losses, n), make([]error, 2*n)
	room := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for i := range 2 * n {
		running.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			precision, seed := []string{"bf16", "fp8"}[i%2], i/2
			run := fmt.Sprintf("%s-%d", precision, seed+1)
			args := append([]string{"--seed", fmt.Sprint(seed + 1)}, more...)
			if errs[i] = c.train(c.model+precision, run, c.b.device, c.steps, args...); errs[i] == nil {
				ends[seed][i%2], errs[i] = c.end(run)
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return c.b.fail(r.what, began, "%v", err)
	}
	r.pairs(ends)
	r.took = time.Since(began)
	return r
}

// losses are what a run comes to: its mean loss over the last tenth of its steps, and its last loss on held-out text.
type losses [2]float64

func (c trainer) end(run string) (l losses, err error) {
	lines, err := c.log(run, c.steps)
	if err != nil {
		return l, err
	}
	n := 0
	for _, s := range lines {
		if s.EvalLoss != nil {
			l[1] = *s.EvalLoss
		}
		if 10*s.Step > 9*c.steps {
			l[0] += s.Loss
			n++
		}
	}
	l[0] /= float64(n)
	if l[1] == 0 {
		return l, fmt.Errorf("%s: nothing was evaluated", run)
	}
	return l, nil
}

// pairs adds a comparison of runs in bf16 and in fp8, a pair a seed: fp8 may be better, but no more than eightLoss worse on average,
// and that average must be known well enough to say so.
func (r *result) pairs(ends [][2]losses) {
	n := float64(len(ends))
	var notes []string
	for i, what := range []string{"loss of the last tenth", "loss on held-out text"} {
		mean, off, spread, bf16Spread := [2]float64{}, 0.0, 0.0, 0.0
		for _, e := range ends {
			mean[0] += e[0][i] / n
			mean[1] += e[1][i] / n
			off += (e[1][i]/e[0][i] - 1) / n
		}
		for _, e := range ends {
			spread += math.Pow(e[1][i]/e[0][i]-1-off, 2) / (n - 1)
			bf16Spread += math.Pow(e[0][i]/mean[0]-1, 2) / (n - 1)
		}
		sure := math.Sqrt(spread / n)
		said := fmt.Sprintf("%s %.4f beside %.4f (%+.2f%%, standard error %.2f%%; one run of bf16 is off by %.2f%%)", what, mean[1], mean[0], 100*off, 100*sure, 100*math.Sqrt(bf16Spread))
		notes = append(notes, said)
		r.cases++
		switch {
		case !(off <= eightLoss):
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: allowed are %g%%", said, 100*eightLoss))
		case !(sure <= eightSure):
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: these runs do not decide, it takes a standard error of %g%%", said, 100*eightSure))
		}
	}
	r.note = strings.Join(notes, ", ")
}
