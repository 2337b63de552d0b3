package lm

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/tfc-dev/tfc/runtime/telemetry"
)

// TrainOptions says where a model is trained, and how far. The zero value trains in the folder runs/NAME, on the text
// and for the steps of the spec.
type TrainOptions struct {
	Run      string    // folder of saves, log and curve, made if missing; runs/NAME when empty
	Root     string    // folder that the data's paths start from; the current one when empty
	Data     []string  // patterns of files to learn from, instead of the spec's data
	Steps    int       // optimizer steps in all; 0: the spec's
	Progress io.Writer // shows how it goes; nil: nothing does
}

// TrainResult is what a call of Train came to.
type TrainResult struct {
	Run         string        // the run's folder
	Step        int           // steps learned, over all calls
	Steps       int           // steps that the run is to have
	Resumed     int           // step that this call went on from; 0 for a new run
	Interrupted bool          // ctx ended first: what was learned is saved, and the next Train goes on from there, if only with the last evaluation
	Loss        float64       // of the last step; NaN where this call took none
	EvalLoss    float64       // newest evaluation; NaN where there was none
	Tokens      int64         // learned from, over all calls
	Elapsed     time.Duration // spent learning, over all calls
	FirstStep   time.Duration // from the call to the end of its first step; 0 where it took none
}

// maxFailedSaves is how many saves in a row may fail before a run gives up: it stands to lose ever more.
const maxFailedSaves = 3

// Train learns from the data until the run has all its steps. A run that has saves goes on from the newest, whatever the
// model held before, and comes to the same weights bit for bit as one that was never stopped; it must be the same
// program on the same data with the same tokenizer and seed, otherwise the error (ErrFile) names what differs. Only the
// number of steps may change. Where ctx ends, the step at hand (and the one that a device has begun behind it) is finished
// and saved, and the result says so; that is not an error.
//
// The folder gets a save every Save.Every steps (see package checkpoint), log.jsonl with a line every LogEvery steps, and
// curve.svg. One process at a time may train in it. A step whose loss or gradient is not finite ends the run with an
// error that names it: nothing of that step is kept, and the newest save is from before it. A save that fails is
// reported, and the run goes on to the next one; the third in a row ends it with an error.
func (m *Model) Train(ctx context.Context, o TrainOptions) (TrainResult, error) {
	release, err := m.acquire()
	if err != nil {
		return TrainResult{}, err
	}
	defer release()
	begin := time.Now()
	r, err := m.openRun(ctx, o)
	if err != nil {
		return TrainResult{}, err
	}
	defer r.close()
	interrupted, err := r.train(ctx, begin)
	r.progress.Done()
	res := TrainResult{
		Run: r.dir, Step: r.step, Steps: r.total, Resumed: r.resumed, Interrupted: interrupted,
		Loss: math.NaN(), EvalLoss: r.evalLoss(), Tokens: int64(r.step) * r.tokensPerStep(),
		Elapsed: r.elapsed(), FirstStep: r.firstStep,
	}
	if r.firstStep > 0 {
		res.Loss = float64(r.loss)
	}
	return res, err
}

// train takes the steps that are left. What follows a step (evaluation, log, save) is done before the next one; a run
// that was stopped in between starts with it. A line of the log is written, and the last save made, though ctx has ended
// where that is all that follows: while a step is under way already, and after the last one.
func (r *run) train(ctx context.Context, begin time.Time) (interrupted bool, err error) {
	r.clock = time.Now()
	r.logged = r.clock
	for {
		if r.Pending && (ctx.Err() == nil || r.ahead || r.step == r.total && !r.evaluates(r.step)) {
			if err := r.report(ctx); err != nil && ctx.Err() == nil {
				return false, err
			}
		}
		if r.step >= r.total && !r.Pending {
			return false, r.saveFailed
		}
		if ctx.Err() != nil && !r.ahead {
			return true, r.interrupt()
		}
		if err := r.learn(ctx); err != nil {
			return false, err
		}
		if r.firstStep == 0 {
			r.firstStep = time.Since(begin)
			r.steady, r.steadyStep = time.Now(), r.step
			r.say("the first step took %s from the start", r.firstStep.Round(time.Millisecond))
		}
		r.show()
	}
}

// show brings the progress up to date.
func (r *run) show() {
	for _, n := range r.m.notes() {
		r.say("%s", n)
	}
	r.progress.Update(telemetry.Stats{Step: r.step, Steps: r.total, Loss: float64(r.loss), EvalLoss: r.evalLoss(), TokensPerSecond: r.speed()})
}

// learn takes one step. It allocates nothing.
func (r *run) learn(ctx context.Context) error {
	step := r.step + 1
	var loss, norm float32
	var err error
	if p, ok := r.trainer.(Pipelined); ok {
		loss, norm, err = r.overlap(ctx, p, step)
	} else {
		r.draw(step)
		loss, norm, err = r.trainer.Step(r.tokens, r.targets, r.params(step))
	}
	if err != nil {
		return fmt.Errorf("step %d: %w", step, err)
	}
	if !finite(loss) || !finite(norm) {
		from := "nothing is saved yet"
		if r.saved > 0 {
			from = fmt.Sprintf("the newest save is from step %d", r.saved)
		}
		return fmt.Errorf("step %d: the loss is %v and the norm of the gradient %v: training diverged, and the step was not kept; %s. "+
			"Lower train.optimizer's lr, lengthen the warm-up or set train.clip", step, loss, norm, from)
	}
	r.step, r.loss = step, loss
	r.GradNorm, r.LR = norm, r.rate(step)
	r.LossSum += float64(loss)
	r.LossCount++
	r.Pending = true
	return nil
}

// overlap finishes a step, and lets the next one start before: so the device has work while the host draws a batch and
// reads a loss. What an evaluation, a save or an interruption finds must be the step that it follows, so nothing runs ahead
// of those.
func (r *run) overlap(ctx context.Context, p Pipelined, step int) (loss, norm float32, err error) {
	if !r.ahead {
		r.draw(step)
		if err := p.Start(r.tokens, r.targets, r.params(step)); err != nil {
			return 0, 0, err
		}
	}
	r.ahead = !r.evaluates(step) && !r.saves(step) && ctx.Err() == nil
	if r.ahead {
		r.draw(step + 1)
		if err := p.Start(r.tokens, r.targets, r.params(step+1)); err != nil {
			return 0, 0, fmt.Errorf("starting the next one: %w", err)
		}
	}
	return p.Finish()
}

// draw fills in the batch of a step.
func (r *run) draw(step int) {
	t := &r.m.cfg.Train
	micro := t.MicroBatch * t.Context
	for i := range t.Batch / t.MicroBatch {
		r.loader.Batch(step, i, r.tokens[i*micro:][:micro], r.targets[i*micro:][:micro])
	}
}

func (r *run) params(step int) StepParams {
	return StepParams{LR: float32(r.rate(step)), Step: step, Seed: r.m.seed}
}

// rate is the learning rate of a step.
func (r *run) rate(step int) float64 {
	t := &r.m.cfg.Train
	return t.LR * rate(t.Schedule, step, r.total)
}

// saves and evaluates tell what follows a step.
func (r *run) saves(step int) bool { return step == r.total || step%r.m.cfg.Train.Save.Every == 0 }

func (r *run) evaluates(step int) bool {
	t := &r.m.cfg.Train
	return r.eval != nil && (step == r.total || step%t.Eval.Every == 0 || t.Save.Best && r.saves(step))
}

func finite(v float32) bool { return v-v == 0 }

// report does what follows a step. Where ctx ends while it evaluates, nothing is done and the step stays pending.
func (r *run) report(ctx context.Context) error {
	t := &r.m.cfg.Train
	save, evaluated := r.saves(r.step), r.evaluates(r.step)
	if evaluated {
		e, err := evaluate(ctx, r.trainer, r.eval, t.Eval.Batches)
		if err != nil {
			return fmt.Errorf("evaluate after step %d: %w", r.step, err)
		}
		r.EvalLoss = &e.Loss
		if r.firstStep > 0 {
			r.show()
		}
	}
	if evaluated || r.step == r.total || r.step == 1 || r.step%t.LogEvery == 0 {
		r.writeLog(evaluated)
	}
	r.Pending = false
	if !save {
		return nil
	}
	return r.save(evaluated)
}

// writeLog writes a line of the log. A log that cannot be written is no reason to end a run.
func (r *run) writeLog(evaluated bool) {
	now := time.Now()
	rec := telemetry.Record{
		Step: r.step, Loss: r.LossSum / float64(r.LossCount), GradNorm: float64(r.GradNorm), LR: r.LR, Elapsed: milli(r.elapsed().Seconds()),
	}
	if s := now.Sub(r.logged).Seconds(); s > 0 {
		rec.TokensPerSecond = milli(float64(int64(r.step-r.loggedStep)*r.tokensPerStep()) / s)
	}
	if evaluated {
		rec.EvalLoss = r.EvalLoss
	}
	if d, ok := r.m.device.(Monitored); ok {
		figures := d.Figures()
		rec.GPU = &figures
	}
	if err := r.log.Write(rec); err != nil && !r.logFailed {
		r.logFailed = true
		r.say("warning: %v; training goes on", err)
	}
	r.LossSum, r.LossCount = 0, 0
	r.logged, r.loggedStep = now, r.step
}

// milli rounds to thousandths.
func milli(v float64) float64 { return math.Round(v*1000) / 1000 }

// interrupt saves what was learned since the newest save.
func (r *run) interrupt() error {
	if r.step == r.saved {
		return nil
	}
	if err := r.trySave(false); err != nil {
		return fmt.Errorf("stopped after step %d, which could not be saved: %w", r.step, err)
	}
	return nil
}

func (r *run) say(format string, args ...any) { r.progress.Message(fmt.Sprintf(format, args...)) }

func (r *run) evalLoss() float64 {
	if r.EvalLoss == nil {
		return math.NaN()
	}
	return *r.EvalLoss
}

// elapsed is the time spent learning, over all parts of the run.
func (r *run) elapsed() time.Duration {
	return time.Duration(r.Elapsed*float64(time.Second)) + time.Since(r.clock)
}

func (r *run) tokensPerStep() int64 {
	t := &r.m.cfg.Train
	return int64(t.Batch) * int64(t.Context)
}

// speed is the tokens learned from in a second, since the end of the first step.
func (r *run) speed() float64 {
	s := time.Since(r.steady).Seconds()
	if r.step == r.steadyStep || s <= 0 {
		return 0
	}
	return float64(int64(r.step-r.steadyStep)*r.tokensPerStep()) / s
}
