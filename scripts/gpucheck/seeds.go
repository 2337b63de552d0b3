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
// each decides nothing about a percent. What is compared is the mean of many, by pairs of the same seed, which have the same weights,
// batches and dropout to start from.
const atOnce = 4 // trainings that share the GPU

// comparison is of the losses of one precision beside those of another.
type comparison struct {
	of, beside string
	seeds      int
	worse      float64 // at most, on average, of the losses of the other
	sure       float64 // the standard error of that average at most: with more the runs do not decide
}

var (
	eightBits   = comparison{"fp8", "bf16", 16, 5e-3, 2.5e-3}
	sixteenBits = comparison{"bf16", "f32", 4, 1e-2, 5e-3}
)

// text is the model that is trained for it, and realText what it reads where gpu.sh had it.
const (
	textModel = "text_"
	realText  = "text.txt"
)

func seeds(b *bench) []result {
	dir, err := os.MkdirTemp("", "gpucheck-")
	if err != nil {
		return []result{b.fail("seeds", time.Now(), "%v", err)}
	}
	defer os.RemoveAll(dir)
	return []result{trainer{b, textModel, 2000, dir}.onText(eightBits)}
}

// onText trains on a real text, or, without it, on built-in stories.
func (c trainer) onText(of comparison) result {
	if _, err := os.Stat(c.b.built(realText)); err == nil {
		return c.pairs(of, "a real text", "--root", c.b.folder, "--data", realText)
	}
	return c.pairs(of, "built-in stories")
}

// pairs trains in two precisions with each of some seeds.
func (c trainer) pairs(of comparison, text string, more ...string) result {
	began := time.Now()
	r := result{part: c.b.part, what: fmt.Sprintf("losses of %s within %g%% of %s's after %d steps on %s, means of %d seeds", of.of, 100*of.worse, of.beside, c.steps, text, of.seeds)}
	n := of.seeds
	ends, errs := make([][2]losses, n), make([]error, 2*n)
	room := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	for i := range 2 * n {
		running.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			precision, seed := []string{of.beside, of.of}[i%2], i/2
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
	r.pairs(of, ends)
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

// pairs adds a comparison of runs, a pair a seed: those of one precision may be better than those beside them, but no more than so much worse on
// average, and that average must be known well enough to say so.
func (r *result) pairs(of comparison, ends [][2]losses) {
	n := float64(len(ends))
	var notes []string
	for i, what := range []string{"loss of the last tenth", "loss on held-out text"} {
		mean, off, spread, besideSpread := [2]float64{}, 0.0, 0.0, 0.0
		for _, e := range ends {
			mean[0] += e[0][i] / n
			mean[1] += e[1][i] / n
			off += (e[1][i]/e[0][i] - 1) / n
		}
		for _, e := range ends {
			spread += math.Pow(e[1][i]/e[0][i]-1-off, 2) / (n - 1)
			besideSpread += math.Pow(e[0][i]/mean[0]-1, 2) / (n - 1)
		}
		sure := math.Sqrt(spread / n)
		said := fmt.Sprintf("%s %.4f beside %.4f (%+.2f%%, standard error %.2f%%; one run of %s is off by %.2f%%)", what, mean[1], mean[0], 100*off, 100*sure, of.beside, 100*math.Sqrt(besideSpread))
		notes = append(notes, said)
		r.cases++
		switch {
		case !(off <= of.worse):
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: allowed are %g%%", said, 100*of.worse))
		case !(sure <= of.sure):
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: these runs do not decide, it takes a standard error of %g%%", said, 100*of.sure))
		}
	}
	r.note = strings.Join(notes, ", ")
}
