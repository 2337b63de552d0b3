package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/peer"
	"github.com/tfc-dev/tfc/spec"
)

func benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench [SPEC...]",
		Short: "Build the packages of specs, and measure how fast they train and decode",
		Long: `Build the packages of specs, and run bench train and bench decode of each: how long a step takes, how many tokens that is a
second and how close the step comes to its floor (the time that its kernels' bytes and FLOPs take at the rates of this
machine, measured now) and to the rate of its matrix products (MFU). bench train of a package itself says it kernel by
kernel, and bench cpu what the processor reaches, too.

Without specs: those of examples/specs whose training fits the memory that there is. The packages lie in .tfc, as those of
tfc run. With --json the result is a list with an entry a spec, of times in milliseconds and in microseconds. --peers is that of
bench train and bench decode: the fastest of PyTorch and llama.cpp stands beside each, with how many times as long it takes.`,
		Example:           "  tfc bench examples/specs/tiny.yaml",
		ValidArgsFunction: specFiles,
	}
	device := c.Flags().String("device", "auto", "`device` to work on: auto, cpu, cuda, or cuda:1 for the second GPU")
	steps := c.Flags().Int("steps", 0, "optimizer steps to time (default: the package's)")
	peers := c.Flags().Bool("peers", false, "measure the same models in PyTorch and llama.cpp too, where Python (TFC_PYTHON, or PATH's python3) has them")
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *steps < 0 {
			return usage("--steps is %d; it must be positive", *steps)
		}
		if *peers {
			if _, err := peer.Python(); err != nil {
				return usage("--peers: %v", err)
			}
		}
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		specs, err := benchSpecs(c, args, *device == "cpu")
		if err != nil {
			return err
		}
		failed := 0
		results := make([]benched, len(specs))
		for i, s := range specs {
			r := &results[i]
			r.Spec, r.Name = s.Source.File, s.Name
			flags := []string{"--json", "--device", *device}
			if *peers {
				flags = append(flags, "--peers")
			}
			train, decode := append([]string{"bench", "train"}, flags...), append([]string{"bench", "decode"}, flags...)
			if *steps > 0 {
				train = append(train, "--steps", strconv.Itoa(*steps))
			}
			err := r.measure(c, s, train, decode)
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			if err != nil {
				failed++
				r.Error = err.Error()
				fmt.Fprintf(c.ErrOrStderr(), "%s: %v\n", s.Name, err)
			}
		}
		if *asJSON {
			err = printJSON(c.OutOrStdout(), results)
		} else {
			err = showBenched(c.OutOrStdout(), results, *peers)
		}
		if err == nil && failed > 0 {
			err = fmt.Errorf("%d of %d specs could not be measured", failed, len(results))
		}
		return err
	}
	return c
}

// benchSpecs loads the files or, where there are none, the examples whose training fits the memory there is.
func benchSpecs(c *cobra.Command, files []string, cpu bool) (specs []*spec.Spec, err error) {
	named := len(files) > 0
	if !named {
		if files, err = filepath.Glob("examples/specs/*.yaml"); err != nil || len(files) == 0 {
			return nil, usage("there are no specs in examples/specs: name those to measure")
		}
	}
	memory := memorySize("/proc/meminfo")
	gpus, err := cuda.Devices()
	gpu := !cpu && err == nil && len(gpus) > 0
	if gpu {
		memory = int64(gpus[0].Memory)
	}
	for _, file := range files {
		s, err := load(file)
		if err != nil {
			return nil, err
		}
		target := ir.TargetNamed("cpu")
		if gpu && len(s.Target.Arch) > 0 {
			target = ir.TargetNamed(s.Target.Arch[0])
		}
		if !named && memory > 0 {
			report, err := compile.Explain(s, "train", passes.OptionsFor(s, target))
			if err != nil {
				return nil, packageError(file, err)
			}
			if int64(report.Memory.Total) > memory {
				fmt.Fprintf(c.ErrOrStderr(), "%s: left out: training holds %s, of %s\n", s.Name, compile.FormatBytes(report.Memory.Total), compile.FormatBytes(memory))
				continue
			}
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// benched is what tfc bench found of one spec.
type benched struct {
	Spec   string      `json:"spec"`
	Name   string      `json:"name"`
	Error  string      `json:"error,omitempty"`
	Train  *benchedJob `json:"train,omitempty"`
	Decode *benchedJob `json:"decode,omitempty"`
}

// benchedJob is what bench of a package says of whole steps; what only a profile tells is 0 without one.
type benchedJob struct {
	Device  string  `json:"device"`
	Tokens  int     `json:"tokens"` // of a step
	Median  float64 `json:"median_ms"`
	Speed   float64 `json:"tokens_per_second"`
	Step    float64 `json:"step_us"`
	Kernels float64 `json:"kernels_us"`
	Gaps    float64 `json:"gaps_us"`
	Floor   float64 `json:"floor_us"`
	MFU     float64 `json:"mfu"`

	Peers []benchedPeer `json:"peers,omitempty"`
}

// benchedPeer is what bench of a package says of a peer.
type benchedPeer struct {
	Peer    string  `json:"peer"`
	Missing string  `json:"missing,omitempty"` // why nothing was measured
	Version string  `json:"version,omitempty"`
	Start   float64 `json:"start_s,omitempty"`
	Median  float64 `json:"median_ms,omitempty"`
	Speed   float64 `json:"tokens_per_second,omitempty"`
	Peak    int64   `json:"peak_bytes,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"` // of its median to ours
}

// measure builds the package of s and runs its command with the arguments of bench train and bench decode.
func (b *benched) measure(c *cobra.Command, s *spec.Spec, train, decode []string) error {
	dir, err := scratch(s.Name)
	if err != nil {
		return err
	}
	program, err := buildProgram(c, s, s.Source.File, dir)
	if err != nil {
		return err
	}
	for _, job := range []struct {
		to   **benchedJob
		args []string
	}{{&b.Train, train}, {&b.Decode, decode}} {
		fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", s.Name, job.args[1])
		var out bytes.Buffer
		if err := followTo(c, &out, program, job.args...); err != nil {
			var e *exit
			if errors.As(err, &e) && e.err == nil {
				return fmt.Errorf("bench %s ended with the exit code %d", job.args[1], e.code)
			}
			return err
		}
		if *job.to, err = readBench(&out, job.args[1]); err != nil {
			return fmt.Errorf("bench %s: %w", job.args[1], err)
		}
	}
	return nil
}

// readBench reads the lines that bench --json of a package prints.
func readBench(r io.Reader, job string) (*benchedJob, error) {
	var found *benchedJob
	for d := json.NewDecoder(r); ; {
		var line json.RawMessage
		if err := d.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		var what struct {
			What string `json:"what"`
		}
		if err := json.Unmarshal(line, &what); err != nil {
			return nil, err
		}
		switch {
		case what.What == job:
			found = &benchedJob{}
		case what.What == "peer" && found != nil:
			var p benchedPeer
			if err := json.Unmarshal(line, &p); err != nil {
				return nil, err
			}
			found.Peers = append(found.Peers, p)
			continue
		case what.What != "step" || found == nil:
			continue
		}
		if err := json.Unmarshal(line, found); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, errors.New("it says nothing")
	}
	return found, nil
}

// showBenched prints a line a spec.
func showBenched(out io.Writer, all []benched, peers bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	beside := func(text string) string {
		if !peers {
			return ""
		}
		return text + "\t"
	}
	fmt.Fprintf(w, "train ms\ttokens/s\tMFU\tfloor\t%sdecode ms\ttokens/s\tfloor\t%s  spec, device\n", beside("fastest peer"), beside("fastest peer"))
	for _, b := range all {
		train, decode, device := b.Train, b.Decode, ""
		if train != nil {
			device = train.Device
		}
		if b.Error != "" {
			device = b.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\t%s\t%s\t%s  %s, %s\n",
			train.cell("%.4g", func(j *benchedJob) float64 { return j.Median }), train.cell("%.4g", func(j *benchedJob) float64 { return j.Speed }),
			train.cell("%.1f%%", func(j *benchedJob) float64 { return 100 * j.MFU }), train.cell("%.0f%%", (*benchedJob).ofFloor), beside(train.fastest()),
			decode.cell("%.4g", func(j *benchedJob) float64 { return j.Median }), decode.cell("%.4g", func(j *benchedJob) float64 { return j.Speed }),
			decode.cell("%.0f%%", (*benchedJob).ofFloor), beside(decode.fastest()), b.Name, device)
	}
	return w.Flush()
}

// fastest names the fastest peer and how many times as long it takes, a dash where there is none.
func (j *benchedJob) fastest() string {
	text, least := "-", 0.0
	if j != nil {
		for _, p := range j.Peers {
			if p.Missing == "" && (least == 0 || p.Ratio < least) {
				text, least = fmt.Sprintf("%.2f x, %s", p.Ratio, p.Peer), p.Ratio
			}
		}
	}
	return text
}

// ofFloor is how many percent of the step its floor is, 0 where it is not known.
func (j *benchedJob) ofFloor() float64 {
	if j.Step == 0 {
		return 0
	}
	return 100 * j.Floor / j.Step
}

// cell prints a number, a dash where there is none.
func (j *benchedJob) cell(format string, number func(*benchedJob) float64) string {
	if j == nil || number(j) == 0 {
		return "-"
	}
	return fmt.Sprintf(format, number(j))
}
