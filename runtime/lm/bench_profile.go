package lm

import "fmt"

// memoryUse is memory of a device, in bytes.
type memoryUse struct {
	Planned int64 `json:"planned"` // for the step
	Used    int64 `json:"used"`    // in all, as the driver says
	Context int64 `json:"context"` // in use before: the context with the program's code, and whatever else runs there
	Library int64 `json:"library"` // in use beside these two: what libraries took for the step
}

// benchTrain is bench train.
func (c *call) benchTrain() error {
	steps := c.flags.Int("steps", benchSteps, "optimizer steps to time")
	if err := c.parse(); err != nil {
		return err
	}
	if *steps < 1 {
		return inputError("--steps is %d; it must be at least 1", *steps)
	}
	return c.profiled(func(m *Model, r *report) (err error) {
		r.benchmark, err = m.timeTraining(*steps, func(t Trainer, tokens, targets []int32) (err error) {
			if p, ok := t.(ProfiledTrainer); ok {
				r.Profile, err = p.ProfileStep(tokens, targets, StepParams{LR: benchLR, Step: *steps + 2, Seed: 1}, *steps)
				return r.used(m, err)
			}
			return nil
		})
		return err
	})
}

// benchDecode is bench decode.
func (c *call) benchDecode() error {
	steps := c.flags.Int("steps", c.decodeSteps(), "decode steps to time")
	shape := c.decodeFlags()
	if err := c.parse(); err != nil {
		return err
	}
	if *steps < 1 {
		return inputError("--steps is %d; it must be at least 1", *steps)
	}
	if err := shape.check(*steps, c.cfg.Context); err != nil {
		return err
	}
	return c.profiled(func(m *Model, r *report) (err error) {
		r.benchmark, err = m.timeDecoding(*steps, *shape, func(g Generator, tokens, positions, slots []int32) (err error) {
			if p, ok := g.(ProfiledGenerator); ok {
				r.Profile, err = p.ProfileDecode(tokens, positions, slots, *steps)
				return r.used(m, err)
			}
			return nil
		})
		return err
	})
}

// profiled measures a fresh model's device, then what measure does, and prints the report.
func (c *call) profiled(measure func(m *Model, r *report) error) error {
	m, err := c.fresh()
	if err != nil {
		return err
	}
	defer m.Close()
	var r report
	if d, ok := m.device.(Measured); ok {
		if r.Roofline, err = d.Roofline(); err != nil {
			return fmt.Errorf("measuring %s: %w", m.device, err)
		}
		if r.Memory.Context, err = d.MemoryUsed(); err != nil {
			return err
		}
	}
	if err := measure(m, &r); err != nil {
		return err
	}
	if err := c.say(r.benchmark, nil); err != nil || r.Profile == nil {
		return err
	}
	if *c.json {
		return r.printJSON(c)
	}
	return r.print(c.stdout)
}

// used notes the memory that the step has taken.
func (r *report) used(m *Model, err error) error {
	if err != nil {
		return err
	}
	if d, ok := m.device.(Measured); ok {
		if r.Memory.Used, err = d.MemoryUsed(); err != nil {
			return err
		}
	}
	r.Memory.Planned = r.Profile.Planned
	r.Memory.Library = r.Memory.Used - r.Memory.Context - r.Memory.Planned
	return nil
}
