package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// pipeline holds the flags that choose how a spec is compiled.
type pipeline struct {
	job, target string
	off         []string
}

func pipelineFlags(c *cobra.Command) *pipeline {
	p := &pipeline{}
	c.Flags().StringVar(&p.job, "job", "train", "function: "+strings.Join(ir.Jobs, ", "))
	c.Flags().StringVar(&p.target, "target", "cpu", "machine: "+strings.Join(targetNames(), ", "))
	c.Flags().StringSliceVar(&p.off, "off", nil, "`passes` to leave out, separated by commas")
	complete(c, "job", ir.Jobs)
	complete(c, "target", targetNames())
	complete(c, "off", passNames())
	return p
}

// options turns the flags into what the passes need to know.
func (p *pipeline) options(s *spec.Spec) (passes.Options, error) {
	var none passes.Options
	if !slices.Contains(ir.Jobs, p.job) {
		return none, usage("there is no job %q: %s", p.job, strings.Join(ir.Jobs, ", "))
	}
	target := ir.TargetNamed(p.target)
	if target == nil {
		return none, usage("there is no target %q: %s", p.target, strings.Join(targetNames(), ", "))
	}
	o := passes.OptionsFor(s, target)
	o.Off = map[string]bool{}
	for _, name := range p.off {
		switch pass := passes.Named(name); {
		case pass == nil:
			return none, noPass(name)
		case pass.Required:
			return none, usage("pass %s is required; it cannot be switched off", name)
		}
		o.Off[name] = true
	}
	return o, nil
}

func noPass(name string) error {
	return usage("there is no pass %q: %s", name, strings.Join(passNames(), ", "))
}

func targetNames() (names []string) {
	for _, t := range ir.Targets {
		names = append(names, t.Name)
	}
	return names
}

func passNames() (names []string) {
	for _, p := range passes.Pipeline {
		names = append(names, p.Name)
	}
	return names
}

// complete lets shells complete the values of a flag.
func complete(c *cobra.Command, flag string, values []string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // no such flag
	}
}
