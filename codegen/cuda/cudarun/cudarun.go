// Package cudarun runs single lowered functions on a CUDA device without generated Go code, so that tests can hold the
// kernels of an op to ir.Eval. It reads launches as the Go generator does.
package cudarun

import (
	"encoding/binary"
	"fmt"
	"math"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
)

// Device is a device that functions run on.
type Device struct {
	Rival     int  // which of the program's own kernels makes products that have some, counted from 1 (the last, where there are fewer); 0: cuBLASLt where it can
	Unwritten bool // new memory is left as it is, for tools that watch who reads it, and not poisoned

	ctx    *cuda.Context
	stream *cuda.Stream
	blas   *cuda.BLAS
}

// Open takes a device into use.
func Open(index int) (*Device, error) {
	ctx, err := cuda.Open(index)
	if err != nil {
		return nil, err
	}
	d := &Device{ctx: ctx}
	if d.stream, err = ctx.NewStream(); err != nil {
		return nil, err
	}
	const workspace = 32 << 20
	p, err := ctx.Alloc(workspace)
	if err != nil {
		return nil, err
	}
	d.blas, err = ctx.NewBLAS(p, workspace, nil)
	return d, err
}

// Close gives the device back.
func (d *Device) Close() error { return d.ctx.Close() }

// Arch is the device's architecture, as in sm_90a.
func (d *Device) Arch() string { return d.ctx.Device().Arch() }

// Image is compiled kernels on a device.
type Image struct{ modules map[string]*cuda.Module }

// Load puts a file of kernels (package kernelfile) on the device.
func (d *Device) Load(file []byte) (*Image, error) {
	_, modules, err := kernelfile.Unpack(file)
	if err != nil {
		return nil, err
	}
	image := &Image{map[string]*cuda.Module{}}
	for _, m := range modules {
		loaded, err := d.ctx.Load(m.Fatbin)
		if err != nil {
			return nil, err
		}
		for _, e := range m.Entries {
			image.modules[e] = loaded
		}
	}
	return image, nil
}

// Answer is what a function computed: its results, and the gradients it added to, by parameter.
type Answer struct {
	Results []*ir.Tensor
	Grads   map[string]*ir.Tensor
	Weights map[string]*ir.Tensor
	Copies  map[string]*ir.Tensor // of the weights, in the activations' type
	State   []byte                // of state.cuh
	Amax    map[int][2]float64    // of histories, by slot
}

// call is one run of a function.
type call struct {
	d       *Device
	f       *ir.Func
	code    *cudagen.Code
	image   *Image
	at      map[*ir.Value]cuda.Ptr // of inputs
	weights cuda.Ptr
	copies  cuda.Ptr
	grads   cuda.Ptr
	first   cuda.Ptr
	second  cuda.Ptr
	offset  map[*ir.Param]int // in elements
	caches  map[*ir.Value]cuda.Ptr
	arena   cuda.Ptr
	scratch cuda.Ptr
	state   cuda.Ptr
	history cuda.Ptr
	scalars cuda.Ptr
	// measures is whether groups with Measures set run.
	measures bool
	slots    map[*ir.Value]int
	tables   []cuda.Ptr
	rows     int
	kernels  map[*ir.Kernel]cuda.Kernel
	owned    []cuda.Ptr
	err      error
}

// poison is what fills memory that nobody has written: NaN in every type.
const poison = 0xff

// Run runs f, which has no loops, whose code is cu and whose kernels are in image, on inputs and with the state that
// ir.Eval would get. rows is the number of rows of the call, where f has a dynamic dimension; inputs have as many. loss
// scale is 1, or the input loss_scale; the input hysteresis is how many overflows it forgives; the input diverged is the
// step that diverged before, if one did. Memory is poisoned first, and so are the results, unless the device is Unwritten.
func (d *Device) Run(f *ir.Func, cu *cudagen.Code, image *Image, in map[string]*ir.Tensor, state *ir.State, rows int) (*Answer, error) {
	c := &call{d: d, f: f, code: cu, image: image, at: map[*ir.Value]cuda.Ptr{}, offset: map[*ir.Param]int{}, caches: map[*ir.Value]cuda.Ptr{},
		rows: rows, kernels: map[*ir.Kernel]cuda.Kernel{}}
	defer func() {
		for _, p := range c.owned {
			d.ctx.Free(p)
		}
	}()
	c.measures = state.Turns < ir.MeasuredSteps
	c.prepare(in, state)
	if c.err != nil {
		return nil, c.err
	}
	f.Walk(func(op *ir.Op) {
		for _, g := range cu.Launches[op] {
			if g.On != "" && g.On != d.Arch() || g.Off != "" && g.Off == d.Arch() || g.Measures && !c.measures {
				continue
			}
			for i := range g.Times {
				for _, l := range g.Launches {
					c.launch(op, l, i)
				}
			}
		}
	})
	if c.err == nil {
		c.err = d.stream.Sync()
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.answer()
}

// alloc returns memory that is poisoned, unless the device is to leave it.
func (c *call) alloc(bytes int) cuda.Ptr {
	bytes = max(bytes, 256)
	p, err := c.d.ctx.Alloc(bytes)
	if err != nil {
		c.fail(err)
		return 0
	}
	c.owned = append(c.owned, p)
	if c.d.Unwritten {
		return p
	}
	fill := make([]byte, bytes)
	for i := range fill {
		fill[i] = poison
	}
	c.fail(c.d.ctx.Upload(p, fill))
	return p
}

func (c *call) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *call) upload(p cuda.Ptr, x []float64, d ir.DType) { c.fail(c.d.ctx.Upload(p, Encode(x, d))) }

func (c *call) prepare(in map[string]*ir.Tensor, state *ir.State) {
	header := make([]byte, 80)
	scale := 1.0
	if s := in["loss_scale"]; s != nil {
		scale = s.Data[0]
		binary.LittleEndian.PutUint32(header[24:], uint32(in["hysteresis"].Data[0]))
	}
	if s := in["diverged"]; s != nil {
		binary.LittleEndian.PutUint32(header[32:], uint32(s.Data[0]))
	}
	binary.LittleEndian.PutUint32(header[16:], math.Float32bits(float32(scale)))
	for _, v := range c.f.Inputs {
		x := in[v.Name]
		switch v.Name {
		case "seed":
			binary.LittleEndian.PutUint64(header, uint64(x.Data[0]))
			continue
		case "step":
			binary.LittleEndian.PutUint32(header[8:], uint32(x.Data[0]))
			continue
		case "lr":
			binary.LittleEndian.PutUint32(header[12:], math.Float32bits(float32(x.Data[0])))
			continue
		}
		c.at[v] = c.alloc(v.Type.Elems() * v.Type.DType.Bytes())
		c.upload(c.at[v], x.Data, v.Type.DType)
	}
	c.state = c.alloc(len(header))
	c.fail(c.d.ctx.Upload(c.state, header))
	floats := 0
	for _, p := range c.f.Params {
		n := p.Type.Elems()
		if p.Cache {
			c.caches[p.Value] = c.alloc(n * c.code.Element.Bytes())
			if x := state.Caches[p.Name]; x != nil {
				c.upload(c.caches[p.Value], x.Data, c.code.Element)
			}
			continue
		}
		c.offset[p] = floats
		floats += (n + 63) / 64 * 64
	}
	weights, grads, zero := make([]float64, floats), make([]float64, floats), make([]float64, floats)
	for p, at := range c.offset {
		copy(weights[at:], state.Weights[p.Name].Data)
		if g := state.Grads[p.Name]; g != nil {
			copy(grads[at:], g.Data)
		}
	}
	for _, b := range []struct {
		to *cuda.Ptr
		x  []float64
	}{{&c.weights, weights}, {&c.grads, grads}, {&c.first, zero}, {&c.second, zero}} {
		*b.to = c.alloc(4 * floats)
		c.upload(*b.to, b.x, ir.F32)
	}
	c.copies = c.weights
	if c.code.Element != ir.F32 {
		c.copies = c.alloc(2 * floats)
		c.upload(c.copies, weights, c.code.Element)
	}
	history := make([]float64, 2*ir.Histories(c.f))
	for slot, h := range state.Amax {
		copy(history[2*slot:], h[:])
	}
	c.history = c.alloc(4 * len(history))
	c.upload(c.history, history, ir.F32)
	c.arena, c.scratch = c.alloc(c.f.Plan.Bytes), c.alloc(c.code.Scratch[c.f.Name])
	slots, n := ir.Scalars(c.f)
	c.slots, c.scalars = slots, c.alloc(4*n)
	for _, t := range c.code.Tables {
		x := make([]float64, t.Max*len(t.Freqs))
		for pos := range t.Max {
			for i, f := range t.Freqs {
				sin, cos := math.Sincos(float64(float32(pos) * float32(f)))
				if t.Sine {
					cos = sin
				}
				x[pos*len(t.Freqs)+i] = cos * t.Scale
			}
		}
		p := c.alloc(4 * len(x))
		c.upload(p, x, ir.F32)
		c.tables = append(c.tables, p)
	}
}

func (c *call) launch(op *ir.Op, l ir.Launch, i int) {
	var args []cuda.Ptr
	for _, a := range l.Args {
		args = append(args, c.operand(op, a, i))
	}
	if c.err != nil {
		return
	}
	switch {
	case l.Clear > 0:
		c.d.stream.Zero(args[0], l.Clear)
	case l.Product != nil:
		c.multiply(l.Product, args)
	default:
		loaded, err := c.kernel(l.Kernels[0])
		if err != nil {
			c.fail(err)
			return
		}
		c.d.stream.Launch(loaded, c.count(l.Grid[0]), c.count(l.Grid[1]), c.count(l.Grid[2]), args...)
	}
}

func (c *call) kernel(k *ir.Kernel) (cuda.Kernel, error) {
	if loaded, ok := c.kernels[k]; ok {
		return loaded, nil
	}
	module := c.image.modules[k.Entry]
	if module == nil {
		return cuda.Kernel{}, fmt.Errorf("the image has no kernel %s", k.Entry)
	}
	loaded, err := module.Kernel(cuda.KernelInfo{Entry: k.Entry, Threads: k.Threads, Shared: k.Shared, Waits: true, About: k.About})
	c.kernels[k] = loaded
	return loaded, err
}

func (c *call) count(n ir.Count) int {
	if n.Per == 0 {
		return n.N
	}
	return (c.rows + n.Per - 1) / n.Per * n.N
}

func (c *call) multiply(p *ir.Product, args []cuda.Ptr) {
	types := map[ir.DType]cuda.DType{ir.F32: cuda.F32, ir.BF16: cuda.BF16, ir.F16: cuda.F16, ir.E4M3: cuda.E4M3, ir.E5M2: cuda.E5M2}
	epilogues := map[string]cuda.Epilogue{"bias": cuda.EpilogueBias, "gelu_tanh": cuda.EpilogueGELUBias, "gelu_tanh_pre": cuda.EpilogueGELUAuxBias, "gelu_tanh_grad": cuda.EpilogueDGELU}
	owns := map[string]cuda.Own{"act": cuda.OwnAct, "slope": cuda.OwnSlope, "times": cuda.OwnTimes}
	q := cuda.Product{M: p.M, N: p.N, K: p.K, TransA: p.TransA, TransB: p.TransB, LDA: p.LDA, LDB: p.LDB, LDC: p.LDC, LDD: p.LDD, LDAux: p.LDAux,
		A: types[p.A], B: types[p.B], C: types[p.C], D: types[p.D], Beta: float32(p.Beta), Epilogue: epilogues[p.Epilogue], Sums: p.Sums, Own: owns[p.Own], Act: p.Act, Gated: p.Gated, Align: p.Align, Dynamic: p.Rows, About: p.About}
	if p.TF32 {
		q.Compute = cuda.ComputeTF32
	}
	if p.Rows {
		q.M = c.rows
	}
	prepared, err := c.prepared(p, q)
	if err != nil {
		c.fail(err)
		return
	}
	if p.Quantizes() {
		c.d.stream.MultiplyQuantized(prepared, args[0], args[1], args[2], args[4], args[5], args[6], args[7], args[8],
			cuda.Quantized{Transposed: args[9], Scale: args[10], History: args[11], Amax: args[12], Top: args[13]})
		return
	}
	if p.Scaled {
		c.d.stream.MultiplyScaled(prepared, args[0], args[1], args[2], args[3], args[4], args[6], args[7])
		return
	}
	var sums cuda.Ptr
	if p.Sums {
		sums = args[6]
	}
	c.d.stream.MultiplySums(prepared, args[0], args[1], args[2], args[3], args[4], args[5], sums)
}

// prepared is a product ready to be made by what the device is to take.
func (c *call) prepared(p *ir.Product, q cuda.Product) (*cuda.Prepared, error) {
	key, want := *p, c.d.Rival
	key.About = ""
	if p.Own != "" {
		want = max(want, 1)
	}
	var rivals []ir.Rival
	for _, r := range c.code.Rivals {
		if r.Product == key {
			rivals = append(rivals, r)
		}
	}
	if want == 0 || len(rivals) == 0 {
		return c.d.blas.Prepare(q)
	}
	r := rivals[min(want, len(rivals))-1]
	k, err := c.kernel(r.Kernel)
	if err != nil {
		return nil, err
	}
	return c.d.blas.PrepareRival(q, cuda.Rival{Kernel: k, Rows: r.Rows, Cols: r.Cols})
}

func (c *call) operand(op *ir.Op, a ir.Operand, i int) cuda.Ptr {
	param := func(base cuda.Ptr, size int) cuda.Ptr { return base.At(c.offset[a.Value.Param] * size) }
	var p cuda.Ptr
	switch a.Kind {
	case ir.OperandNull:
		return 0
	case ir.OperandValue:
		v := a.Value
		if at, ok := c.at[v]; ok {
			p = at
		} else if len(v.Type.Dims) == 0 {
			p = c.scalars.At(4 * c.slots[v])
		} else {
			place, ok := c.f.Plan.Places[v]
			if !ok {
				c.fail(fmt.Errorf("%s reads or writes %s, which has no memory", op.Kind, v.Name))
				return 0
			}
			p = c.arena.At(place.Buffer.Offset + place.Column*v.Type.DType.Bytes())
		}
	case ir.OperandWeight:
		p = param(c.weights, 4)
	case ir.OperandCopy:
		p = param(c.copies, c.code.Element.Bytes())
	case ir.OperandGrad:
		p = param(c.grads, 4)
	case ir.OperandCache:
		p = c.caches[a.Value]
	case ir.OperandScratch:
		p = c.scratch
	case ir.OperandState:
		p = c.state
	case ir.OperandTable:
		p = c.tables[a.N]
	case ir.OperandBuffer:
		p = map[string]cuda.Ptr{"weights": c.weights, "copies": c.copies, "gradients": c.grads, "first": c.first, "second": c.second, "history": c.history}[a.Name]
	case ir.OperandHistory:
		p = c.history.At(8 * a.N)
	case ir.OperandNumber:
		return cuda.Ptr(uint32(int32(a.N)))
	case ir.OperandRows:
		return cuda.Ptr(c.rows)
	case ir.OperandLayer, ir.OperandMicro:
		return 0
	}
	if a.Found && !c.measures {
		return 0
	}
	return p.At(a.Offset + i*a.Step)
}

// answer reads the results.
func (c *call) answer() (*Answer, error) {
	a := &Answer{Grads: map[string]*ir.Tensor{}, Weights: map[string]*ir.Tensor{}, Copies: map[string]*ir.Tensor{}, State: make([]byte, 80)}
	c.fail(c.d.ctx.Download(a.State, c.state))
	read := func(p cuda.Ptr, n int, d ir.DType) []float64 {
		raw := make([]byte, n*d.Bytes())
		c.fail(c.d.ctx.Download(raw, p))
		return Decode(raw, d)
	}
	a.Amax = map[int][2]float64{}
	for i, x := range read(c.history, 2*ir.Histories(c.f), ir.F32) {
		h := a.Amax[i/2]
		h[i%2] = x
		a.Amax[i/2] = h
	}
	for _, r := range c.f.Results {
		t := ir.NewTensor(r.Type.Shape()...)
		if r.Block == nil { // an input
			a.Results = append(a.Results, t)
			continue
		}
		if len(r.Type.Dims) == 0 {
			t.Data = read(c.scalars.At(4*c.slots[r]), 1, ir.F32)
			a.Results = append(a.Results, t)
			continue
		}
		place := c.f.Plan.Places[r]
		rows, cols, size := r.Type.Rows(), r.Type.Cols(), r.Type.DType.Bytes()
		stride := place.Stride
		all := read(c.arena.At(place.Buffer.Offset+place.Column*size), (rows-1)*stride+cols, r.Type.DType)
		for i := range rows {
			copy(t.Data[i*cols:][:cols], all[i*stride:])
		}
		a.Results = append(a.Results, t)
	}
	for p, at := range c.offset {
		for to, base := range map[*map[string]*ir.Tensor]cuda.Ptr{&a.Grads: c.grads, &a.Weights: c.weights} {
			t := ir.NewTensor(p.Type.Shape()...)
			t.Data = read(base.At(4*at), len(t.Data), ir.F32)
			(*to)[p.Name] = t
		}
		t := ir.NewTensor(p.Type.Shape()...)
		t.Data = read(c.copies.At(at*c.code.Element.Bytes()), len(t.Data), c.code.Element)
		a.Copies[p.Name] = t
	}
	return a, c.err
}
