package lm

import "time"

// Launch is one piece of work of a step: a kernel, a matrix product, a copy or a clearing.
type Launch struct {
	Kernel string        // its entry or, of a product, its sizes
	About  string        // the op and its place in the spec; empty for work of no op
	Stream int           // that it runs on, counted from 0; of Profile.Workers the worker
	Grid   [3]int        // blocks; zeros for what has none
	Bytes  float64       // that it must move at least
	FLOPs  float64       // a multiply-add counts as two
	Type   string        // of the factors of its products, where it tells: bf16, f32, fp8 and others
	Begin  time.Duration // since the first launch of the step
	Time   time.Duration
}

// Profile is where the time of a step goes. Times are medians over several steps.
type Profile struct {
	Launches []Launch
	Workers  []Launch      // of one step on the CPU: what each worker did of each kernel, Grid its parts; nil on other devices
	Step     time.Duration // of the step as it runs when nothing times its launches, on the device
	Event    time.Duration // that timing a launch took; it is in no Time, and lies between launches in Begin; 0 where it is little
	FLOPs    float64       // that the model needs for the step, what a program computes twice counted once
	Planned  int64         // bytes of the device's memory that the program holds
}

// Roofline is what a device was measured to reach (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009).
type Roofline struct {
	Bandwidth float64 // bytes a second, those read and those written, of a large copy; on the CPU of reading alone
	Copied    int     // bytes of that copy; 0 on the CPU
	Read      int     // bytes that were read over and over for Bandwidth, where it is for a step that reads as many
	FLOPS     float64 // floating-point operations a second of a large matrix product; on the CPU of multiply-adds on registers; 0: not measured
	Product   string  // its type: bf16, f16, f32 or tf32
	Side      int     // rows and columns of its matrices; 0 on the CPU

	Rates  map[string]float64 // FLOPS by type, for launches that tell theirs
	Caches []Cache            // the smallest first
}

// Cache is how fast a block that is small enough for a cache is read again and again.
type Cache struct{ Bytes, Bandwidth float64 }

// Floor is the time that a launch takes at least where the roofline holds, 0 where nothing was measured. Where caches were
// measured, what would fit one counts as if it lay there; otherwise a launch may take less, for that reason.
func (r Roofline) Floor(l Launch) time.Duration {
	flops, bandwidth := r.FLOPS, r.Bandwidth
	if rate, ok := r.Rates[l.Type]; ok {
		flops = rate
	}
	for _, c := range r.Caches {
		if l.Bytes <= c.Bytes {
			bandwidth = c.Bandwidth
			break
		}
	}
	return time.Duration(1e9 * max(ratio(l.Bytes, bandwidth), ratio(l.FLOPs, flops)))
}

// Measured is a Device whose roofline can be measured, before anything else is made on it.
type Measured interface {
	Roofline() (Roofline, error)
	// MemoryUsed returns the bytes of the device's memory that are in use, by this process and others.
	MemoryUsed() (int64, error)
}

// ProfiledTrainer is a Trainer that can tell where the time of a step goes.
type ProfiledTrainer interface {
	// ProfileStep takes a step, as Step does, several times more than the given number.
	ProfileStep(tokens, targets []int32, p StepParams, times int) (*Profile, error)
}

// ProfiledGenerator is a Generator that can tell where the time of a decode step goes.
type ProfiledGenerator interface {
	// ProfileDecode takes a step, as Decode does, several times more than the given number.
	ProfileDecode(tokens, positions, slots []int32, times int) (*Profile, error)
}
