// Package gpu runs the CUDA code of generated packages: it keeps their memory on a device and makes of their launches a
// trainer and a generator for package lm. A whole optimizer step, and a whole decode step, are CUDA graphs.
package gpu

import (
	"io/fs"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/mask"
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
	E4M3 = cuda.E4M3
	E5M2 = cuda.E5M2
)

// Int is an integer argument of a kernel.
func Int(n int) Ptr { return Ptr(uint32(int32(n))) }

// Grid is the number of blocks of a launch, by axis.
type Grid [3]int

// Kernel is an entry of the program's CUDA code, and what a launch of it does at least: Bytes, each operand read or written
// once, and FLOPs, more for each row of the call, and more for each key of the cache that Keys lets a row see: KeyBytes once
// for all rows of a slot, KeyFLOPs for each row.
type Kernel struct {
	Entry                     string
	Threads                   int    // of a block
	Shared                    int    // bytes of dynamic shared memory
	Arch                      string // the one architecture that it is written for, as sm_90a; "" where it runs on all
	Bytes, RowBytes, KeyBytes int
	FLOPs, RowFLOPs, KeyFLOPs int
	Keys                      mask.Mask
	About                     string // the op and its place in the spec
}

// Product is a matrix product of the program. Of those with Dynamic set, M is the rows of the call.
type Product = cuda.Product

// Quantized is what a product has beside its operands that quantises.
type Quantized = cuda.Quantized

// Rival is a kernel of the program that makes a product as cuBLASLt does, by their numbers, with Rows × Cols of D in a tile. Which of
// them makes it is measured.
type Rival struct{ Product, Kernel, Rows, Cols int }

// What products may do to their results.
const (
	EpilogueBias        = cuda.EpilogueBias
	EpilogueGELUBias    = cuda.EpilogueGELUBias
	EpilogueGELUAuxBias = cuda.EpilogueGELUAuxBias
	EpilogueDGELU       = cuda.EpilogueDGELU
)

// What only kernels of the program make.
const (
	OwnAct   = cuda.OwnAct
	OwnSlope = cuda.OwnSlope
	OwnTimes = cuda.OwnTimes
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
	Histories                                      int   // of the largest magnitudes of what is quantised to 8 bits
	Kernels                                        []Kernel
	Waits                                          bool // the kernels wait by themselves for what is before them (grid_wait in device.cuh)
	Products                                       []Product
	Rivals                                         []Rival
	Tables                                         []RotaryTable
	Train, Eval, Logits, Prefill, Decode           Job
	Pick                                           Job // picks tokens from the logits of Prefill and Decode; zero where the host does
}

// footprint is what the program's memory depends on.
func (p *Program) footprint() footprint.Program {
	job := func(j Job) footprint.Job {
		return footprint.Job{Arena: j.Arena, Scratch: j.Scratch, Scalars: j.Scalars}
	}
	f := footprint.Program{
		WeightFloats: p.WeightFloats, Element: p.Element.Size(), MicroBatches: p.MicroBatches, MicroBatch: p.MicroBatch, Context: p.Context,
		MaxPositions: p.MaxPositions, MaxDecode: p.MaxDecode, CacheWidths: p.CacheWidths,
		Train: job(p.Train), Eval: job(p.Eval), Prefill: job(p.Prefill), Decode: job(p.Decode), Logits: job(p.Logits), Pick: job(p.Pick),
		Histories: p.Histories,
	}
	for _, t := range p.Tables {
		f.RotaryTables = append(f.RotaryTables, t.Max*len(t.Freqs))
	}
	return f
}

// Run is one execution of a job: the addresses it works on, and the stream it is put on.
type Run struct {
	Arena, Scratch                            Ptr
	Weights, Copies, Gradients, First, Second Ptr   // as the weight table says: f32, and the copies in the program's element type
	State                                     Ptr   // state.cuh
	History                                   Ptr   // for each history two float32s: the largest magnitude of the newest step before that has one, and of the step
	Tokens, Targets, Positions, Slots         Ptr   // int32s
	Logits, Options                           Ptr   // of Pick, for each row: VocabSize elements, and SampleOptions (sample.cuh)
	Keys, Values                              []Ptr // the caches, by layer: [slots, MaxPositions, width]
	Tables                                    []Ptr
	Rows                                      int // of this call, where they are known only now

	scalars  Ptr
	measures bool // the step is one of the first
	stream   *cuda.Stream
	code     *code
	dry      bool    // only prepare products
	ledger   *ledger // lists the launches; nil: nobody asks
}

// On says whether the device is of an architecture, as sm_90a.
func (r *Run) On(arch string) bool { return r.code.arch == arch }

// Measures says whether the step finds the largest magnitudes of what has none of a step before: one of the first does.
func (r *Run) Measures() bool { return r.measures }

// Found is p in a step that Measures, and 0 in others.
func (r *Run) Found(p Ptr) Ptr {
	if r.measures {
		return p
	}
	return 0
}

// lay has the run work on buffers by their names: those that training and generation both have.
func (r *Run) lay(at map[string]Ptr) {
	r.Weights, r.Copies = at[footprint.Weights], at[footprint.Copies]
	if r.Copies == 0 { // products read the weights themselves
		r.Copies = r.Weights
	}
	r.State, r.scalars = at[footprint.StateBuffer], at[footprint.Scalars]
	r.Tokens, r.Positions = at[footprint.Tokens], at[footprint.Positions]
	r.Arena, r.Scratch = at[footprint.Arena], at[footprint.Scratch]
}

// Launch starts kernel k.
func (r *Run) Launch(k int, g Grid, args ...Ptr) {
	if !r.dry {
		r.stream.Launch(r.code.kernels[k], g[0], g[1], g[2], args...)
	}
	r.ledger.kernel(r, k, g)
}

// Multiply runs product p: its operands are D, A, B, C, the bias, and the value before the activation or its derivative there.
func (r *Run) Multiply(p int, d, a, b, c, bias, other Ptr) {
	r.MultiplySums(p, d, a, b, c, bias, other, 0)
}

// MultiplySums is Multiply of a product with Sums set, which go to the last operand.
func (r *Run) MultiplySums(p int, d, a, b, c, bias, other, sums Ptr) {
	prepared, err := r.code.product(p, r.Rows)
	switch {
	case err != nil:
		r.stream.Fail(err)
	case !r.dry:
		r.stream.MultiplySums(prepared, d, a, b, c, bias, other, sums)
	}
	r.ledger.product(r, r.code.program.Products[p])
}

// MultiplyScaled runs product p of operands in 8 bits: D, A, B, C, the bias, and the factors of the elements of A and B.
func (r *Run) MultiplyScaled(p int, d, a, b, c, bias, scaleA, scaleB Ptr) {
	prepared, err := r.code.product(p, r.Rows)
	switch {
	case err != nil:
		r.stream.Fail(err)
	case !r.dry:
		r.stream.MultiplyScaled(prepared, d, a, b, c, bias, scaleA, scaleB)
	}
	r.ledger.product(r, r.code.program.Products[p])
}

// MultiplyQuantized runs product p, which quantises: D, A, B, the bias, what is kept for or by another product, the factors of the elements of A and B,
// the sums, and what there is beside.
func (r *Run) MultiplyQuantized(p int, d, a, b, bias, kept, scaleA, scaleB, sums Ptr, q Quantized) {
	prepared, err := r.code.product(p, r.Rows)
	switch {
	case err != nil:
		r.stream.Fail(err)
	case !r.dry:
		r.stream.MultiplyQuantized(prepared, d, a, b, bias, kept, scaleA, scaleB, sums, q)
	}
	r.ledger.product(r, r.code.program.Products[p])
}

// Clear sets bytes to zero.
func (r *Run) Clear(p Ptr, bytes int) {
	if !r.dry {
		r.stream.Zero(p, bytes)
	}
	r.ledger.add(r, lm.Launch{Kernel: "clear", Bytes: float64(bytes)})
}

// Copy copies bytes on the device.
func (r *Run) Copy(dst, src Ptr, bytes int) {
	if !r.dry {
		r.stream.Copy(dst, src, bytes)
	}
	r.ledger.add(r, lm.Launch{Kernel: "copy", Bytes: 2 * float64(bytes)})
}

// Scalar is the address of scalar i.
func (r *Run) Scalar(i int) Ptr { return r.scalars.At(4 * i) }

// Blocks is how many blocks of so many rows the rows of the call fill.
func (r *Run) Blocks(per int) int { return (r.Rows + per - 1) / per }

// capture makes a graph of a job. Products are prepared first: they may be timed, which a capture cannot hold.
func (r *Run) capture(j *Job, before, after func(result Ptr)) (*cuda.Graph, error) {
	if err := r.prepare(j); err != nil {
		return nil, err
	}
	return r.stream.Capture(func() {
		before(0)
		after(j.Enqueue(r))
	})
}
