package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/spec"
)

func fmtCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "fmt [-w | -d] SPEC...",
		Short: "Lay specs out in the canonical way",
		Long: `Lay specs out in the canonical way: print them, with -w rewrite the files, with -d print what would change.

With -d the exit code is 1 where something would.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: specFiles,
	}
	write := c.Flags().BoolP("write", "w", false, "rewrite the files")
	show := c.Flags().BoolP("diff", "d", false, "print what would change")
	c.MarkFlagsMutuallyExclusive("write", "diff")
	c.RunE = func(c *cobra.Command, args []string) error {
		differs := false
		for _, file := range args {
			before, after, err := format(file)
			if err != nil {
				return err
			}
			switch same := bytes.Equal(before, after); {
			case *write && same:
			case *write:
				err = replaceFile(file, after)
			case *show:
				differs = differs || !same
				_, err = c.OutOrStdout().Write(diff.Diff(file, before, file+" (formatted)", after))
			default:
				_, err = c.OutOrStdout().Write(after)
			}
			if err != nil {
				return err
			}
		}
		if differs {
			return &exit{code: exitFailure}
		}
		return nil
	}
	return c
}

func format(file string) (before, after []byte, err error) {
	if before, err = os.ReadFile(file); err != nil {
		return nil, nil, usage("read the spec: %w", err)
	}
	after, err = parser.Format(before)
	var errs spec.Errors
	if errors.As(err, &errs) {
		for _, e := range errs {
			e.Pos.File = file
		}
		return nil, nil, usage("%s", errs.Error())
	}
	if err != nil {
		return nil, nil, usage("%s: %w", file, err)
	}
	return before, after, nil
}

// replaceFile gives a file a new text, or leaves the old one whole.
func replaceFile(file string, text []byte) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	aside, err := os.CreateTemp(filepath.Dir(file), ".tfc-fmt-*.tmp")
	if err != nil {
		return err
	}
	_, err = aside.Write(text)
	if err = errors.Join(err, aside.Chmod(info.Mode().Perm()), aside.Sync(), aside.Close()); err == nil {
		err = os.Rename(aside.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("rewrite %s: %w", file, err), os.Remove(aside.Name()))
	}
	return nil
}
