// Package footprint says what a program holds in the memory of a GPU. Package gpu allocates what it lists, and the compiler's
// budgets and explanations count the same list.
package footprint

// Align is where buffers start, in bytes: more than any access needs.
const Align = 256

// Workspace is the bytes that cuBLASLt is given beside its operands: what NVIDIA advises for Hopper.
const Workspace = 32 << 20

// PickOptions is the bytes of what picks the next token of a row is told (SampleOptions in sample.cuh).
const PickOptions = 40

// State is the bytes of the device's state: seed, step, learning rate, loss scale (State in state.cuh).
const State = 80

// Step is the bytes of these that each optimizer step is told: seed, step and learning rate.
const Step = 16

// HistoryBytes is the bytes of a history: the largest magnitude of the step before, and that of the step.
const HistoryBytes = 8

// Program is what the footprint depends on.
type Program struct {
	WeightFloats int // of the weight buffer, and so of gradients and either moment
	Element      int // bytes of an activation, a key, and a weight as products read it
	MicroBatches int
	MicroBatch   int // sequences of one
	Context      int // tokens of a sequence of training
	MaxPositions int
	MaxDecode    int   // rows of a decode step
	CacheWidths  []int // elements of a key, all heads together, by layer
	RotaryTables []int // floats of each
	Histories    int   // of largest magnitudes, two floats each
	Train, Eval  Job
	Prefill      Job
	Decode       Job
	Logits       Job
	Pick         Job
}

// Job is what a function of the program works in.
type Job struct {
	Arena   int // bytes of what it computes on the way
	Scratch int // bytes of its kernels' workspace
	Scalars int // float32s
}

// Buffer is a stretch of device memory.
type Buffer struct {
	Name  string
	Bytes int
}

// The names of buffers.
const (
	Weights        = "weights"
	Copies         = "weights in 16 bits"
	Gradients      = "gradients"
	First          = "first moments"
	Second         = "second moments"
	Cache          = "key-value cache"
	StateBuffer    = "state"
	Scalars        = "scalars"
	Tokens         = "tokens"
	Targets        = "targets"
	Crossing       = "batches on their way" // two
	Positions      = "positions"
	History        = "largest magnitudes"
	Slots          = "slots"
	Options        = "options of picking"
	Tables         = "rotary tables"
	BLASWorkspace  = "cuBLASLt's workspace"
	Arena          = "arena"
	Scratch        = "kernels' workspace"
	SequenceArena  = "arena of whole sequences"
	SequenceKernel = "kernels' workspace of whole sequences"
)

// Training lists what a trainer holds, in the order of its one allocation.
func Training(p Program) []Buffer {
	tokens := 4 * p.MicroBatches * p.MicroBatch * p.Context
	list := p.weights()
	list = append(list,
		Buffer{Gradients, 4 * p.WeightFloats},
		Buffer{First, 4 * p.WeightFloats},
		Buffer{Second, 4 * p.WeightFloats},
		Buffer{Tokens, tokens}, // from here to the state's first bytes: what a step is told
		Buffer{Targets, tokens},
		Buffer{StateBuffer, State}, // with the scalars: what it comes to
		Buffer{Scalars, 4 * max(p.Train.Scalars, p.Eval.Scalars)},
		Buffer{Crossing, 2 * Round(2*Round(tokens)+Step)},
		Buffer{Positions, 4 * p.MicroBatch * p.Context},
	)
	if p.Histories > 0 {
		list = append(list, Buffer{History, HistoryBytes * p.Histories})
	}
	return append(list, p.work(p.Train, p.Eval)...)
}

// Generation lists what a generator over so many slots holds, in the order of its one allocation.
func Generation(p Program, slots int) []Buffer {
	cache := 0
	for _, n := range CacheBytes(p, slots) {
		cache += 2 * Round(n)
	}
	list := p.weights()
	list = append(list,
		Buffer{Cache, cache},
		Buffer{StateBuffer, State},
		Buffer{Scalars, 4 * max(p.Prefill.Scalars, p.Decode.Scalars, p.Logits.Scalars)},
		Buffer{Tokens, 4 * p.InputRows()},
		Buffer{Positions, 4 * p.InputRows()},
		Buffer{Slots, 4 * p.InputRows()},
		Buffer{Options, PickOptions * p.MaxDecode},
	)
	return append(list, p.work(p.Prefill, p.Decode, p.Pick)...)
}

// InputRows is the most rows that a call of generation has.
func (p Program) InputRows() int { return max(p.MaxPositions, p.MaxDecode) }

// CacheBytes is the size of the keys of each layer, and of the values.
func CacheBytes(p Program, slots int) []int {
	var sizes []int
	for _, w := range p.CacheWidths {
		sizes = append(sizes, p.Element*slots*p.MaxPositions*w)
	}
	return sizes
}

// Sequences lists what a generator holds besides, once it has given the logits of a whole sequence.
func Sequences(p Program) []Buffer {
	return []Buffer{{SequenceArena, p.Logits.Arena}, {SequenceKernel, p.Logits.Scratch}}
}

func (p Program) weights() []Buffer {
	list := []Buffer{{Weights, 4 * p.WeightFloats}}
	if p.Element < 4 {
		list = append(list, Buffer{Copies, p.Element * p.WeightFloats})
	}
	return list
}

// work lists what some functions work in: their workspace is one, for they run one after another, and so is the arena, of
// which what picks tokens needs none.
func (p Program) work(jobs ...Job) []Buffer {
	arena, scratch, tables := 0, 0, 0
	for _, j := range jobs {
		arena, scratch = max(arena, j.Arena), max(scratch, j.Scratch)
	}
	for _, n := range p.RotaryTables {
		tables += Round(4 * n)
	}
	return []Buffer{{Tables, tables}, {BLASWorkspace, Workspace}, {Arena, arena}, {Scratch, scratch}}
}

// Round is where the buffer behind one of so many bytes starts.
func Round(bytes int) int { return (bytes + Align - 1) / Align * Align }

// Bytes is the size of an allocation that holds the list.
func Bytes(list []Buffer) int {
	n := 0
	for _, b := range list {
		n += Round(b.Bytes)
	}
	return n
}
