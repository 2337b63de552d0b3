package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile"
)

// fatbinFile is what the .cu files of a package are compiled to, in its folder kernels.
const fatbinFile = "kernels.fatbin"

// held gives a package the fatbin that a folder holds, from an earlier build.
func held(dir string) compile.Fatbin {
	return func([]cudagen.Source, []string) ([]cudagen.Source, error) {
		data, err := os.ReadFile(filepath.Join(dir, "kernels", fatbinFile))
		if err != nil {
			return nil, nil // none
		}
		return []cudagen.Source{{Name: fatbinFile, Data: data}}, nil
	}
}

// withNVCC compiles CUDA sources by nvcc. Where there is none that will do, the package gets the sources alone, and the
// user one warning; if kept is not empty, it keeps the fatbin that this folder of an earlier build holds instead.
func withNVCC(c *cobra.Command, kept string) compile.Fatbin {
	return func(sources []cudagen.Source, arch []string) ([]cudagen.Source, error) {
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM) // compilers at work end with it
		defer stop()
		toolkit, err := nvcc.Find(ctx)
		if errors.Is(err, nvcc.ErrNotFound) || errors.Is(err, nvcc.ErrTooOld) {
			if kept != "" {
				if fatbin, _ := held(kept)(sources, arch); fatbin != nil {
					return fatbin, nil
				}
			}
			fmt.Fprintf(c.ErrOrStderr(), "tfc: warning: the package runs on the CPU only: %v\n", err)
			return nil, nil
		}
		if err != nil {
			return nil, &exit{exitMissing, err}
		}
		job := nvcc.Job{Archs: arch, AllowSpills: true}
		for _, s := range sources {
			job.Add(s.Name, s.Data, s.Arch)
		}
		result, err := toolkit.Compile(ctx, job)
		if ctx.Err() != nil {
			return nil, &exit{exitFailure, errors.New("interrupted while nvcc was at work: nothing was written; what is compiled is kept for the next time")}
		}
		if err != nil {
			return nil, err
		}
		noteSpills(c.ErrOrStderr(), result.Kernels)
		return []cudagen.Source{{Name: fatbinFile, Data: result.Fatbin}}, nil
	}
}

// noteSpills says which kernels do not fit in registers. They are right all the same.
func noteSpills(to io.Writer, kernels []nvcc.Kernel) {
	for _, k := range kernels {
		for _, arch := range slices.Sorted(maps.Keys(k.Usage)) {
			if u := k.Usage[arch]; u.Spills() {
				fmt.Fprintf(to, "tfc: note: kernel %s keeps %d bytes of each thread's registers in memory on %s, and is slower for it\n", k.Entry, u.SpillStores, arch)
			}
		}
	}
}

// packageError is an error of compiling a spec: the spec's fault, unless it has a code of its own or comes from nvcc.
func packageError(file string, err error) error {
	var coded *exit
	var compiler nvcc.Errors
	if errors.As(err, &coded) || errors.As(err, &compiler) {
		return fmt.Errorf("%s: %w", file, err)
	}
	return usage("%s: %w", file, err)
}
