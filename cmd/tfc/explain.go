package main

import (
	"fmt"
	"io"
	"os"
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
multiply-add is two), kernels launched, and the time predicted from the target's rates. Then the memory plan, by category
and by buffer. With --svg, also draw the plan: buffers over time and address.`,
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
	return memory(out, &r.Memory)
}

// memory writes the memory plan.
func memory(out io.Writer, m *compile.Memory) error {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "memory\tbytes\t\t")
	for _, part := range []struct {
		name  string
		bytes int
	}{{"weights", m.Weights}, {"gradients", m.Gradients}, {"moments", m.Moments}, {"key-value cache", m.Cache}, {"arena", m.Arena}, {"in all", m.Total}} {
		if part.bytes > 0 {
			fmt.Fprintf(w, "%s\t%d\t%s\t\n", part.name, part.bytes, compile.FormatBytes(part.bytes))
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
