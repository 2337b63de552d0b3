package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check SPEC...",
		Short: "Check specs, and show everything wrong with its place",
		Long: `Check specs: everything that can be wrong with their text, and whether the programs fit the memory they are given.

Errors are shown with their lines. With --json the result is a list with an entry a spec:
{"file", "ok", "name", "parameters", "train_bytes", "errors": [{"file", "line", "col", "text", "suggestion", "notes"}]}.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: specFiles,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		results := make([]checked, len(args))
		ok := true
		for i, file := range args {
			results[i] = check(file)
			ok = ok && results[i].OK
			if !*asJSON {
				results[i].show(c.OutOrStdout(), c.ErrOrStderr())
			}
		}
		if *asJSON {
			if err := printJSON(c.OutOrStdout(), results); err != nil {
				return err
			}
		}
		if !ok {
			return &exit{code: exitUsage}
		}
		return nil
	}
	return c
}

// checked is what check found in one file.
type checked struct {
	File       string  `json:"file"`
	OK         bool    `json:"ok"`
	Name       string  `json:"name,omitempty"`
	Parameters int     `json:"parameters,omitempty"`
	TrainBytes int     `json:"train_bytes,omitempty"` // memory that training holds
	Errors     []wrong `json:"errors"`

	explained string
}

// wrong is one error of a spec.
type wrong struct {
	File       string `json:"file"`
	Line       int    `json:"line"`
	Col        int    `json:"col"`
	Text       string `json:"text"`
	Suggestion string `json:"suggestion,omitempty"`
	Notes      []note `json:"notes,omitempty"`
}

// note is a second place that matters.
type note struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"col"`
	Text string `json:"text"`
}

func check(file string) checked {
	r := checked{File: file, Errors: []wrong{}}
	s, err := parser.Load(file)
	fail := func(err error) checked {
		var errs spec.Errors
		if !errors.As(err, &errs) {
			r.Errors = append(r.Errors, wrong{File: file, Text: err.Error()})
			r.explained = fmt.Sprintf("%s: %v\n", file, err)
			return r
		}
		for _, e := range errs {
			w := wrong{e.Pos.File, e.Pos.Line, e.Pos.Col, e.Text, e.Suggestion, nil}
			for _, n := range e.Notes {
				w.Notes = append(w.Notes, note{n.Pos.File, n.Pos.Line, n.Pos.Col, n.Text})
			}
			r.Errors = append(r.Errors, w)
		}
		r.explained = errs.Explain(s.Source)
		return r
	}
	if err != nil {
		return fail(err)
	}
	arena := 0 // of training and its evaluations
	for _, job := range ir.Jobs {
		report, err := compile.Explain(s, job, passes.OptionsFor(s, ir.TargetNamed("cpu")))
		if err != nil {
			return fail(err)
		}
		switch m := report.Memory; job {
		case "train":
			r.TrainBytes, arena = m.Total, m.Arena
		case "eval": // in the same arena, unless it needs a larger one
			r.TrainBytes += max(0, m.Arena-arena)
		}
	}
	if slices.Contains(s.Target.Devices, "cuda") { // where a budget has more to hold
		if _, err := compile.Func(s, "train", passes.OptionsFor(s, ir.TargetNamed(s.Target.Arch[0])), "", nil); err != nil {
			return fail(err)
		}
	}
	r.OK, r.Name, r.Parameters = true, s.Name, s.Model.Parameters()
	return r
}

func (r checked) show(stdout, stderr io.Writer) {
	if !r.OK {
		fmt.Fprint(stderr, r.explained)
		return
	}
	fmt.Fprintf(stdout, "%s: ok: %d parameters; training holds %s\n", r.File, r.Parameters, compile.FormatBytes(r.TrainBytes))
}
