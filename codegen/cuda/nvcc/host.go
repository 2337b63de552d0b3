package nvcc

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Host is the C++ compiler that nvcc calls to preprocess a file, even one that has only kernels.
type Host struct {
	Path    string
	From    string // NVCC_CCBIN, NVCC_PREPEND_FLAGS, NVCC_APPEND_FLAGS, or PATH
	Version string // the first line of what it says of itself
	named   bool   // nvcc must be told of it
}

const installHost = "install GCC's C++ compiler (apt-get install g++, dnf install gcc-c++), or set NVCC_CCBIN to one that nvcc can use"

// flagVariables hold flags that nvcc adds to those of every call.
var flagVariables = []string{"NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"}

// Host finds the host compiler: what NVCC_CCBIN names, a program or a folder, otherwise gcc, as nvcc does, or else g++ or
// clang++, of PATH. The error is ErrNoHost.
func (t *Toolkit) Host(ctx context.Context) (Host, error) {
	for _, name := range flagVariables {
		if flags := os.Getenv(name); strings.Contains(flags, "-ccbin") || strings.Contains(flags, "-compiler-bindir") {
			return Host{From: name, Version: flags}, nil
		}
	}
	if named := os.Getenv("NVCC_CCBIN"); named != "" {
		file := named
		if info, err := os.Stat(named); err == nil && info.IsDir() {
			file = filepath.Join(named, "gcc")
		}
		path, err := exec.LookPath(file)
		if err != nil {
			return Host{}, fmt.Errorf("%w: NVCC_CCBIN is %s, but %v; %s", ErrNoHost, named, err, installHost)
		}
		return newHost(ctx, path, "NVCC_CCBIN", true)
	}
	for _, name := range []string{"gcc", "g++", "clang++"} {
		if path, err := exec.LookPath(name); err == nil {
			return newHost(ctx, path, "PATH", name != "gcc")
		}
	}
	return Host{}, fmt.Errorf("%w: there is no gcc, g++ or clang++ in PATH; %s", ErrNoHost, installHost)
}

func newHost(ctx context.Context, path, from string, named bool) (Host, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Host{}, err
	}
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return Host{}, fmt.Errorf("%w: %s does not run: %w: %s", ErrNoHost, path, cmp.Or(ctx.Err(), err), lastLine(out))
	}
	version, _, _ := strings.Cut(string(out), "\n")
	return Host{Path: path, From: from, Version: strings.TrimSpace(version), named: named}, nil
}

// Check lets the compiler preprocess the headers that CUDA's own need: gcc may be there without its C++ half or without a
// library, or be too old. The error is ErrNoHost.
func (h Host) Check(ctx context.Context) error {
	if h.Path == "" {
		return nil
	}
	cmd := command(ctx, h.Path, "-E", "-x", "c++", "-std=c++20", "-")
	cmd.Stdin = strings.NewReader("#include <cstdlib>\n#include <utility>\n")
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return fmt.Errorf("%w: %s cannot preprocess C++20: %s; %s", ErrNoHost, h.Path, firstError(out.String()), installHost)
	}
	return err
}

// Check lets nvcc preprocess an empty file by the host compiler h: it refuses those of versions that it does not know, and
// may itself not be whole. Compile needs no Check before it; this is for tools that tell what a machine has.
func (t *Toolkit) Check(ctx context.Context, h Host) error {
	if err := h.Check(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tfc-nvcc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const empty = "empty.cu"
	if err := os.WriteFile(filepath.Join(dir, empty), nil, 0o666); err != nil {
		return err
	}
	cmd := command(ctx, t.NVCC, append([]string{"-E", "-std=c++20", empty}, h.flags()...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PWD="+dir, "TMPDIR="+dir, "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stderr = &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if refused := h.refused(out.String()); refused != nil {
			return refused
		}
		return fmt.Errorf("%s does not work: %w: %s", t.NVCC, err, firstError(out.String()))
	}
	return nil
}

// unsupported is how CUDA's host_config.h refuses a host compiler.
var unsupported = regexp.MustCompile(`#error -- (unsupported .*?!.*?!)`)

// refused returns an ErrNoHost where nvcc's output says that it refuses the compiler.
func (h Host) refused(out string) error {
	m := unsupported.FindStringSubmatch(out)
	if m == nil {
		return nil
	}
	return fmt.Errorf("%w that it supports: %s: %s; set NVCC_CCBIN to another", ErrNoHost, h.Path, m[1])
}

// firstError returns the first line that tells of an error.
func firstError(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "error") || strings.Contains(line, "fatal") {
			return strings.TrimSpace(line)
		}
	}
	return lastLine([]byte(out))
}

// flags tells nvcc of the compiler, where nvcc would not find it itself.
func (h Host) flags() []string {
	if h.named {
		return []string{"-ccbin", h.Path}
	}
	return nil
}
