// Command tfc compiles the spec of a transformer into a Go package that trains, evaluates and generates.
//
// This package is what a terminal sees: one file a command. What the commands do is in packages parser, passes, compile
// and codegen; what they write to disk, in internal/folder and internal/gomod.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/folder"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/spec"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitFile        = 3
	exitMissing     = 4
	exitInterrupted = 75 // EX_TEMPFAIL of sysexits.h
)

const exitCodes = `Exit codes:
  0   all went well
  1   something went wrong on the way, or --check or -d found a difference
  2   the spec or the command line cannot be used
  3   files cannot be used: an output folder, weights, a save, a tokenizer, data
  4   a tool that is needed is missing: the go command
  75  training was interrupted, and saved: the same command goes on from there`

// exit is an error with its exit code. A nil err has been shown already.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return fmt.Sprint(e.err) }
func (e *exit) Unwrap() error { return e.err }

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// command runs a command line and returns the exit code.
func command(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	var e *exit
	if !errors.As(err, &e) { // cobra's own: a flag, an argument or a command that does not exist
		fmt.Fprintf(stderr, "tfc: %v\nrun %q for help\n", err, cmd.CommandPath()+" --help")
		return exitUsage
	}
	if e.err != nil {
		fmt.Fprintf(stderr, "tfc: %s\n", strings.TrimSuffix(e.err.Error(), "\n"))
	}
	return e.code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tfc",
		Short: "Compile the spec of a transformer into a Go package that trains, evaluates and generates",
		Long: `tfc compiles the spec of a transformer, a YAML file, into a Go package that trains, evaluates and generates.

` + exitCodes,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	for _, add := range []func() *cobra.Command{
		runCommand, benchCommand, tuneCommand, buildCommand, checkCommand, fmtCommand, printCommand, explainCommand,
		passesCommand, presetsCommand, schemaCommand, doctorCommand, versionCommand,
	} {
		cmd := add()
		cmd.RunE = withCode(cmd.RunE)
		root.AddCommand(cmd)
	}
	return root
}

// withCode gives every error of a command an exit code.
func withCode(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		err := run(c, args)
		var e *exit
		var errs spec.Errors
		var edited *folder.Edited
		var unusable *folder.Unusable
		switch {
		case err == nil || errors.As(err, &e):
			return err
		case errors.As(err, &errs):
			return &exit{exitUsage, err}
		case errors.As(err, &edited), errors.As(err, &unusable):
			return &exit{exitFile, err}
		}
		return &exit{exitFailure, err}
	}
}

func usage(format string, args ...any) error { return &exit{exitUsage, fmt.Errorf(format, args...)} }

// load reads a spec. Everything wrong with it is an error that shows its places.
func load(file string) (*spec.Spec, error) {
	s, err := parser.Load(file)
	var errs spec.Errors
	if errors.As(err, &errs) {
		return nil, usage("%s has errors\n%s", file, errs.Explain(s.Source))
	}
	if err != nil {
		return nil, usage("read the spec: %w", err)
	}
	return s, nil
}

// printJSON writes v for programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonFlag adds --json.
func jsonFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print the result as JSON")
}

// specFiles completes the names of specs.
func specFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}
