package lm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tfc-dev/tfc/runtime/checkpoint"
	"github.com/tfc-dev/tfc/runtime/data"
	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/telemetry"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// What a run's folder holds beside its saves, and a save beside the model.
const (
	logFile     = "log.jsonl"
	curveFile   = "curve.svg"
	momentsFile = "moments.safetensors"
	cacheFolder = "cache" // of tokens
)

// run is a training run at work.
type run struct {
	m        *Model
	dir      string
	total    int // steps
	loader   *data.Loader
	eval     evaluation // nil where no text is held out
	dataHash string     // of all text and how it is parted
	trainer  Trainer
	unlock   func()
	log      *telemetry.Log
	progress *telemetry.Progress

	tokens, targets []int32 // of one step

	runState
	step      int
	ahead     bool // the step after it is under way
	resumed   int
	loss      float32 // of the step
	firstStep time.Duration

	clock      time.Time // start of this call's learning
	logged     time.Time // when the newest line was written
	loggedStep int
	logFailed  bool
	steady     time.Time // end of this call's first step
	steadyStep int

	saved       int   // step of the newest save
	failedSaves int   // in a row
	saveFailed  error // of the newest save that was due
}

// runState is what a save holds besides the model, the moments and what checkpoint.State has fields for.
type runState struct {
	Settings  []Setting `json:"settings"`
	Seed      uint64    `json:"seed"`
	Steps     int       `json:"steps"`      // planned
	Pending   bool      `json:"pending"`    // the step is learned; evaluation, log line and save are still to come
	LossSum   float64   `json:"loss_sum"`   // of the steps since the last log line
	LossCount int       `json:"loss_count"` // of them
	GradNorm  float32   `json:"grad_norm"`  // of the step
	LR        float64   `json:"lr"`         // of the step
	EvalLoss  *float64  `json:"eval_loss"`  // newest
	Elapsed   float64   `json:"elapsed"`    // seconds spent learning

	LossScale *LossScale `json:"loss_scale,omitempty"` // where the program has one
	Amax      []uint32   `json:"amax,omitempty"`       // as Quantized has them
}

// openRun locks the run's folder and makes everything ready for the next step: tokenizer, text, trainer and, where the
// run has a save, its state.
func (m *Model) openRun(ctx context.Context, o TrainOptions) (_ *run, err error) {
	if o.Steps < 0 {
		return nil, inputError("the number of steps is %d; it must be positive (0: the spec's)", o.Steps)
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	r := &run{m: m, dir: o.Run, progress: telemetry.NewProgress(o.Progress)}
	if r.dir == "" {
		r.dir = runFolder(m.cfg)
	}
	if err := os.MkdirAll(r.dir, 0o777); err != nil {
		return nil, fmt.Errorf("make the run's folder: %w", err)
	}
	if r.unlock, err = checkpoint.Lock(r.dir); err != nil {
		return nil, fileError("%w", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	save, state, err := checkpoint.Latest(r.dir, func(format string, args ...any) { r.say("warning: "+format, args...) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = r.begin(ctx, o)
	case err != nil:
		err = fileError("%w", err)
	default:
		err = r.resume(ctx, o, save, state)
	}
	if err != nil {
		return nil, err
	}

	after := r.step
	if r.Pending {
		after-- // its line is still to come
	}
	if r.log, err = telemetry.OpenLog(filepath.Join(r.dir, logFile), after); err != nil {
		return nil, err
	}
	t := &m.cfg.Train
	r.tokens = make([]int32, t.Batch*t.Context)
	r.targets = make([]int32, t.Batch*t.Context)
	return r, nil
}

// begin starts a run.
func (r *run) begin(ctx context.Context, o TrainOptions) error {
	if err := r.openText(ctx, o); err != nil {
		return err
	}
	r.Seed, r.Settings, r.Steps = r.m.seed, r.m.cfg.Settings, r.total
	return r.newTrainer()
}

// resume goes on from a save.
func (r *run) resume(ctx context.Context, o TrainOptions, save string, state checkpoint.State) error {
	m := r.m
	if err := json.Unmarshal(state.Extra, &r.runState); err != nil {
		return fileError("%s: the state of the run: %w", save, err)
	}
	var wrong []string
	if state.SpecHash != m.cfg.SpecHash {
		if wrong = differences(r.Settings, m.cfg.Settings); len(wrong) == 0 {
			wrong = []string{fmt.Sprintf("spec: %s in the run, %s in the program", state.SpecHash, m.cfg.SpecHash)}
		}
	}
	if r.Seed != m.seed {
		wrong = append(wrong, fmt.Sprintf("seed: %d in the run, %d in the program", r.Seed, m.seed))
	}
	if len(wrong) > 0 {
		return r.mismatch(wrong)
	}
	tok, err := loadTokenizer(m.cfg, save)
	if err != nil {
		return err
	}
	if tok == nil {
		return fileError("%s holds no %s", save, tokenizerFile)
	}
	if m.tokenizer != nil && m.tokenizer.Hash() != tok.Hash() {
		return r.mismatch([]string{fmt.Sprintf("tokenizer: %s in the run, %s in the model", tok.Hash(), m.tokenizer.Hash())})
	}
	m.tokenizer = tok
	if err := r.openText(ctx, o); err != nil {
		return err
	}
	if state.DataHash != r.dataHash {
		return r.mismatch([]string{fmt.Sprintf("data: %s in the run, %s now: the texts or how they are held out have changed",
			state.DataHash, r.dataHash)})
	}
	if err := weights.Load(save, m.cfg.Weights, m.weights); err != nil {
		return fileError("%w", err)
	}
	m.first = nil
	if err := r.newTrainer(); err != nil {
		return err
	}
	if err := r.loadMoments(filepath.Join(save, momentsFile)); err != nil {
		return fileError("%w", err)
	}
	if err := r.trainer.Push(); err != nil {
		return err
	}
	if s, ok := r.trainer.(Scaled); ok && r.LossScale != nil {
		if err := s.SetLossScale(*r.LossScale); err != nil {
			return err
		}
	}
	if q, ok := r.trainer.(Quantized); ok {
		if err := q.SetAmax(r.Amax); err != nil {
			return err
		}
	}
	r.step, r.resumed, r.saved = state.Step, state.Step, state.Step
	r.loggedStep = r.step
	r.say("going on from %s, after step %d of %d", save, r.step, r.total)
	if r.total != r.Steps {
		r.say("the run was to have %d steps; from here on the learning rate follows a schedule of %d", r.Steps, r.total)
		r.Steps = r.total
	}
	return nil
}

func (r *run) mismatch(wrong []string) error {
	return fileError("%s was trained with other settings, so it cannot go on:\n  %s\nPut them back, or train in another folder",
		r.dir, strings.Join(wrong, "\n  "))
}

func (r *run) close() {
	if r.log != nil {
		if err := r.log.Close(); err != nil && !r.logFailed {
			r.say("warning: %v", err)
		}
	}
	if r.trainer != nil {
		if r.step > r.resumed { // the model has what was learned, also after an error
			if err := r.m.pull(r.trainer); err != nil {
				r.say("warning: %v", err)
			}
		}
		r.trainer.Close()
	}
	r.unlock()
}

// differences lists the settings that a run and a program do not share.
func differences(run, program []Setting) []string {
	find := func(list []Setting, path string) string {
		for _, s := range list {
			if s.Path == path {
				return s.Value
			}
		}
		return "nothing"
	}
	var out []string
	for _, s := range run {
		if now := find(program, s.Path); now != s.Value {
			out = append(out, fmt.Sprintf("%s: %s in the run, %s in the program", s.Path, s.Value, now))
		}
	}
	for _, s := range program {
		if find(run, s.Path) == "nothing" {
			out = append(out, fmt.Sprintf("%s: nothing in the run, %s in the program", s.Path, s.Value))
		}
	}
	return out
}

// save is the save that is due after a step.
func (r *run) save(evaluated bool) error {
	err := r.trySave(evaluated)
	if err == nil {
		r.failedSaves, r.saveFailed = 0, nil
		return nil
	}
	r.failedSaves++
	if r.failedSaves == maxFailedSaves {
		return fmt.Errorf("after step %d: %d saves in a row failed: %w", r.step, maxFailedSaves, err)
	}
	r.saveFailed = fmt.Errorf("after step %d: %w", r.step, err)
	if r.step < r.total {
		r.say("warning: %v; training goes on", r.saveFailed)
	}
	return nil
}

// trySave saves the run, and drops saves that are not to be kept.
func (r *run) trySave(evaluated bool) error {
	state := r.runState
	state.Elapsed = r.elapsed().Seconds()
	if s, ok := r.trainer.(Scaled); ok {
		scale, err := s.LossScale()
		if err != nil {
			return err
		}
		state.LossScale = scale
	}
	if q, ok := r.trainer.(Quantized); ok {
		amax, err := q.Amax()
		if err != nil {
			return err
		}
		state.Amax = amax
	}
	extra, err := json.Marshal(state)
	if err != nil {
		return err
	}
	s := checkpoint.State{
		Step: r.step, SpecHash: r.m.cfg.SpecHash, TokenizerHash: r.m.tokenizer.Hash(), DataHash: r.dataHash, Extra: extra,
	}
	if evaluated && r.m.cfg.Train.Save.Best {
		s.Metric, s.HasMetric = *r.EvalLoss, true
	}
	if err := r.m.pull(r.trainer); err != nil {
		return err
	}
	err = checkpoint.Save(r.dir, s, func(dir string) error {
		if err := r.m.writeFolder(dir); err != nil {
			return err
		}
		return weights.WriteTensors(filepath.Join(dir, momentsFile), r.moments(), nil)
	})
	if err != nil {
		return err
	}
	r.saved = r.step
	// The save is what counts. What else goes wrong here is told, and does no harm.
	for _, err := range []error{checkpoint.Prune(r.dir, r.m.cfg.Train.Save.Keep), r.log.Sync(), drawCurve(r.dir)} {
		if err != nil {
			r.say("warning: %v", err)
		}
	}
	return nil
}

// moments names the optimizer's state: two tensors a weight.
func (r *run) moments() []weights.Named {
	first, second := r.trainer.Moments()
	var out []weights.Named
	for _, w := range r.m.cfg.Weights {
		end := w.Offset + w.Size()
		out = append(out,
			weights.Named{Name: w.Name + ".first", Shape: w.Shape, Data: first[w.Offset:end]},
			weights.Named{Name: w.Name + ".second", Shape: w.Shape, Data: second[w.Offset:end]})
	}
	return out
}

func (r *run) loadMoments(path string) error {
	f, err := weights.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, t := range r.moments() {
		if got, ok := f.Tensor(t.Name); !ok || !slices.Equal(got.Shape, t.Shape) {
			return fmt.Errorf("%s: tensor %s of shape %v is not there", path, t.Name, t.Shape)
		}
		if err := f.Read(t.Name, t.Data); err != nil {
			return err
		}
	}
	return nil
}

// drawCurve draws the log of a run.
func drawCurve(dir string) error {
	records, err := telemetry.ReadLog(filepath.Join(dir, logFile))
	if err != nil {
		return err
	}
	return disk.WriteFile(disk.OS{}, filepath.Join(dir, curveFile), func(w io.Writer) error {
		return telemetry.CurveSVG(w, telemetry.Curves(records)...)
	})
}

// tunedFile says, in a run's folder or a model's, what was measured on the device and chosen.
const tunedFile = "tuned.json"

// newTrainer makes the training code, and says where it runs.
func (r *run) newTrainer() (err error) {
	r.m.tuned = filepath.Join(r.dir, tunedFile)
	if r.trainer, err = r.m.newTrainer(r.m.tuned); err != nil {
		return err
	}
	bytes := r.m.cfg.Memory.Train
	if s, ok := r.trainer.(Sized); ok {
		bytes = s.Bytes()
	}
	if bytes > 0 {
		r.say("memory: %.1f MiB for weights, gradients, moments and activations", float64(bytes)/(1<<20))
	}
	if r.m.whyCPU != nil && r.m.cfg.CUDA != nil {
		r.say("device: cpu (%v)", r.m.whyCPU)
	} else {
		r.say("device: %s", r.m.deviceName())
	}
	return nil
}
