package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/parser"
)

func presetsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "presets",
		Short:             "List the families of models that a spec can start from",
		Long:              "List the families of models that a spec can start from, with model.preset.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *asJSON {
			type row struct {
				Name string `json:"name"`
				Doc  string `json:"doc"`
			}
			var rows []row
			for _, p := range parser.Presets() {
				rows = append(rows, row(p))
			}
			return printJSON(c.OutOrStdout(), rows)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, p := range parser.Presets() {
			fmt.Fprintf(w, "%s\t%s\n", p.Name, p.Doc)
		}
		return w.Flush()
	}
	return c
}
