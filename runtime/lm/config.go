package lm

import (
	"math"

	"github.com/tfc-dev/tfc/runtime/weights"
)

// Config is one compiled model: what generated code knows about it, as a literal. It does not change.
type Config struct {
	Name     string    // of the package and the command
	SpecHash string    // of Settings
	Settings []Setting // what decides the numbers of training; not its length, nor when it logs, evaluates and saves

	VocabSize int // rows of the logits
	Context   int // positions, the longest sequence in tokens
	LossFrom  int // first position of a sequence whose target is learned; above 0 where tokens see what comes after them

	Weights      []weights.Info
	WeightFloats int    // size of the weight buffer
	HFConfig     string // text of config.json

	Tokenizer Tokenizer
	Data      Data
	Train     Train
	Generate  Generate
	Memory    Memory

	// NewTrainer and NewGenerator run the compiled code over a weight buffer laid out as Weights says, which they share.
	// 0 workers means one a processor.
	NewTrainer   func(weights []float32, workers int) Trainer
	NewGenerator func(weights []float32, slots, workers int) Generator
	CUDA         Backend // the same on GPUs; nil where the package has no code for them
}

// Setting is one value of the spec.
type Setting struct {
	Path  string `json:"path"` // as train.optimizer.lr
	Value string `json:"value"`
}

// Tokenizer says where the tokenizer of a fresh model comes from.
type Tokenizer struct {
	File string // a tokenizer.json, below the root; when empty, a byte-level BPE of VocabSize tokens is trained on the data
}

// Data is the text to learn from.
type Data struct {
	Files     []string // patterns, below the root; when empty, Stories
	Stories   Stories
	EvalShare float64  // of the training documents, held out for evaluation
	EvalFiles []string // patterns of the text for evaluation, instead of a share
}

// Stories is the built-in corpus: so many short stories drawn from a grammar.
type Stories struct {
	Count int
	Seed  uint64
}

// Train says how to learn. What is the optimizer's alone is compiled into the program.
type Train struct {
	Steps      int     // optimizer steps; 0 where Epochs are given
	Epochs     float64 // passes over the text
	Batch      int     // sequences a step, a multiple of MicroBatch
	MicroBatch int     // sequences at once
	Context    int     // tokens a sequence
	LR         float64 // peak of the learning rate
	Schedule   []Phase
	Save       Save
	Eval       Eval
	LogEvery   int    // steps between log lines
	Seed       uint64 // of weights, data order and dropout
}

// Save says when a run is saved.
type Save struct {
	Every int  // steps
	Keep  int  // newest saves to keep
	Best  bool // keep the save of the lowest evaluation loss too, and evaluate at each save
}

// Eval says when a run is evaluated.
type Eval struct {
	Every   int // steps
	Batches int // micro-batches, at most
}

// Generate is the spec's settings of generation.
type Generate struct {
	Options GenerateOptions // defaults
	Batch   int             // sequences written at once
	Prompts []string        // what to continue when no prompt is given
	Weights string          // that NewGenerator reads where they are not those of training: bf16, int8 or int4
}

// Memory is what the compiler planned, in bytes.
type Memory struct {
	Train    int64 // everything that training holds: weights, gradients, moments, activations
	Generate int64 // weights, cache and activations of Generate.Batch sequences
}

// GenerateOptions says how to continue a text. The zero value takes the likeliest token each time, up to the end of the
// text or of the model's context; (*Model).Defaults are those of the spec.
type GenerateOptions struct {
	MaxNewTokens int     // 0: as many as the context holds
	Temperature  float64 // divides the logits; 0: always the likeliest token, of lower id among equals
	TopK         int     // only the so many likeliest tokens; 0: all
	TopP         float64 // only the fewest likeliest tokens that hold this probability; 0 or 1: all
	Seed         uint64  // of the draws
	Sequence     int     // number of the sequence, the first of a batch: sequences of one seed draw independently
}

func (o GenerateOptions) check() error {
	switch {
	case o.MaxNewTokens < 0:
		return inputError("the number of new tokens is %d; it must not be negative (0: as many as the context holds)", o.MaxNewTokens)
	case !(o.Temperature >= 0) || o.Temperature > math.MaxFloat64:
		return inputError("the temperature is %v; it must be a number from 0 (always the likeliest token)", o.Temperature)
	case o.TopK < 0:
		return inputError("top-k is %d; it must not be negative (0: no limit)", o.TopK)
	case !(o.TopP >= 0 && o.TopP <= 1):
		return inputError("top-p is %v; it must lie between 0 and 1 (either: no limit)", o.TopP)
	case o.Sequence < 0 || o.Sequence > math.MaxInt32:
		return inputError("the number of the sequence is %d; it must lie between 0 and %d", o.Sequence, math.MaxInt32)
	}
	return nil
}
