package lm

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// benchmark is what bench measured of one thing: times of single steps, in milliseconds.
type benchmark struct {
	What   string  `json:"what"` // train, prefill or decode
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

// measure times step, which is called once before, until ctx ends.
func measure(ctx context.Context, what, device string, tokens, steps int, step func(i int) error) (benchmark, error) {
	b := benchmark{What: what, Device: device, Tokens: tokens, Steps: steps}
	times := make([]float64, 0, steps)
	for i := range steps + 1 {
		if err := ctx.Err(); err != nil {
			return b, err
		}
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

// benchSteps is how many optimizer steps are timed where the command line does not say.
const benchSteps = 20

// bench measures on random tokens and fresh weights. bench train, bench decode and bench cpu tell of every kernel; bench alone
// tells of whole steps of both.
func (c *call) bench() error {
	name := c.flags.Name()
	if len(c.args) > 0 {
		parts := map[string]func() error{"train": c.benchTrain, "decode": c.benchDecode, "cpu": c.benchCPU}
		if run := parts[c.args[0]]; run != nil {
			c.flags.Init(name+" "+c.args[0], flag.ContinueOnError)
			c.args = c.args[1:]
			return run()
		}
	}
	c.flags.Usage = func() {
		fmt.Fprintf(c.flags.Output(), "Usage of %s:\n", name)
		c.flags.PrintDefaults()
		fmt.Fprintf(c.flags.Output(), "\n%s train and %s decode tell where the time of a step goes, %s cpu what the processor reaches, too; -h after them lists their flags.\n", name, name, name)
	}
	steps := c.flags.Int("steps", benchSteps, "optimizer steps to time; 0: none")
	decode := c.flags.Int("decode", c.decodeSteps(), "decode steps to time; 0: none")
	prefill := c.flags.Int("prefill", 5, "prompts to time, of as many tokens as --prompt says; 0: none")
	shape := c.decodeFlags()
	peers := c.peersFlag()
	if err := c.parse(); err != nil {
		return err
	}
	if *steps < 0 || *decode < 0 || *prefill < 0 {
		return inputError("the steps and prompts to time are %d, %d and %d; they must not be negative (0: none)", *steps, *decode, *prefill)
	}
	if *decode > 0 || *prefill > 0 {
		if err := shape.check(*decode, c.cfg.Context); err != nil {
			return err
		}
	}
	if err := peers.find(); err != nil {
		return err
	}
	m, err := c.fresh()
	if err != nil {
		return err
	}
	defer m.Close()
	for _, job := range []struct {
		times int
		run   func(times int) (benchmark, error)
	}{
		{*steps, func(n int) (benchmark, error) { return m.timeTraining(c.ctx, n, nil) }},
		{*prefill, func(n int) (benchmark, error) { return m.timePrefill(c.ctx, n, *shape) }},
		{*decode, func(n int) (benchmark, error) { return m.timeDecoding(c.ctx, n, *shape, nil) }},
	} {
		if job.times == 0 {
			continue
		}
		b, err := job.run(job.times)
		if err := c.say(b, err); err != nil {
			return err
		}
		peers.later(b, *shape)
	}
	return peers.run(m)
}

// fresh returns a model with the weights that training starts from, on the device of the command line.
func (c *call) fresh() (*Model, error) {
	m, err := New(c.cfg, c.cfg.Train.Seed)
	return c.use(m, err)
}

// say prints what was measured.
func (c *call) say(b benchmark, err error) error {
	switch {
	case err != nil:
		return err
	case *c.json:
		return c.printJSON(b)
	}
	_, err = fmt.Fprintln(c.stdout, b)
	return err
}

// timeTraining times optimizer steps. after is called before the trainer is closed, with a batch; it may be nil.
func (m *Model) timeTraining(ctx context.Context, steps int, after func(t Trainer, tokens, targets []int32) error) (benchmark, error) {
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
	b, err := measure(ctx, "train", m.deviceName(), n, steps, func(i int) error {
		_, _, err := t.Step(tokens, targets, StepParams{LR: benchLR, Step: i + 1, Seed: 1})
		return err
	})
	b.First += float64(ready.Nanoseconds()) / 1e6
	if err == nil && after != nil {
		err = after(t, tokens, targets)
	}
	return b, err
}

// benchLR is the learning rate of steps that are timed.
const benchLR = 1e-4

// decodeShape is how many sequences are decoded at once, and after how many tokens.
type decodeShape struct{ batch, prompt int }

// decodeSteps is how many decode steps are timed where the command line does not say.
func (c *call) decodeSteps() int { return min(100, c.cfg.Context/2) }

func (c *call) decodeFlags() *decodeShape {
	var s decodeShape
	c.flags.IntVar(&s.batch, "batch", 1, "sequences that are decoded at once")
	c.flags.IntVar(&s.prompt, "prompt", max(1, min(128, c.cfg.Context/4)), "tokens before the first decode step")
	return &s
}

// check says what is wrong with a shape for so many steps.
func (s *decodeShape) check(steps, context int) error {
	switch {
	case s.batch < 1:
		return inputError("--batch is %d; it must be at least 1", s.batch)
	case s.prompt < 1 || s.prompt+steps >= context:
		return inputError("a prompt of %d tokens and %d decode steps do not fit the model's context of %d, with one step before those that are timed; "+
			"give a --prompt of at least 1 and fewer of both", s.prompt, steps, context)
	}
	return nil
}

// timePrefill times prompts, one at a time, each up to the token that is picked after it.
func (m *Model) timePrefill(ctx context.Context, times int, shape decodeShape) (benchmark, error) {
	begin := time.Now()
	m.cfg.Generate.Batch = shape.batch
	g, err := m.generation()
	if err != nil {
		return benchmark{}, err
	}
	prompt := m.randomTokens(shape.prompt)
	ready := time.Since(begin)
	b, err := measure(ctx, "prefill", m.deviceName(), len(prompt), times, func(int) error { return prefill(g, prompt, 0, new(int32)) })
	b.First += float64(ready.Nanoseconds()) / 1e6
	return b, err
}

func (m *Model) randomTokens(n int) []int32 {
	r := rand.New(rand.NewPCG(1, 2))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(r.IntN(m.cfg.VocabSize))
	}
	return tokens
}

// prefill brings a prompt into a slot, in as many chunks as it takes, and gives the token picked after it.
func prefill(g Picker, prompt []int32, slot int, token *int32) (err error) {
	for at := 0; at < len(prompt); at += g.MaxPrefill() {
		if *token, err = g.PrefillAndPick(prompt[at:min(at+g.MaxPrefill(), len(prompt))], at, slot, PickOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// timeDecoding times decode steps. after is called with the last one; it may be nil.
func (m *Model) timeDecoding(ctx context.Context, steps int, shape decodeShape, after func(g Generator, tokens, positions, slots []int32) error) (benchmark, error) {
	begin := time.Now()
	m.cfg.Generate.Batch = shape.batch
	g, err := m.generation()
	if err != nil {
		return benchmark{}, err
	}
	tokens, positions, slots := make([]int32, shape.batch), make([]int32, shape.batch), make([]int32, shape.batch)
	first := m.randomTokens(shape.prompt)
	for s := range slots {
		slots[s] = int32(s)
		if err := prefill(g, first, s, &tokens[s]); err != nil {
			return benchmark{}, err
		}
	}
	ready := time.Since(begin)
	greedy := make([]PickOptions, len(tokens))
	b, err := measure(ctx, "decode", m.deviceName(), len(tokens), steps, func(i int) error {
		if slices.Contains(tokens, noToken) {
			return errLogits
		}
		for s := range tokens {
			positions[s] = int32(shape.prompt + i)
		}
		picked, err := g.DecodeAndPick(tokens, positions, slots, greedy)
		copy(tokens, picked)
		return err
	})
	b.First += float64(ready.Nanoseconds()) / 1e6
	if err == nil && after != nil {
		err = after(g, tokens, positions, slots)
	}
	return b, err
}
