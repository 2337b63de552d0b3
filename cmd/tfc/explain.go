package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain SPEC",
		Short: "Show what each pass did and bought, and where the memory goes",
		Long: `Show what each pass did to one function of a spec, and what that changed: bytes moved, floating-point operations (a
multiply-add is two), kernels launched, and the time predicted from the target's rates. Then the memory: on a GPU all that the
runtime allocates to train, or to generate; and the plan of the arena, by category and by buffer. For a GPU, last, what each op
launches there: kernels with their blocks and shared memory, and matrix products. With --svg, also draw the plan: buffers over
time and address.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: specFiles,
	}
	p := pipelineFlags(c)
	svg := c.Flags().String("svg", "", "draw the memory plan into this `file`")
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := load(args[0])
		if err != nil {
			return err
		}
		o, err := p.options(s)
		if err != nil {
			return err
		}
		r, err := compile.Explain(s, p.job, o)
		if err != nil {
			return usage("%s: %w", args[0], err)
		}
		if *svg != "" {
			f, err := os.Create(*svg)
			if err != nil {
				return &exit{exitFile, err}
			}
			err = compile.MemorySVG(f, r)
			if closed := f.Close(); err == nil {
				err = closed
			}
			if err != nil {
				return err
			}
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), r)
		}
		return explain(c.OutOrStdout(), r, o.Target)
	}
	return c
}

// explain writes a report for people.
func explain(out io.Writer, r *compile.Report, target *ir.Target) error {
	fmt.Fprintf(out, "%s %s on %s (%s, %s)\n\n", r.Name, r.Job, r.Target, compile.FormatRate(target.FLOPs, "FLOP"), compile.FormatRate(target.Bandwidth, "B"))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "pass\trewrites\tbytes moved\tFLOPs\tlaunches\tpredicted\t")
	row := func(name, rewrites string, c compile.Cost, sign string) {
		show := func(v float64, text string) string {
			if sign != "" && v == 0 {
				return "."
			}
			if v > 0 {
				return sign + text
			}
			return text
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", name, rewrites, show(c.Bytes, compile.FormatBytes(c.Bytes)), show(c.FLOPs, compile.FormatFLOPs(c.FLOPs)),
			show(c.Launches, fmt.Sprintf("%.0f", c.Launches)), show(c.Seconds, compile.FormatSeconds(c.Seconds)))
	}
	row("as built", "", r.Built, "")
	for _, s := range r.Passes {
		row(s.Pass, fmt.Sprint(s.Rewrites), s.Change, "+")
	}
	row("in the end", "", r.Final, "")
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Left) > 0 {
		fmt.Fprintf(out, "\nnot in fp8\n  %s\n", strings.Join(r.Left, "\n  "))
	}
	if err := memory(out, &r.Memory); err != nil {
		return err
	}
	return launches(out, r.Launches)
}

// launches writes what a GPU is given to do.
func launches(out io.Writer, list []compile.Launch) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "op\ttimes\tlaunch\tgrid\tthreads\tshared memory")
	for _, l := range list {
		fmt.Fprintf(w, "%s\t%.4g\t", l.Op, l.Times)
		switch {
		case l.Product != "":
			fmt.Fprintf(w, "product %s\t\t\t\n", l.Product)
		case l.Clear > 0:
			fmt.Fprintf(w, "%s to zero\t\t\t\n", compile.FormatBytes(l.Clear))
		default:
			shared := "."
			if l.Shared > 0 {
				shared = compile.FormatBytes(l.Shared)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", strings.Join(l.Kernels, " or "), strings.Join(l.Grid, " × "), l.Threads, shared)
		}
	}
	return w.Flush()
}

// memory writes the memory plan.
func memory(out io.Writer, m *compile.Memory) error {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "memory\tbytes\t\t")
	parts := []compile.Held{{Name: "weights", Bytes: m.Weights}, {Name: "gradients", Bytes: m.Gradients}, {Name: "moments", Bytes: m.Moments},
		{Name: "key-value cache", Bytes: m.Cache}, {Name: "arena", Bytes: m.Arena}}
	for _, part := range append(append(parts, m.Beside...), compile.Held{Name: "in all", Bytes: m.Total}) {
		if part.Bytes > 0 {
			fmt.Fprintf(w, "%s\t%d\t%s\t\n", part.Name, part.Bytes, compile.FormatBytes(part.Bytes))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "arena by category\tbuffers\tbytes, some shared\tat its fullest\t")
	for _, c := range m.Categories {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t\n", c.Name, c.Buffers, compile.FormatBytes(c.Bytes), compile.FormatBytes(c.Peak))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "arena by buffer\tslots\tbytes\toffset\tops\tcategory\t")
	for _, b := range m.Buffers {
		fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d-%d\t%s\t\n", b.Name, b.Slots, compile.FormatBytes(b.Bytes), b.Offset, b.First, b.Last, b.Category)
	}
	return w.Flush()
}
