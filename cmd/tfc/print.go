package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
)

func printCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "print SPEC",
		Short: "Print the program of a spec, as built or after a pass",
		Long: `Print the program of a spec: one function in the form that package ir documents. Every line says which line of the
spec it comes from, and which pass wrote it.

Without --after it is the program as built, before any pass.`,
		Example:           "  tfc print examples/specs/tiny.yaml --after fuse-qkv",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: specFiles,
	}
	p := pipelineFlags(c)
	after := c.Flags().String("after", "", "print it after this `pass`; tfc passes lists them")
	complete(c, "after", passNames())
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := load(args[0])
		if err != nil {
			return err
		}
		o, err := p.options(s)
		if err != nil {
			return err
		}
		f := ir.Build(s, p.job)
		if *after != "" {
			if passes.Named(*after) == nil {
				return noPass(*after)
			}
			if f, err = compile.Func(s, p.job, o, *after, nil); err != nil {
				return usage("%s: %w", args[0], err)
			}
		}
		_, err = fmt.Fprint(c.OutOrStdout(), ir.Print(f))
		return err
	}
	return c
}
