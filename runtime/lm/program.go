// Package lm is the language model that generated packages wrap: it trains, evaluates, generates, saves and resumes,
// whatever the model, over the straight-line code that the compiler wrote for it.
package lm

// StepParams are what changes from one optimizer step to the next.
type StepParams struct {
	LR   float32
	Step int    // counts from 1
	Seed uint64 // of dropout
}

// Trainer is the compiled training code of one model on one device. A Trainer is used by one goroutine at a time.
type Trainer interface {
	// Step learns from one batch: tokens and targets are [micro-batches, sequences, context], a target of -100 is not
	// learned. It returns the mean loss over the targets learned and the norm of the gradient before clipping. Where
	// either is not finite, weights and moments stay as they were. A step in f16 whose gradients overflow is left out, as
	// loss scaling means it to be: its norm is 0, and the next steps scale less.
	Step(tokens, targets []int32, p StepParams) (loss, gradNorm float32, err error)
	// Loss returns the summed loss of one micro-batch, [sequences, context], and the number of targets it counts.
	Loss(tokens, targets []int32) (sum float64, targetCount int, err error)
	// Weights, Gradients and Moments are the buffers, laid out as the weight table says. On the CPU they are live; those of
	// another device are copies, which Pull brings up to date and Push hands over.
	Weights() []float32
	Gradients() []float32
	Moments() (first, second []float32)
	Pull() error
	Push() error
	Close()
}

// Pipelined is a Trainer that takes a step while the host prepares the next one. At most two steps are under way at once:
// started and not finished. While one is, only these methods, Pull and Close may be called.
type Pipelined interface {
	// Start puts a step behind the one that is under way, and returns without waiting for either. The slices may change
	// once it has returned. A step that follows one whose loss or norm is not finite changes nothing.
	Start(tokens, targets []int32, p StepParams) error
	// Finish waits for the oldest step under way, and returns what Step does.
	Finish() (loss, gradNorm float32, err error)
}

// Sized is a Trainer whose memory is not that of Config.
type Sized interface {
	// Bytes is all that it holds on its device.
	Bytes() int64
}

// Scaled is a Trainer that scales its loss dynamically, so that gradients in f16 do not vanish (Micikevicius et al., arXiv
// 1710.03740). Where the scale stands is part of what a run saves.
type Scaled interface {
	// LossScale returns where the scale stands, nil where the program has none.
	LossScale() (*LossScale, error)
	SetLossScale(LossScale) error
}

// Quantized is a Trainer that scales what it quantises to 8 bits by the largest magnitudes of the step before.
type Quantized interface {
	// Amax returns the largest magnitudes of the newest step, as bits of float32s; nil where the program keeps none.
	Amax() ([]uint32, error)
	// SetAmax sets them. Those of another program, which has another number of them, are left out: scales then start anew.
	SetAmax([]uint32) error
}

// LossScale is the state of dynamic loss scaling.
type LossScale struct {
	Scale      float32 `json:"scale"`
	GoodSteps  uint32  `json:"good_steps"` // updates since the scale last changed
	Hysteresis uint32  `json:"hysteresis"` // overflows that are forgiven before it is lowered
	Skipped    uint32  `json:"skipped"`    // steps left out, over the whole run
}

// Generator is the compiled generation code of one model on one device. Its key-value cache has slots, one a sequence.
type Generator interface {
	// Prefill appends tokens at positions start, start+1, … of a slot and returns the logits [vocabulary] after the last.
	// At most the program's chunk of tokens (MaxPrefill) at once. The result is valid until the next call.
	Prefill(tokens []int32, start, slot int) ([]float32, error)
	// Decode appends one token to each of some slots and returns their logits [len(tokens), vocabulary].
	Decode(tokens, positions, slots []int32) ([]float32, error)
	// Logits returns the logits [len(tokens), vocabulary] of one sequence; it uses slot 0.
	Logits(tokens []int32) ([]float32, error)
	MaxPrefill() int
	Slots() int
	Close()
}
