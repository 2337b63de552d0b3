package lm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// benchmark is what bench measured of one thing: times of single steps, in milliseconds.
type benchmark struct {
	What   string  `json:"what"` // train or decode
	Device string  `json:"device"`
	Tokens int     `json:"tokens"` // of a step
	Steps  int     `json:"steps"`  // timed
	First  float64 `json:"first_ms"`
	Median float64 `json:"median_ms"`
	Least  float64 `json:"min_ms"`
	Most   float64 `json:"max_ms"`
	Speed  float64 `json:"tokens_per_second"` // at the median
}

func (b benchmark) String() string {
	return fmt.Sprintf("%-7s %s: %.4g ms a step of %d tokens (%.4g to %.4g, %d steps), %.4g tokens/s; the first took %.4g ms",
		b.What, b.Device, b.Median, b.Tokens, b.Least, b.Most, b.Steps, b.Speed, b.First)
}

// measure times step, which is called once before.
func measure(what, device string, tokens, steps int, step func(i int) error) (benchmark, error) {
	b := benchmark{What: what, Device: device, Tokens: tokens, Steps: steps}
	times := make([]float64, 0, steps)
	for i := range steps + 1 {
		begin := time.Now()
		if err := step(i); err != nil {
			return b, err
		}
		ms := float64(time.Since(begin).Nanoseconds()) / 1e6
		if i == 0 {
			b.First = ms
			continue
		}
		times = append(times, ms)
	}
	slices.Sort(times)
	b.Median, b.Least, b.Most = times[len(times)/2], times[0], times[len(times)-1]
	b.Speed = float64(tokens) / b.Median * 1e3
	return b, nil
}

// bench measures on random tokens and fresh weights.
func (c *call) bench() error {
	steps := c.flags.Int("steps", 20, "optimizer steps to time; 0: none")
	decode := c.flags.Int("decode", min(100, c.cfg.Context/2), "decode steps to time; 0: none")
	batch := c.flags.Int("batch", 1, "sequences that are decoded at once")
	prompt := c.flags.Int("prompt", max(1, min(128, c.cfg.Context/4)), "tokens before the first decode step")
	if err := c.parse(); err != nil {
		return err
	}
	switch {
	case *steps < 0 || *decode < 0:
		return inputError("the steps to time are %d and %d; they must not be negative (0: none)", *steps, *decode)
	case *batch < 1:
		return inputError("--batch is %d; it must be at least 1", *batch)
	case *decode > 0 && (*prompt < 1 || *prompt+*decode >= c.cfg.Context):
		return inputError("a prompt of %d tokens and %d decode steps do not fit the model's context of %d, with one step before those that are timed; "+
			"give a --prompt of at least 1 and fewer of both", *prompt, *decode, c.cfg.Context)
	}
	m, err := New(c.cfg, c.cfg.Train.Seed)
	if m, err = c.use(m, err); err != nil {
		return err
	}
	defer m.Close()
	say := func(b benchmark, err error) error {
		switch {
		case err != nil:
			return err
		case *c.json:
			return c.printJSON(b)
		}
		_, err = fmt.Fprintln(c.stdout, b)
		return err
	}
	if *steps > 0 {
		if err := say(m.benchTrain(*steps)); err != nil {
			return err
		}
	}
	if *decode > 0 {
		return say(m.benchDecode(*decode, *batch, *prompt))
	}
	return nil
}

func (m *Model) benchTrain(steps int) (benchmark, error) {
	begin := time.Now()
	t, err := m.newTrainer("")
	if err != nil {
		return benchmark{}, err
	}
	defer t.Close()
	n := m.cfg.Train.Batch * m.cfg.Train.Context
	tokens, targets := make([]int32, n), make([]int32, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range tokens {
		tokens[i], targets[i] = int32(r.IntN(m.cfg.VocabSize)), int32(r.IntN(m.cfg.VocabSize))
	}
	ready := time.Since(begin)
	b, err := measure("train", m.deviceName(), n, steps, func(i int) error {
		_, _, err := t.Step(tokens, targets, StepParams{LR: 1e-4, Step: i + 1, Seed: 1})
		return err
	})
	b.First += float64(ready.Nanoseconds()) / 1e6
	return b, err
}

func (m *Model) benchDecode(steps, batch, prompt int) (benchmark, error) {
	begin := time.Now()
	m.cfg.Generate.Batch = max(batch, 1)
	g, err := m.generation()
	if err != nil {
		return benchmark{}, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	tokens, positions, slots := make([]int32, batch), make([]int32, batch), make([]int32, batch)
	first := make([]int32, prompt)
	for i := range first {
		first[i] = int32(r.IntN(m.cfg.VocabSize))
	}
	for s := range batch {
		slots[s] = int32(s)
		for at := 0; at < prompt; at += g.MaxPrefill() {
			if tokens[s], err = g.PrefillAndPick(first[at:min(at+g.MaxPrefill(), prompt)], at, s, PickOptions{}); err != nil {
				return benchmark{}, err
			}
		}
	}
	ready := time.Since(begin)
	greedy := make([]PickOptions, batch)
	b, err := measure("decode", m.deviceName(), batch, steps, func(i int) error {
		if slices.Contains(tokens, noToken) {
			return errLogits
		}
		for s := range tokens {
			positions[s] = int32(prompt + i)
		}
		picked, err := g.DecodeAndPick(tokens, positions, slots, greedy)
		copy(tokens, picked)
		return err
	})
	b.First += float64(ready.Nanoseconds()) / 1e6
	return b, err
}
