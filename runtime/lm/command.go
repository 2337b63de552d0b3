package lm

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// Exit codes of Main.
const (
	exitOK          = 0
	exitFailure     = 1  // something went wrong on the way: no memory, no disk, a diverged training
	exitUsage       = 2  // the command line, a prompt or a setting cannot be used
	exitFile        = 3  // weights, a save, a tokenizer or data cannot be used, or not together
	exitInterrupted = 75 // training was stopped by a signal; the same command goes on from there (EX_TEMPFAIL of sysexits.h)
)

// Main is the command of a generated package: it runs the command line and ends the process. The commands are
//
//	train      learn from the data in a run's folder, or go on there
//	eval       measure the loss on held-out text
//	generate   continue prompts
//	bench      measure how fast training and generation are on this machine; bench train and bench decode, where the time goes;
//	           with --peers, how fast PyTorch and llama.cpp are with the same model, where Python has them
//	tune       time the matrix products on the GPU anew, and keep the fastest
//
// and -h after any of them lists its flags. Results go to the standard output, with --json as JSON, progress and
// errors to the standard error.
//
// The exit code is 0 when all went well, 2 where the command line or a prompt cannot be used, 3 where files (weights,
// saves, a tokenizer, data) cannot be used or do not belong together, 75 where training was stopped by SIGINT or
// SIGTERM, and 1 after any other failure. The first signal lets training finish its step and save it, after which the
// same command goes on from there; a second one ends the process at once, and the run keeps its newest save.
func Main(cfg Config) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Fprintln(os.Stderr, "\nstopping after this step; once more stops at once")
		cancel()
		<-signals
		os.Exit(exitFailure)
	}()
	os.Exit(command(ctx, cfg, os.Args[1:], os.Stdout, os.Stderr))
}

// commands is what Main knows to do.
var commands = []struct {
	name, doc string
	run       func(c *call) error
}{
	{"train", "learn from the data in a run's folder, or go on there", (*call).train},
	{"eval", "measure the loss on held-out text", (*call).eval},
	{"generate", "continue prompts", (*call).generate},
	{"bench", "measure how fast training and generation are on this machine; bench train and bench decode, where the time goes", (*call).bench},
	{"tune", "time the matrix products on the GPU anew, and keep the fastest", (*call).tune},
}

// call is one run of the command.
type call struct {
	ctx            context.Context
	cfg            Config
	flags          *flag.FlagSet
	args           []string
	stdout, stderr io.Writer
	json           *bool
	device         *string
	model          *Model // nil until it is on its device
}

// errReported is an error whose text the user has seen.
var errReported = errors.New("reported")

// errInterrupted means that training was stopped and goes on when it is called again.
var errInterrupted = errors.New("interrupted")

// command runs a command line and returns the exit code.
func command(ctx context.Context, cfg Config, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				flags := flag.NewFlagSet(cfg.Name+" "+c.name, flag.ContinueOnError)
				do := &call{
					ctx: ctx, cfg: cfg, flags: flags, args: args[1:], stdout: stdout, stderr: stderr,
					json:   flags.Bool("json", false, "print the result as JSON"),
					device: flags.String("device", "auto", "`device` to work on: auto, cpu, cuda, or cuda:1 for the second GPU"),
				}
				err := c.run(do)
				if do.model != nil {
					for _, n := range do.model.notes() {
						fmt.Fprintf(stderr, "%s: %s\n", cfg.Name, n)
					}
				}
				return exitCode(err, cfg.Name, stderr)
			}
		}
	}
	out, code := stdout, exitOK
	switch {
	case len(args) == 0:
		out, code = stderr, exitUsage
	case args[0] != "-h" && args[0] != "--help" && args[0] != "-help" && args[0] != "help":
		out, code = stderr, exitUsage
		fmt.Fprintf(out, "%s: there is no command %q\n", cfg.Name, args[0])
	}
	fmt.Fprintf(out, "Usage: %s COMMAND [flags]\n\n", cfg.Name)
	for _, c := range commands {
		fmt.Fprintf(out, "  %-10s %s\n", c.name, c.doc)
	}
	fmt.Fprintf(out, "\n%s COMMAND -h lists the flags of a command.\n", cfg.Name)
	return code
}

func exitCode(err error, name string, stderr io.Writer) int {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errReported):
		return exitUsage
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	switch {
	case errors.Is(err, ErrInput):
		return exitUsage
	case errors.Is(err, ErrFile):
		return exitFile
	}
	return exitFailure
}

// parse reads the flags. What is left of the command line is an error.
func (c *call) parse() error {
	c.flags.SetOutput(c.stderr)
	for _, a := range c.args {
		if a == "-h" || a == "--help" || a == "-help" {
			c.flags.SetOutput(c.stdout)
		}
	}
	if err := c.flags.Parse(c.args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errReported // by the flag package, with the usage
	}
	if c.flags.NArg() > 0 {
		return inputError("%s takes no argument %q; see %s -h", c.flags.Name(), c.flags.Arg(0), c.flags.Name())
	}
	return nil
}

// repeated is a flag that may be given several times.
type repeated []string

func (t *repeated) String() string     { return strings.Join(*t, ", ") }
func (t *repeated) Set(s string) error { *t = append(*t, s); return nil }

func (c *call) runFlag() *string {
	return c.flags.String("run", runFolder(c.cfg), "`folder` of the run: its saves, log and curve")
}

func (c *call) dataFlags() (root *string, data *repeated) {
	root = c.flags.String("root", ".", "`folder` that the data's paths start from")
	data = new(repeated)
	c.flags.Var(data, "data", "`pattern` of text files, instead of the spec's data; may be given again")
	return root, data
}

// modelFlags returns what opens the model that eval and generate work with.
func (c *call) modelFlags() func() (*Model, error) {
	run := c.runFlag()
	dir := c.flags.String("model", "", "Hugging Face `folder` to open, instead of a run")
	best := c.flags.Bool("best", false, "open the run's save with the lowest evaluation loss, instead of the newest")
	return func() (*Model, error) {
		var m *Model
		var err error
		switch {
		case *dir != "" && *best:
			return nil, inputError("--best chooses among the saves of a run; it cannot be used with --model")
		case *dir != "":
			m, err = Open(c.cfg, *dir)
		case *best:
			m, err = OpenBest(c.cfg, *run)
		default:
			m, err = Open(c.cfg, *run)
		}
		return c.use(m, err)
	}
}

// use puts a model on the device that the command line names.
func (c *call) use(m *Model, err error) (*Model, error) {
	if err != nil {
		return nil, err
	}
	if err := m.Use(*c.device); err != nil {
		return nil, err
	}
	c.model = m
	return m, nil
}

func (c *call) printJSON(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (c *call) train() error {
	run := c.runFlag()
	root, data := c.dataFlags()
	steps := c.flags.Int("steps", 0, "optimizer steps in all (default: the spec's)")
	seed := c.flags.Uint64("seed", c.cfg.Train.Seed, "seed of weights, data order and dropout")
	dir := c.flags.String("model", "", "Hugging Face `folder` whose weights and tokenizer a new run starts from")
	if err := c.parse(); err != nil {
		return err
	}
	begin := func() (*Model, error) { return New(c.cfg, *seed) }
	if *dir != "" {
		begin = func() (*Model, error) { return Open(c.cfg, *dir) }
	}
	m, err := begin()
	if m, err = c.use(m, err); err != nil {
		return err
	}
	defer m.Close()
	m.seed = *seed
	res, err := m.Train(c.ctx, TrainOptions{Run: *run, Root: *root, Data: *data, Steps: *steps, Progress: c.stderr})
	if errors.Is(err, context.Canceled) && c.ctx.Err() != nil {
		fmt.Fprintf(c.stderr, "%s: stopped before the first step: there is nothing new to save\n", c.cfg.Name)
		return errInterrupted
	}
	if err != nil {
		return err
	}
	if *c.json {
		err = c.printJSON(struct {
			Run         string   `json:"run"`
			Step        int      `json:"step"`
			Steps       int      `json:"steps"`
			Resumed     int      `json:"resumed"`
			Interrupted bool     `json:"interrupted"`
			Loss        *float64 `json:"loss"`
			EvalLoss    *float64 `json:"eval_loss"`
			Tokens      int64    `json:"tokens"`
			Elapsed     float64  `json:"elapsed"`
			FirstStep   float64  `json:"first_step"`
		}{res.Run, res.Step, res.Steps, res.Resumed, res.Interrupted, number(res.Loss), number(res.EvalLoss), res.Tokens,
			res.Elapsed.Seconds(), res.FirstStep.Seconds()})
	} else {
		_, err = fmt.Fprintln(c.stdout, res)
	}
	if err == nil && res.Interrupted {
		err = errInterrupted
	}
	return err
}

// number is nil for what JSON cannot hold.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// String says it in a line.
func (r TrainResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of %d steps", r.Run, r.Step, r.Steps)
	if !math.IsNaN(r.Loss) {
		fmt.Fprintf(&b, ", loss %.4f", r.Loss)
	}
	if !math.IsNaN(r.EvalLoss) {
		fmt.Fprintf(&b, ", eval loss %.4f", r.EvalLoss)
	}
	switch {
	case r.Interrupted && r.Step == r.Steps:
		b.WriteString("; complete and saved, but for the last evaluation: the same command makes up for it")
	case r.Interrupted:
		b.WriteString("; stopped and saved: the same command goes on from here")
	}
	return b.String()
}

func (c *call) eval() error {
	open := c.modelFlags()
	root, data := c.dataFlags()
	batches := c.flags.Int("batches", 0, "micro-batches to evaluate, at most; 0: all")
	compare := c.flags.Bool("weights", false, "say what the type of the weights that generation reads costs, on the CPU: the logits' error, and the loss token by token")
	if err := c.parse(); err != nil {
		return err
	}
	m, err := open()
	if err != nil {
		return err
	}
	defer m.Close()
	if *compare {
		return c.evalWeights(m, EvalOptions{Root: *root, Data: *data, Batches: *batches})
	}
	res, err := m.Evaluate(c.ctx, EvalOptions{Root: *root, Data: *data, Batches: *batches})
	if err != nil {
		return err
	}
	if *c.json {
		return c.printJSON(struct {
			Loss       float64  `json:"loss"`
			Perplexity *float64 `json:"perplexity"`
			Tokens     int64    `json:"tokens"`
		}{res.Loss, number(res.Perplexity), res.Tokens})
	}
	_, err = fmt.Fprintf(c.stdout, "loss %.4f, perplexity %.4g, over %d tokens\n", res.Loss, res.Perplexity, res.Tokens)
	return err
}

func (c *call) evalWeights(m *Model, o EvalOptions) error {
	r, err := m.EvaluateWeights(c.ctx, o)
	if err != nil {
		return err
	}
	if *c.json {
		return c.printJSON(struct {
			Weights    string   `json:"weights"`
			Tokens     int64    `json:"tokens"`
			Loss       float64  `json:"loss"`
			Perplexity *float64 `json:"perplexity"`
			F32Loss    float64  `json:"f32_loss"`
			F32        *float64 `json:"f32_perplexity"`
			LogitError float64  `json:"logit_error"`
		}{r.Weights, r.Tokens, r.Generation.Loss, number(r.Generation.Perplexity), r.Trained.Loss, number(r.Trained.Perplexity), r.LogitError})
	}
	_, err = fmt.Fprintln(c.stdout, r)
	return err
}

func (c *call) generate() error {
	d := c.cfg.Generate.Options
	open := c.modelFlags()
	var o GenerateOptions
	var prompts repeated
	c.flags.Var(&prompts, "prompt", "`text` to continue; may be given again (default: the spec's prompts)")
	c.flags.IntVar(&o.MaxNewTokens, "max-new-tokens", d.MaxNewTokens, "tokens to write, at most; 0: as many as the context holds")
	c.flags.Float64Var(&o.Temperature, "temperature", d.Temperature, "divides the logits; 0: always the likeliest token")
	c.flags.IntVar(&o.TopK, "top-k", d.TopK, "only the so many likeliest tokens; 0: all")
	c.flags.Float64Var(&o.TopP, "top-p", d.TopP, "only the likeliest tokens that hold this probability; 1: all")
	c.flags.Uint64Var(&o.Seed, "seed", d.Seed, "seed of the draws")
	n := c.flags.Int("n", 1, "continuations of each prompt")
	if err := c.parse(); err != nil {
		return err
	}
	if *n < 1 {
		return inputError("-n is %d; it must be at least 1", *n)
	}
	if err := o.check(); err != nil {
		return err
	}
	if len(prompts) == 0 {
		prompts = c.cfg.Generate.Prompts
	}
	if len(prompts) == 0 {
		prompts = repeated{""}
	}
	m, err := open()
	if err != nil {
		return err
	}
	defer m.Close()
	if len(prompts) == 1 && *n == 1 && !*c.json {
		return c.stream(m, prompts[0], o)
	}
	all := make([]string, 0, len(prompts)*(*n))
	for _, p := range prompts {
		for range *n {
			all = append(all, p)
		}
	}
	out, err := m.GenerateBatch(c.ctx, all, o)
	for i, a := range out {
		if a.Stop == "" {
			continue // not finished
		}
		if *c.json {
			err = errors.Join(err, c.printJSON(struct {
				Prompt string `json:"prompt"`
				Text   string `json:"text"`
				Tokens int    `json:"tokens"`
				Stop   Stop   `json:"stop"`
			}{all[i], a.Text, len(a.Tokens), a.Stop}))
			continue
		}
		if i > 0 {
			fmt.Fprintln(c.stdout, "---")
		}
		_, werr := fmt.Fprintln(c.stdout, all[i]+a.Text)
		err = errors.Join(err, werr)
	}
	return err
}

// stream writes one continuation as it comes.
func (c *call) stream(m *Model, prompt string, o GenerateOptions) error {
	if _, err := io.WriteString(c.stdout, prompt); err != nil {
		return err
	}
	for piece, err := range m.Stream(c.ctx, prompt, o) {
		if err == nil {
			_, err = io.WriteString(c.stdout, piece)
		}
		if err != nil {
			fmt.Fprintln(c.stdout)
			return err
		}
	}
	_, err := fmt.Fprintln(c.stdout)
	return err
}

func runFolder(cfg Config) string { return filepath.Join("runs", cfg.Name) }
