package gpu

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/quant"
)

// Of State in state.cuh each step gets the first stepBytes with its batch: the seed, the step and the learning rate.
const (
	stateBytes = footprint.State
	stepBytes  = footprint.Step

	lossScaleAt  = 16 // float, then three uint32s: good steps, hysteresis, skipped steps
	hysteresisAt = 24
	divergedAt   = 32 // uint32
	stepScaleAt  = 76 // float
)

// The first loss scale of f16, and how many overflows it forgives: PyTorch's and Megatron's.
const (
	initialLossScale  = 1 << 16
	initialHysteresis = 2
)

// trainer is lm.Trainer on a device. Two steps can be under way: the batch of one crosses over, on a stream of its own and
// to memory of its own, while the other one runs.
//
// There is one graph of a step, beside one of the first few where those measure (Run.Measures). It reads its batch at fixed addresses; on its stream the batch is copied there first, within
// the device. That takes microseconds and is in order by itself, where a graph for each of the two batches would have to be
// captured, and kept, twice.
type trainer struct {
	d      *device
	p      *Program
	memory *memory
	code   *code
	stream *cuda.Stream
	copies *cuda.Stream // to the device
	run    Run

	train, eval *cuda.Graph
	measuring   *cuda.Graph // of a step that measures; nil where none did
	measured    int         // steps that did, since the histories had nothing

	slots             [2]slot
	started, finished int     // steps and evaluations; number n is in slot n%2
	stepScale         float32 // factor on the gradients of the newest step finished

	draw          source    // of the first weights, while the host does not hold them
	weights       []float32 // on the host
	gradients     []float32 // nil until they are asked for, as are the moments: zeros, if no step was taken
	first, second []float32
	fresh         bool // all of them are as on the device
}

// slot is where a batch, and what its step comes to, cross over.
type slot struct {
	input   *cuda.Pinned // tokens, targets and what the step is told, laid out as in trainer.run
	device  Ptr          // its copy
	results *cuda.Pinned // the state and the scalars, once the step is done

	copied, done *cuda.Event
}

func (d *device) NewTrainer(weights []float32, tuned string) (lm.Trainer, error) {
	return d.newTrainer(&trainer{d: d, p: d.program, weights: weights}, tuned)
}

// NewDrawnTrainer implements lm.Drawer.
func (d *device) NewDrawnTrainer(weights []float32, draw func(dst []float32, from int), tuned string) (lm.Trainer, error) {
	return d.newTrainer(&trainer{d: d, p: d.program, weights: weights, draw: draw}, tuned)
}

// newTrainer makes a trainer ready.
func (d *device) newTrainer(t *trainer, tuned string) (lm.Trainer, error) {
	p := d.program
	var workspace, tables Ptr
	var err error
	t.memory, err = d.allocate("training", func(m *memory) {
		at := m.takeAll(footprint.Training(p.footprint()))
		t.run.lay(at)
		t.run.Gradients, t.run.First, t.run.Second = at[footprint.Gradients], at[footprint.First], at[footprint.Second]
		t.run.Targets, t.run.History = at[footprint.Targets], at[footprint.History]
		for i := range t.slots {
			t.slots[i].device = at[footprint.Crossing].At(i * footprint.Round(t.stateAt()+stepBytes))
		}
		tables, workspace = at[footprint.Tables], at[footprint.BLASWorkspace]
	})
	if err != nil {
		return nil, err
	}
	err = t.start(workspace, tables, tuned)
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// targetsAt and stateAt are where in a slot's input the targets begin, and what the step is told.
func (t *trainer) targetsAt() int { return int(t.run.Targets - t.run.Tokens) }
func (t *trainer) stateAt() int   { return int(t.run.State - t.run.Tokens) }

// scalarsAt is where in a slot's results the scalars begin.
func (t *trainer) scalarsAt() int { return int(t.run.scalars - t.run.State) }

// start fills the memory and makes what a step needs.
func (t *trainer) start(workspace, tables Ptr, tuned string) (err error) {
	ctx, p := t.d.ctx, t.p
	for _, s := range []**cuda.Stream{&t.stream, &t.copies} {
		if *s, err = ctx.NewStream(); err != nil {
			return err
		}
	}
	t.run.stream = t.stream
	if t.run.Tables, err = t.d.uploadTables(tables); err != nil {
		return err
	}
	positions := make([]int32, p.MicroBatch*p.Context)
	for i := range positions {
		positions[i] = int32(i % p.Context)
	}
	if err := ctx.Upload(t.run.Positions, cuda.Bytes(positions)); err != nil {
		return err
	}
	if t.code, err = t.d.newCode(workspace, tuned); err != nil {
		return err
	}
	t.run.code = t.code
	for i := range t.slots {
		s := &t.slots[i]
		if s.input, err = ctx.Pinned(t.stateAt() + stepBytes); err != nil {
			return err
		}
		if s.results, err = ctx.Pinned(t.scalarsAt() + 4*max(p.Train.Scalars, p.Eval.Scalars)); err != nil {
			return err
		}
		for _, e := range []**cuda.Event{&s.copied, &s.done} {
			if *e, err = ctx.NewEvent(); err != nil {
				return err
			}
		}
	}
	state := make([]byte, len(t.slots[0].results.Bytes())) // with the scalars, and what lies between
	scale := float32(1)
	if p.Element == F16 {
		scale = initialLossScale
	}
	binary.LittleEndian.PutUint32(state[lossScaleAt:], math.Float32bits(scale))
	binary.LittleEndian.PutUint32(state[hysteresisAt:], initialHysteresis)
	if err := ctx.Upload(t.run.State, state); err != nil {
		return err
	}
	if err := t.SetAmax(make([]uint32, p.Histories)); err != nil {
		return err
	}
	return t.Push()
}

// Bytes implements lm.Sized.
func (t *trainer) Bytes() int64 { return int64(t.memory.size) }

// Step implements lm.Trainer.
func (t *trainer) Step(tokens, targets []int32, p lm.StepParams) (loss, gradNorm float32, err error) {
	if err := t.idle(); err != nil {
		return 0, 0, err
	}
	if err := t.Start(tokens, targets, p); err != nil {
		return 0, 0, err
	}
	return t.Finish()
}

// Start implements lm.Pipelined. After a step that diverged, the optimizer's kernels leave weights and moments alone
// (State.diverged), so one that is under way behind it does no harm.
func (t *trainer) Start(tokens, targets []int32, p lm.StepParams) error {
	if t.started-t.finished == len(t.slots) {
		return errors.New("two steps are under way already: Finish comes first")
	}
	graph, err := t.graph(p.Step)
	if err != nil {
		return err
	}
	state := t.slots[t.started%len(t.slots)].input.Bytes()[t.stateAt():]
	binary.LittleEndian.PutUint64(state, p.Seed)
	binary.LittleEndian.PutUint32(state[8:], uint32(p.Step))
	binary.LittleEndian.PutUint32(state[12:], math.Float32bits(p.LR))
	t.fresh = false
	return t.enqueue(graph, tokens, targets, t.stateAt()+stepBytes)
}

// graph returns that of an optimizer step, counted from 1.
func (t *trainer) graph(n int) (_ *cuda.Graph, err error) {
	graph := &t.train
	if t.run.measures = t.p.Histories > 0 && (t.measured < quant.MeasuredSteps || n <= quant.MeasuredSteps); t.run.measures {
		graph = &t.measuring
		t.measured++
	}
	if *graph == nil {
		*graph, err = t.run.capture(&t.p.Train, nothing, nothing)
	}
	return *graph, err
}

// Finish implements lm.Pipelined.
func (t *trainer) Finish() (loss, gradNorm float32, err error) {
	if t.finished == t.started {
		return 0, 0, errors.New("no step is under way")
	}
	s, results, err := t.await(&t.p.Train)
	if err != nil {
		return 0, 0, err
	}
	state := s.results.Bytes()
	t.stepScale = math.Float32frombits(binary.LittleEndian.Uint32(state[stepScaleAt:]))
	loss, gradNorm = results[0], results[1]
	if t.p.Element == F16 && gradNorm-gradNorm != 0 && loss-loss == 0 && binary.LittleEndian.Uint32(state[divergedAt:]) == 0 {
		gradNorm = 0 // the gradients overflowed, and the step was left out
	}
	return loss, gradNorm, nil
}

// Loss implements lm.Trainer.
func (t *trainer) Loss(tokens, targets []int32) (sum float64, targetCount int, err error) {
	if err := t.idle(); err != nil {
		return 0, 0, err
	}
	if t.eval == nil {
		if t.eval, err = t.run.capture(&t.p.Eval, nothing, nothing); err != nil {
			return 0, 0, err
		}
	}
	if err := t.enqueue(t.eval, tokens, targets, t.stateAt()); err != nil {
		return 0, 0, err
	}
	_, results, err := t.await(&t.p.Eval)
	return float64(results[0]), int(results[1]), err
}

func nothing(Ptr) {}

// enqueue puts a graph over a batch, and so many bytes of its slot's input, behind all that is under way.
func (t *trainer) enqueue(g *cuda.Graph, tokens, targets []int32, bytes int) error {
	s := &t.slots[t.started%len(t.slots)]
	ints := s.input.Int32s()
	copy(ints, tokens)
	copy(ints[t.targetsAt()/4:], targets)
	t.copies.CopyIn(s.device, s.input, 0, bytes)
	t.copies.Record(s.copied)
	if err := t.copies.Err(); err != nil {
		return err
	}
	t.stream.Wait(s.copied)
	t.stream.Copy(t.run.Tokens, s.device, bytes)
	t.stream.Run(g)
	t.stream.CopyOut(s.results, 0, t.run.State, len(s.results.Bytes()))
	t.stream.Record(s.done)
	if err := t.stream.Err(); err != nil {
		return err
	}
	t.started++
	return nil
}

// await waits for the oldest that is under way, and returns the job's results.
func (t *trainer) await(j *Job) (s *slot, results [2]float32, err error) {
	s = &t.slots[t.finished%len(t.slots)]
	t.finished++
	if err := t.stream.Await(s.done); err != nil {
		return s, results, err
	}
	for i, at := range j.Results {
		results[i] = s.results.Float32s()[t.scalarsAt()/4+at]
	}
	return s, results, nil
}

// idle is an error while a step is under way.
func (t *trainer) idle() error {
	if t.started != t.finished {
		return errors.New("a step is under way: Finish comes first")
	}
	return nil
}

// drain waits for the steps under way. What they come to, errors too, shows in what is asked for next.
func (t *trainer) drain() {
	for t.finished < t.started {
		t.Finish()
	}
}

// Weights, Gradients and Moments implement lm.Trainer.
func (t *trainer) Weights() []float32 { return t.weights }

func (t *trainer) Gradients() []float32 {
	t.onHost(&t.gradients)
	return t.gradients
}

func (t *trainer) Moments() (first, second []float32) {
	t.onHost(&t.first)
	t.onHost(&t.second)
	return t.first, t.second
}

// onHost makes a host's copy. To touch its pages takes a second for a billion weights, so it is made where it is needed.
func (t *trainer) onHost(x *[]float32) {
	if *x == nil {
		*x = make([]float32, t.p.WeightFloats)
	}
}

// Pull implements lm.Trainer.
func (t *trainer) Pull() (err error) {
	t.drain()
	if t.fresh {
		return nil
	}
	m, err := t.d.newTransfer(t.p.WeightFloats)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	for _, b := range []struct {
		to   *[]float32
		from Ptr
	}{{&t.weights, t.run.Weights}, {&t.gradients, t.run.Gradients}, {&t.first, t.run.First}, {&t.second, t.run.Second}} {
		t.onHost(b.to)
		if err := m.down(*b.to, b.from); err != nil {
			return err
		}
	}
	if t.p.Element == F16 && t.stepScale > 0 {
		for i := range t.gradients {
			t.gradients[i] /= t.stepScale
		}
	}
	t.fresh, t.draw = true, nil
	return nil
}

// LossScale implements lm.Scaled.
func (t *trainer) LossScale() (*lm.LossScale, error) {
	if t.p.Element != F16 {
		return nil, nil
	}
	state := make([]byte, 16)
	if err := t.d.ctx.Download(state, t.run.State.At(lossScaleAt)); err != nil {
		return nil, err
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(state[4*i:]) }
	return &lm.LossScale{Scale: math.Float32frombits(word(0)), GoodSteps: word(1), Hysteresis: word(2), Skipped: word(3)}, nil
}

// SetLossScale implements lm.Scaled.
func (t *trainer) SetLossScale(s lm.LossScale) error {
	var state []byte
	for _, w := range []uint32{math.Float32bits(s.Scale), s.GoodSteps, s.Hysteresis, s.Skipped} {
		state = binary.LittleEndian.AppendUint32(state, w)
	}
	return t.d.ctx.Upload(t.run.State.At(lossScaleAt), state)
}

// Amax implements lm.Quantized.
func (t *trainer) Amax() ([]uint32, error) {
	if t.p.Histories == 0 {
		return nil, nil
	}
	pairs := make([]byte, footprint.HistoryBytes*t.p.Histories)
	if err := t.d.ctx.Download(pairs, t.run.History); err != nil {
		return nil, err
	}
	amax := make([]uint32, t.p.Histories)
	for i := range amax {
		amax[i] = binary.LittleEndian.Uint32(pairs[footprint.HistoryBytes*i+4:])
		if newest := math.Float32frombits(amax[i]); !(newest > 0) || math.IsInf(float64(newest), 0) { // as turn_amax has it
			amax[i] = binary.LittleEndian.Uint32(pairs[footprint.HistoryBytes*i:])
		}
	}
	return amax, nil
}

// SetAmax implements lm.Quantized. The next step makes of what it sets the magnitudes of the step before.
func (t *trainer) SetAmax(amax []uint32) error {
	if len(amax) != t.p.Histories || len(amax) == 0 {
		return nil
	}
	t.measured = 0
	if slices.ContainsFunc(amax, func(a uint32) bool { return a != 0 }) {
		t.measured = quant.MeasuredSteps
	}
	var pairs []byte
	for _, a := range amax {
		pairs = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(pairs, 0), a)
	}
	return t.d.ctx.Upload(t.run.History, pairs)
}

// Push implements lm.Trainer. Gradients and moments that the host has no copies of are zeros, and weights that it does not
// hold are drawn.
func (t *trainer) Push() (err error) {
	if err := t.idle(); err != nil {
		return err
	}
	m, err := t.d.newTransfer(t.p.WeightFloats)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	for _, b := range []struct {
		to   Ptr
		from []float32
	}{{t.run.Gradients, t.gradients}, {t.run.First, t.first}, {t.run.Second, t.second}} {
		if b.from == nil {
			m.stream.Zero(b.to, 4*t.p.WeightFloats)
		} else {
			m.up(len(b.from), held(b.from), b.to, 0, F32)
		}
	}
	read := t.draw
	if read == nil {
		read = held(t.weights)
	}
	m.up(t.p.WeightFloats, read, t.run.Weights, t.run.Copies, t.p.Element)
	t.fresh = t.draw == nil
	return m.stream.Sync()
}

// Close implements lm.Trainer.
func (t *trainer) Close() { t.close() }

func (t *trainer) close() error {
	t.drain()
	var errs []error
	for _, g := range []*cuda.Graph{t.train, t.measuring, t.eval} {
		if g != nil {
			errs = append(errs, g.Close())
		}
	}
	if t.code != nil {
		errs = append(errs, t.code.blas.Close())
	}
	for _, s := range t.slots {
		for _, e := range []*cuda.Event{s.copied, s.done} {
			if e != nil {
				errs = append(errs, e.Close())
			}
		}
		for _, p := range []*cuda.Pinned{s.input, s.results} {
			if p != nil {
				errs = append(errs, p.Free())
			}
		}
	}
	for _, s := range []*cuda.Stream{t.stream, t.copies} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(append(errs, t.memory.free())...)
}
