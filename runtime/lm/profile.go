package lm

import "time"

// Launch is one piece of work of a step: a kernel, a matrix product, a copy or a clearing.
type Launch struct {
	Kernel string        // its entry or, of a product, its sizes
	About  string        // the op and its place in the spec; empty for work of no op
	Stream int           // that it runs on, counted from 0
	Grid   [3]int        // blocks; zeros for what has none
	Bytes  float64       // that it must move at least
	FLOPs  float64       // a multiply-add counts as two
	FP8    bool          // a product of operands in 8 bits
	Begin  time.Duration // since the first launch of the step
	Time   time.Duration
}

// Profile is where the time of a step goes. Times are medians over several steps.
type Profile struct {
	Launches []Launch
	Step     time.Duration // of the step as it runs when nothing times its launches, on the device
	Event    time.Duration // that timing a launch took; it is in no Time, and lies between launches in Begin
	FLOPs    float64       // that the model needs for the step, what a program computes twice counted once
	Planned  int64         // bytes of the device's memory that the program holds
}

// Roofline is what a device was measured to reach (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009).
type Roofline struct {
	Bandwidth float64 // bytes a second, those read and those written, of a large copy; or those read
	Copied    int     // bytes of that copy
	FLOPS     float64 // floating-point operations a second of a large matrix product; 0: not measured
	Product   string  // its type: bf16, f16, f32 or tf32
	Side      int     // rows and columns of its matrices
	FP8       float64 // operations a second of a large product of operands in 8 bits; 0 where the program has none
	Read      int     // bytes that were read over and over for Bandwidth, where nothing was copied
}

// Floor is the time that a launch takes at least where the roofline holds, 0 where nothing was measured. A launch may take
// less: what it reads may still lie in a cache.
func (r Roofline) Floor(l Launch) time.Duration {
	rate := r.FLOPS
	if l.FP8 {
		rate = r.FP8
	}
	return time.Duration(1e9 * max(ratio(l.Bytes, r.Bandwidth), ratio(l.FLOPs, rate)))
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
