// Package gpu runs the CUDA code of generated packages: it keeps their memory on a device and makes of their launches a
// trainer and a generator for package lm. A whole optimizer step, and a whole decode step, are CUDA graphs.
package gpu

import (
	"io/fs"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// Ptr is a device address, or a number that a kernel takes by value.
type Ptr = cuda.Ptr

// DType is the type of an element on the device.
type DType = cuda.DType

// The types.
const (
	F32  = cuda.F32
	BF16 = cuda.BF16
	F16  = cuda.F16
)

// Int is an integer argument of a kernel.
func Int(n int) Ptr { return Ptr(uint32(int32(n))) }

// Grid is the number of blocks of a launch, by axis.
type Grid [3]int

// Kernel is an entry of the program's CUDA code.
type Kernel struct {
	Entry   string
	Threads int    // of a block
	Shared  int    // bytes of dynamic shared memory
	About   string // the op and its place in the spec
}

// Product is a matrix product of the program. Of those with Dynamic set, M is the rows of the call.
type Product = cuda.Product

// What products may do to their results.
const (
	EpilogueBias        = cuda.EpilogueBias
	EpilogueGELUBias    = cuda.EpilogueGELUBias
	EpilogueGELUAuxBias = cuda.EpilogueGELUAuxBias
)

// ComputeTF32 lets products of float32 round their operands to 10 bits.
const ComputeTF32 = cuda.ComputeTF32

// RotaryTable is the cosines, or the sines, of rotary positions: [Max, len(Freqs)] floats.
type RotaryTable struct {
	Freqs []float32
	Scale float32
	Max   int
	Sine  bool
}

// Job is one function of the program.
type Job struct {
	Arena   int            // bytes of what it computes on the way
	Scratch int            // bytes of workspace of its kernels
	Scalars int            // float32s
	Results []int          // the scalars that it returns
	Enqueue func(*Run) Ptr // puts its launches on r's stream; returns the address of its result, if that is no scalar
}

// Program is the CUDA code of a model, a literal of its package.
type Program struct {
	Files   fs.FS // the folder kernels, below it
	Element DType // of activations, caches and the products' copies of the weights

	WeightFloats                                   int
	MicroBatches, MicroBatch, Context              int
	VocabSize, MaxPositions, MaxPrefill, MaxDecode int
	CacheWidths                                    []int // elements of a key, all heads together, by layer
	Kernels                                        []Kernel
	Products                                       []Product
	Tables                                         []RotaryTable
	Train, Eval, Logits, Prefill, Decode           Job
	Pick                                           Job // picks tokens from the logits of Prefill and Decode; zero where the host does
}

// Run is one execution of a job: the addresses it works on, and the stream it is put on.
type Run struct {
	Arena, Scratch                            Ptr
	Weights, Copies, Gradients, First, Second Ptr   // as the weight table says: f32, and the copies in the program's element type
	State                                     Ptr   // state.cuh
	Tokens, Targets, Positions, Slots         Ptr   // int32s
	Logits, Options                           Ptr   // of Pick, for each row: VocabSize elements, and SampleOptions (sample.cuh)
	Keys, Values                              []Ptr // the caches, by layer: [slots, MaxPositions, width]
	Tables                                    []Ptr
	Rows                                      int // of this call, where they are known only now

	scalars Ptr
	stream  *cuda.Stream
	code    *code
	dry     bool // only prepare products
}

// Launch starts kernel k.
func (r *Run) Launch(k int, g Grid, args ...Ptr) {
	if !r.dry {
		r.stream.Launch(r.code.kernels[k], g[0], g[1], g[2], args...)
	}
}

// Multiply runs product p: its operands are D, A, B, C, the bias, and the value before the activation.
func (r *Run) Multiply(p int, d, a, b, c, bias, pre Ptr) {
	prepared, err := r.code.product(p, r.Rows)
	switch {
	case err != nil:
		r.stream.Fail(err)
	case !r.dry:
		r.stream.Multiply(prepared, d, a, b, c, bias, pre, 1)
	}
}

// Clear sets bytes to zero.
func (r *Run) Clear(p Ptr, bytes int) {
	if !r.dry {
		r.stream.Zero(p, bytes)
	}
}

// Copy copies bytes on the device.
func (r *Run) Copy(dst, src Ptr, bytes int) {
	if !r.dry {
		r.stream.Copy(dst, src, bytes)
	}
}

// Scalar is the address of scalar i.
func (r *Run) Scalar(i int) Ptr { return r.scalars.At(4 * i) }

// Blocks is how many blocks of so many rows the rows of the call fill.
func (r *Run) Blocks(per int) int { return (r.Rows + per - 1) / per }

// capture makes a graph of a job. Products are prepared first: they may be timed, which a capture cannot hold.
func (r *Run) capture(j *Job, before, after func(result Ptr)) (*cuda.Graph, error) {
	r.dry = true
	j.Enqueue(r)
	r.dry = false
	if err := r.stream.Err(); err != nil {
		return nil, err
	}
	return r.stream.Capture(func() {
		before(0)
		after(j.Enqueue(r))
	})
}
