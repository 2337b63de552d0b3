package main

import "github.com/spf13/cobra"

func tuneCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tune SPEC",
		Short: "Time the matrix products of a spec on the GPU anew, and keep the fastest",
		Long: `Build the package of a spec, as tfc run does, and time all matrix products that its training and generation make, each by
the algorithms that cuBLASLt proposes. The fastest are kept for this machine, and with --run for a run or a model folder too;
what each took is shown beside the first proposal, which is taken where nothing is timed.

It is not needed: a product that this machine has not made before is timed at its first use. It is for a machine that was
busy then.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: specFiles,
	}
	run := c.Flags().String("run", "", "`folder` of a run or a model whose choices are made anew too: its results may change in their last bits")
	device := c.Flags().String("device", "auto", "`device` to time on: auto, cuda, or cuda:1 for the second GPU")
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := load(args[0])
		if err != nil {
			return err
		}
		dir, err := scratch(s.Name)
		if err != nil {
			return err
		}
		program, err := buildProgram(c, s, args[0], dir)
		if err != nil {
			return err
		}
		tune := []string{"tune", "--device", *device}
		if *run != "" {
			tune = append(tune, "--run", *run)
		}
		if *asJSON {
			tune = append(tune, "--json")
		}
		return follow(c, program, tune...)
	}
	return c
}
