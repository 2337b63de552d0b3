package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/folder"
	"github.com/tfc-dev/tfc/cmd/tfc/internal/gomod"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/spec"
)

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run SPEC",
		Short: "Build the package of a spec, train it, and let it write",
		Long: `Build the package of a spec, train it, and let it continue the spec's prompts.

The package lies in .tfc/NAME, below the root of the Go module that the current folder belongs to, or else below the
current folder; its training run in .tfc/NAME/run. Paths of data start from the spec's folder. Ctrl-C stops training and
saves it; running again goes on from there. Once trained, it only writes.`,
		Example: "  tfc run examples/specs/tiny.yaml",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: specFiles,
	}
	steps := c.Flags().Int("steps", 0, "optimizer steps in all (default: the spec's)")
	run := c.Flags().String("run", "", "`folder` of the training run: its saves, log and curve (default: .tfc/NAME/run)")
	root := c.Flags().String("root", "", "`folder` that paths of data start from (default: the spec's)")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := load(args[0])
		if err != nil {
			return err
		}
		if *steps < 0 {
			return usage("--steps is %d; it must be positive", *steps)
		}
		begin := time.Now()
		dir, err := scratch(s.Name)
		if err != nil {
			return err
		}
		program, err := buildProgram(c, s, args[0], dir)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "%s: built in %s, %.1f seconds\n", s.Name, dir, time.Since(begin).Seconds())
		if *run == "" {
			*run = filepath.Join(dir, "run")
		}
		if *root == "" {
			*root = filepath.Dir(args[0])
		}
		train := []string{"train", "--run", *run, "--root", *root}
		if *steps > 0 {
			train = append(train, "--steps", strconv.Itoa(*steps))
		}
		err = follow(c, program, train...)
		var e *exit
		if errors.As(err, &e) && e.code == exitInterrupted {
			fmt.Fprintf(c.ErrOrStderr(), "%s: interrupted; to go on, run the same command again\n", s.Name)
		}
		if err != nil {
			return err
		}
		return follow(c, program, "generate", "--run", *run)
	}
	return c
}

// scratch is where the package of a run lies.
func scratch(name string) (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	root, _, err := gomod.Above(here)
	if err != nil {
		return "", &exit{exitFile, err}
	}
	if root == "" {
		root = here
	}
	if rel, err := filepath.Rel(here, root); err == nil {
		root = rel // shorter to read
	}
	return filepath.Join(root, ".tfc", name), nil
}

// buildProgram writes the package of s into dir, as a module of its own, and compiles its command.
func buildProgram(c *cobra.Command, s *spec.Spec, file, dir string) (program string, err error) {
	tool := gomod.Self()
	importPath, module, err := tool.Standalone(s.Name)
	if err != nil {
		return "", err
	}
	files, err := compile.Package(s, importPath, tool.Version, withNVCC(c, ""))
	if err != nil {
		return "", packageError(file, err)
	}
	if _, err := folder.Write(dir, s.Name, append(files, module...), true); err != nil {
		return "", err
	}
	program, err = filepath.Abs(filepath.Join(dir, "bin", s.Name))
	if err != nil {
		return "", err
	}
	note, err := goBuild(dir, "./cmd/"+s.Name, program, driverFile)
	if err != nil {
		return "", err
	}
	if note != "" {
		fmt.Fprintln(c.ErrOrStderr(), "tfc:", note)
	}
	return program, nil
}

// follow runs a program to its end, and passes on its exit code and the signals it has not had itself.
func follow(c *cobra.Command, program string, args ...string) error {
	return followTo(c, c.OutOrStdout(), program, args...)
}

// followTo is follow with the program's standard output elsewhere.
func followTo(c *cobra.Command, stdout io.Writer, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, c.ErrOrStderr()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s != os.Interrupt || !foreground() {
				cmd.Process.Signal(s) // fails only where it has just ended
			}
		case err := <-ended:
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				if code := failed.ExitCode(); code > 0 {
					return &exit{code: code} // it has said why
				}
				return fmt.Errorf("%s: %s", strings.Join(append([]string{program}, args...), " "), failed)
			}
			return err
		}
	}
}
