package lm

import "fmt"

// report is what bench train and bench decode say: the times of whole steps and, where the device tells, of their parts.
type report struct {
	benchmark
	Profile  *Profile // nil where it is not known
	Roofline Roofline
	Machine  *machine // nil unless it is to be told
	Memory   memoryUse
}

// memoryUse is memory of a device in bytes.
type memoryUse struct {
	Planned int64 `json:"planned"` // for the step
	Used    int64 `json:"used"`    // in all, as the driver says
	Context int64 `json:"context"` // in use before: the context with the program's code, and what others hold
	Library int64 `json:"library"` // the rest: what driver and libraries took for the step
}

// benchTrain is bench train.
func (c *call) benchTrain() error { return c.profileTraining(false) }

// profileTraining tells of every kernel of a step, and on the CPU, where it is to, of the machine.
func (c *call) profileTraining(tellMachine bool) error {
	steps := c.flags.Int("steps", benchSteps, "optimizer steps to time")
	trace := c.flags.String("trace", "", "`file` to write the profiled step to, for ui.perfetto.dev")
	peers := c.peersFlag()
	if err := c.parse(); err != nil {
		return err
	}
	if *steps < 1 {
		return inputError("--steps is %d; it must be at least 1", *steps)
	}
	if tellMachine {
		if *c.device != "auto" && *c.device != "cpu" {
			return inputError("bench cpu works on the CPU; the device is %q", *c.device)
		}
		*c.device = "cpu"
	}
	return c.profiled(*trace, peers, decodeShape{}, func(m *Model, r *report) (err error) {
		r.benchmark, err = m.timeTraining(c.ctx, *steps, func(t Trainer, tokens, targets []int32) (err error) {
			params := StepParams{LR: benchLR, Step: *steps + 2, Seed: 1}
			switch t := t.(type) {
			case ProfiledTrainer:
				r.Profile, err = t.ProfileStep(tokens, targets, params, *steps)
			case pooled:
				var found machine
				found, r.Roofline = measureCPU(t.Pool())
				if tellMachine {
					r.Machine = &found
				}
				r.Profile, err = m.profileOnPool(t.(Trainer), t.Pool(), tokens, targets, params, *steps)
			}
			return r.used(m, err)
		})
		return err
	})
}

// benchDecode is bench decode.
func (c *call) benchDecode() error {
	steps := c.flags.Int("steps", c.decodeSteps(), "decode steps to time")
	shape := c.decodeFlags()
	peers := c.peersFlag()
	if err := c.parse(); err != nil {
		return err
	}
	if *steps < 1 {
		return inputError("--steps is %d; it must be at least 1", *steps)
	}
	if err := shape.check(*steps, c.cfg.Context); err != nil {
		return err
	}
	return c.profiled("", peers, *shape, func(m *Model, r *report) (err error) {
		r.benchmark, err = m.timeDecoding(c.ctx, *steps, *shape, func(g Generator, tokens, positions, slots []int32) (err error) {
			if p, ok := g.(ProfiledGenerator); ok {
				r.Profile, err = p.ProfileDecode(tokens, positions, slots, *steps)
			}
			if m.device == nil && err == nil && r.Profile != nil {
				r.Roofline = readRoofline(r.Profile)
			}
			return r.used(m, err)
		})
		return err
	})
}

// profiled measures the device, then what measure does with a fresh model on it, prints the report, and goes on to the peers.
func (c *call) profiled(trace string, peers *peers, shape decodeShape, measure func(m *Model, r *report) error) error {
	if trace != "" {
		if err := checkTrace(trace); err != nil {
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
	var r report
	if d, ok := m.device.(Measured); ok {
		if r.Memory.Context, err = d.MemoryUsed(); err != nil {
			return err
		}
		if r.Roofline, err = d.Roofline(); err != nil {
			return fmt.Errorf("measuring %s: %w", m.device, err)
		}
	}
	if err := measure(m, &r); err != nil {
		return err
	}
	if trace != "" {
		if r.Profile == nil {
			return inputError("--trace: %s does not time the launches of a step", m.deviceName())
		}
		if err := r.writeTrace(trace); err != nil {
			return err
		}
	}
	if r.Machine != nil {
		if err := c.sayMachine(*r.Machine); err != nil {
			return err
		}
	}
	if err := c.say(r.benchmark, nil); err != nil {
		return err
	}
	if r.Profile != nil {
		show := func() error { return r.print(c.stdout) }
		if *c.json {
			show = func() error { return r.printJSON(c) }
		}
		if err := show(); err != nil {
			return err
		}
	}
	peers.later(r.benchmark, shape)
	return peers.run(m)
}

// used notes the memory that is in use now that the step is profiled.
func (r *report) used(m *Model, err error) error {
	if err != nil || r.Profile == nil {
		return err
	}
	r.Memory.Planned = r.Profile.Planned
	if d, ok := m.device.(Measured); ok {
		if r.Memory.Used, err = d.MemoryUsed(); err != nil {
			return err
		}
		r.Memory.Library = r.Memory.Used - r.Memory.Context - r.Memory.Planned
	}
	return nil
}
