package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/gomod"
)

func versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "version",
		Short:             "Print the version of tfc",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		v := struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
			Revision string `json:"revision,omitempty"` // of the checkout it was built from
			Modified bool   `json:"modified,omitempty"` // with changes beside
		}{Version: gomod.Self().Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, s := range info.Settings {
				switch s.Key {
				case "vcs.revision":
					v.Revision = s.Value
				case "vcs.modified":
					v.Modified = s.Value == "true"
				}
			}
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), v)
		}
		revision := ""
		if v.Revision != "" {
			revision = " " + v.Revision[:min(12, len(v.Revision))]
			if v.Modified {
				revision += " (modified)"
			}
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "tfc %s%s, %s %s\n", v.Version, revision, v.Go, v.Platform)
		return err
	}
	return c
}
