package lm

import "time"

// Launch is one piece of work of a step: a kernel, a matrix product, a copy or a clearing.
type Launch struct {
	Kernel string // the entry, or the sizes of a product
	About  string // the op and its place in the spec; "" for what belongs to none
	Stream int    // counted from 0
	Grid   [3]int // blocks; zeros for what has none
	Bytes  float64
	FLOPs  float64
	Time   time.Duration // the median of some steps
}

// Profile is where the time of a step goes.
type Profile struct {
	Launches []Launch
	Step     time.Duration // on the device, of a step without the events that time the launches; the median
	Event    time.Duration // what an event takes; it is not in the launches' times
	FLOPs    float64       // of the model for the step's tokens, nothing counted twice that a program computes twice
	Planned  int64         // bytes of memory on the device, as planned
}

// Roofline is what a device was measured to reach (Williams, Waterman, Patterson, "Roofline", 2009).
type Roofline struct {
	Bandwidth float64 // bytes a second, read and written, of a large copy
	FLOPS     float64 // a second, of a large product
	Product   string  // its type: bf16, f16, f32 or tf32
	Side      int     // rows and columns of its matrices
	Copied    int     // bytes of the copy
}

// Floor is the time that a launch takes at least.
func (r Roofline) Floor(l Launch) time.Duration {
	return time.Duration(1e9 * max(l.Bytes/r.Bandwidth, l.FLOPs/r.FLOPS))
}

// Measured is a Device whose peaks can be measured.
type Measured interface {
	Roofline() (Roofline, error)
	// MemoryUsed returns the bytes of the device's memory that are in use, by whatever.
	MemoryUsed() (int64, error)
}

// ProfiledTrainer is a Trainer that can tell where the time of a step goes.
type ProfiledTrainer interface {
	// ProfileStep takes the same step so many times, as Step does. The weights change with it.
	ProfileStep(tokens, targets []int32, p StepParams, times int) (*Profile, error)
}

// ProfiledGenerator is a Generator that can tell where the time of a decode step goes.
type ProfiledGenerator interface {
	// ProfileDecode takes the same step so many times, as Decode does.
	ProfileDecode(tokens, positions, slots []int32, times int) (*Profile, error)
}
