package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/folder"
	"github.com/tfc-dev/tfc/cmd/tfc/internal/gomod"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"

	// So that a module that has tfc as a tool requires, by that alone, all that packages import.
	_ "github.com/tfc-dev/tfc/runtime/gpu"
	_ "github.com/tfc-dev/tfc/runtime/lm"
)

func buildCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "build SPEC",
		Short: "Write the Go package of a spec",
		Long: `Write the Go package of a spec: its API, its code, and a command under cmd/.

Inside a Go module the package joins it, so that a line such as

  //go:generate go tool tfc build model.yaml

works; elsewhere a go.mod is written, with which it builds as it stands. The folder gets all files or none. Files of an
earlier build that are not needed any more are removed; files that were edited since are an error, unless --force
overwrites them.`,
		Example:           "  tfc build examples/specs/stories.yaml -o ./stories",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: specFiles,
	}
	dir := c.Flags().StringP("output", "o", "", "`folder` of the package (default: ./ and its name)")
	only := c.Flags().Bool("check", false, "write nothing; fail where the folder is not as a build would leave it")
	force := c.Flags().Bool("force", false, "overwrite files that were edited")
	c.MarkFlagsMutuallyExclusive("check", "force")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := load(args[0])
		if err != nil {
			return err
		}
		if *dir == "" {
			*dir = s.Name
		}
		tool := gomod.Self()
		place, err := tool.Find(*dir, s.Name)
		if err != nil {
			return &exit{exitFile, err}
		}
		var module []gogen.File
		if place.Root == "" {
			if _, module, err = tool.Standalone(s.Name); err != nil {
				return err
			}
		}
		generate := func(fatbin compile.Fatbin) ([]gogen.File, error) {
			files, err := compile.Package(s, place.ImportPath, tool.Version, fatbin)
			if err != nil {
				return nil, packageError(args[0], err)
			}
			return append(files, module...), nil
		}
		kept := ""
		if *only {
			kept = *dir
		} else { // that the folder takes the package is known before nvcc works for a minute
			files, err := generate(held(*dir))
			if err == nil {
				err = folder.Check(*dir, s.Name, files, *force)
			}
			if err != nil {
				return err
			}
		}
		files, err := generate(withNVCC(c, kept))
		if err != nil {
			return err
		}
		if *only {
			differ, err := folder.Differences(*dir, s.Name, files)
			if err == nil && len(differ) > 0 {
				err = fmt.Errorf("%s is not what %s builds:\n  %s\nrun tfc build again", *dir, args[0], strings.Join(differ, "\n  "))
			}
			return err
		}
		changed, err := folder.Write(*dir, s.Name, files, *force)
		if err != nil {
			return err
		}
		if place.Note != "" {
			fmt.Fprintln(c.ErrOrStderr(), "tfc:", place.Note)
		}
		said := fmt.Sprintf("%d files written", len(changed))
		if len(changed) == 0 {
			said = "up to date"
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s: package %s, %s\n", filepath.Clean(*dir), place.ImportPath, said)
		return err
	}
	return c
}

// errNoGo says that the go command is missing.
var errNoGo = &exit{exitMissing, errors.New("the go command is not in PATH; install Go from https://go.dev/dl, and see tfc doctor")}
