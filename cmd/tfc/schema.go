package main

import (
	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/parser"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of specs, for editors",
		Long: `Print the JSON Schema (draft 2020-12) of specs, by which editors complete and check them. With the YAML language server:

  tfc schema > tfc.schema.json

and, as the first line of a spec,

  # yaml-language-server: $schema=tfc.schema.json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(parser.Schema())
			return err
		},
	}
}
