package gpu

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// Of State in state.cuh the host writes the first stepBytes before each step: the seed, the step and the learning rate.
const (
	stateBytes = footprint.State
	stepBytes  = 16

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

// trainer is lm.Trainer on a device.
type trainer struct {
	d      *device
	p      *Program
	memory *memory
	code   *code
	stream *cuda.Stream
	run    Run

	train, eval *cuda.Graph

	state   *cuda.Pinned // what a step is told
	batch   *cuda.Pinned // tokens, then targets
	results *cuda.Pinned

	weights, gradients, first, second []float32 // on the host
	fresh                             bool      // they are as on the device
}

func (d *device) NewTrainer(weights []float32, tuned string) (lm.Trainer, error) {
	p := d.program
	t := &trainer{d: d, p: p, weights: weights}
	tokens := p.MicroBatches * p.MicroBatch * p.Context
	var workspace, tables Ptr
	var err error
	t.memory, err = d.allocate("training", func(m *memory) {
		at := m.takeAll(footprint.Training(p.footprint()))
		t.run.lay(at)
		t.run.Gradients, t.run.First, t.run.Second = at[footprint.Gradients], at[footprint.First], at[footprint.Second]
		t.run.Targets = at[footprint.Targets]
		tables, workspace = at[footprint.Tables], at[footprint.BLASWorkspace]
	})
	if err != nil {
		return nil, err
	}
	err = t.start(workspace, tables, tokens, tuned)
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// start fills the memory and makes what a step needs.
func (t *trainer) start(workspace, tables Ptr, tokens int, tuned string) (err error) {
	ctx, p := t.d.ctx, t.p
	if t.stream, err = ctx.NewStream(); err != nil {
		return err
	}
	t.run.stream = t.stream
	if t.run.Tables, err = t.d.uploadTables(tables); err != nil {
		return err
	}
	positions := make([]int32, p.MicroBatch*p.Context)
	for i := range positions {
		positions[i] = int32(i % p.Context)
	}
	if err := ctx.Upload(t.run.Positions, intBytes(positions)); err != nil {
		return err
	}
	if t.code, err = t.d.newCode(workspace, tuned); err != nil {
		return err
	}
	t.run.code = t.code
	for _, pinned := range []struct {
		to    **cuda.Pinned
		bytes int
	}{{&t.state, stepBytes}, {&t.batch, 8 * tokens}, {&t.results, stateBytes + 4*max(p.Train.Scalars, p.Eval.Scalars)}} {
		if *pinned.to, err = ctx.Pinned(pinned.bytes); err != nil {
			return err
		}
	}
	state := make([]byte, stateBytes)
	scale := float32(1)
	if p.Element == F16 {
		scale = initialLossScale
	}
	binary.LittleEndian.PutUint32(state[lossScaleAt:], math.Float32bits(scale))
	binary.LittleEndian.PutUint32(state[hysteresisAt:], initialHysteresis)
	if err := ctx.Upload(t.run.State, state); err != nil {
		return err
	}
	t.gradients = make([]float32, p.WeightFloats)
	t.first, t.second = make([]float32, p.WeightFloats), make([]float32, p.WeightFloats)
	return t.Push()
}

// Bytes implements lm.Sized.
func (t *trainer) Bytes() int64 { return int64(t.memory.size) }

// Step implements lm.Trainer.
func (t *trainer) Step(tokens, targets []int32, p lm.StepParams) (loss, gradNorm float32, err error) {
	state := t.state.Bytes()
	binary.LittleEndian.PutUint64(state, p.Seed)
	binary.LittleEndian.PutUint32(state[8:], uint32(p.Step))
	binary.LittleEndian.PutUint32(state[12:], math.Float32bits(p.LR))
	t.fresh = false
	if t.train == nil {
		if t.train, err = t.run.capture(&t.p.Train, t.copyIn(len(tokens), true), t.copyOut); err != nil {
			return 0, 0, err
		}
	}
	results, err := t.replay(t.train, tokens, targets, &t.p.Train)
	if err != nil {
		return 0, 0, err
	}
	loss, gradNorm = results[0], results[1]
	if t.p.Element == F16 && gradNorm-gradNorm != 0 && loss-loss == 0 && binary.LittleEndian.Uint32(t.results.Bytes()[divergedAt:]) == 0 {
		gradNorm = 0 // the gradients overflowed, and the step was left out
	}
	return loss, gradNorm, nil
}

// Loss implements lm.Trainer.
func (t *trainer) Loss(tokens, targets []int32) (sum float64, targetCount int, err error) {
	if t.eval == nil {
		if t.eval, err = t.run.capture(&t.p.Eval, t.copyIn(len(tokens), false), t.copyOut); err != nil {
			return 0, 0, err
		}
	}
	results, err := t.replay(t.eval, tokens, targets, &t.p.Eval)
	if err != nil {
		return 0, 0, err
	}
	return float64(results[0]), int(results[1]), nil
}

// copyIn puts the copies of a batch, and of what a step is told, on the stream.
func (t *trainer) copyIn(tokens int, state bool) func(Ptr) {
	return func(Ptr) {
		if state {
			t.stream.CopyIn(t.run.State, t.state, 0, stepBytes)
		}
		t.stream.CopyIn(t.run.Tokens, t.batch, 0, 4*tokens)
		t.stream.CopyIn(t.run.Targets, t.batch, len(t.batch.Bytes())/2, 4*tokens)
	}
}

// copyOut puts the copies of the state and the scalars on the stream.
func (t *trainer) copyOut(Ptr) {
	t.stream.CopyOut(t.results, 0, t.run.State, stateBytes)
	t.stream.CopyOut(t.results, stateBytes, t.run.scalars, len(t.results.Bytes())-stateBytes)
}

// replay runs a graph over a batch and returns the job's results.
func (t *trainer) replay(g *cuda.Graph, tokens, targets []int32, j *Job) (results [2]float32, err error) {
	ints := t.batch.Int32s()
	copy(ints, tokens)
	copy(ints[len(ints)/2:], targets)
	t.stream.Run(g)
	if err := t.stream.Sync(); err != nil {
		return results, err
	}
	for i, slot := range j.Results {
		results[i] = t.results.Float32s()[stateBytes/4+slot]
	}
	return results, nil
}

// Weights, Gradients and Moments implement lm.Trainer.
func (t *trainer) Weights() []float32                 { return t.weights }
func (t *trainer) Gradients() []float32               { return t.gradients }
func (t *trainer) Moments() (first, second []float32) { return t.first, t.second }

// Pull implements lm.Trainer.
func (t *trainer) Pull() error {
	if t.fresh {
		return nil
	}
	for _, b := range []struct {
		to   []float32
		from Ptr
	}{{t.weights, t.run.Weights}, {t.gradients, t.run.Gradients}, {t.first, t.run.First}, {t.second, t.run.Second}} {
		if err := download(t.d.ctx, b.to, b.from); err != nil {
			return err
		}
	}
	if scale := math.Float32frombits(binary.LittleEndian.Uint32(t.results.Bytes()[stepScaleAt:])); t.p.Element == F16 && scale > 0 {
		for i := range t.gradients {
			t.gradients[i] /= scale
		}
	}
	t.fresh = true
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

// Push implements lm.Trainer.
func (t *trainer) Push() error {
	for _, b := range []struct {
		to   Ptr
		from []float32
	}{{t.run.Weights, t.weights}, {t.run.Gradients, t.gradients}, {t.run.First, t.first}, {t.run.Second, t.second}} {
		if err := upload(t.d.ctx, b.to, b.from, F32); err != nil {
			return err
		}
	}
	t.fresh = true
	if t.p.Element == F32 {
		return nil
	}
	return upload(t.d.ctx, t.run.Copies, t.weights, t.p.Element)
}

// Close implements lm.Trainer.
func (t *trainer) Close() { t.close() }

func (t *trainer) close() error {
	var errs []error
	for _, g := range []*cuda.Graph{t.train, t.eval} {
		if g != nil {
			errs = append(errs, g.Close())
		}
	}
	if t.code != nil {
		errs = append(errs, t.code.blas.Close())
	}
	for _, p := range []*cuda.Pinned{t.state, t.batch, t.results} {
		if p != nil {
			errs = append(errs, p.Free())
		}
	}
	if t.stream != nil {
		errs = append(errs, t.stream.Close())
	}
	return errors.Join(append(errs, t.memory.free())...)
}
