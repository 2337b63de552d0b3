package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/passes"
)

func passesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "passes",
		Short:             "List the passes in their order",
		Long:              "List the passes in their order. Those marked required cannot be switched off with --off.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *asJSON {
			type row struct {
				Name     string   `json:"name"`
				Doc      string   `json:"doc"`
				After    []string `json:"after"` // passes that must stand earlier
				Required bool     `json:"required"`
			}
			var rows []row
			for _, p := range passes.Pipeline {
				rows = append(rows, row{p.Name, p.Doc, append([]string{}, p.After...), p.Required})
			}
			return printJSON(c.OutOrStdout(), rows)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, p := range passes.Pipeline {
			required := ""
			if p.Required {
				required = "required"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, required, p.Doc)
		}
		return w.Flush()
	}
	return c
}
