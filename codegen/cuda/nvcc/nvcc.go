// Package nvcc drives the compiler of NVIDIA's CUDA toolkit: it finds it, compiles .cu files in parallel and once, reads what
// it says about them, and packs the results into one file.
//
//	toolkit, err := nvcc.Find(ctx)
//	result, err := toolkit.Compile(ctx, nvcc.Job{Sources: ..., Includes: ..., Archs: []string{"sm_80", "sm_90a"}})
//	os.WriteFile("kernels.fatbin", result.Fatbin, 0o666)
//
// # Groups
//
// Most of the time that a small .cu file takes goes into what it includes (half a second, a small kernel 30 ms, a large one
// 400). So sources that include the same are compiled as one file, up to 16 of them, each in a namespace of its own:
//
//	#include "norm.cuh"
//	namespace source_0 {
//	#include "layernorm_attn_in.cu"
//	}
//	namespace source_1 {
//	...
//
// A source has a file of its own where it has other directives than #include "…", or includes what lacks #pragma once. The
// groups are the same on every machine, so that the result is.
//
// Each group is compiled, for each architecture, to a whole program (a cubin). The alternatives, tried with nvcc 13.0:
//
//   - Relocatable code (-rdc, or ptxas -c) that nvlink joins to one cubin costs speed even where everything is inlined:
//     ptxas ignores setmaxnreg "to maintain compatibility across compilation units" (168 registers became 58), and calls
//     subroutines for what it inlines otherwise, divisions and some shuffles, with a stack frame.
//   - A file for each source: 62 s of processor time for 60 kernels and two architectures, where groups take 8.
//   - One file with all sources: half of that, but one thread an architecture, and all again whenever one changes.
//   - Several cubins of an architecture in one fatbin: the driver takes one and ignores the rest.
//
// So there is a fatbin for each group. They are packed into one file, which package kernelfile describes. The code is
// compressed, as fatbinary -compress-all does; it is a third of the size. There is no PTX: a GPU that none of the cubins
// fits gets an error, not a slow start and kernels that were tuned for another.
//
// # The cache
//
// Each result lies in the cache, a folder that TFC_CACHE names, otherwise tfc/nvcc in the user's folder of caches, under the
// hash of all that it depends on: the sources, the files they include, the flags, the architecture, the versions of nvcc and
// of the host compiler, and the variables that change what these do. So does each fatbin. An entry is written aside and
// renamed, has a checksum, and is made anew where that does not fit. Entries that nothing has asked for in 30 days go.
//
// The same sources, nvcc and host compiler give the same bytes: compilers run in folders of their own and see relative names.
package nvcc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	// ErrNotFound says that no nvcc is there, and where it was looked for.
	ErrNotFound = errors.New("nvcc, the compiler of NVIDIA's CUDA toolkit, was not found")
	// ErrTooOld says that the only nvcc there is older than tfc needs.
	ErrTooOld = errors.New("nvcc is too old")
	// ErrNoHost says that the host compiler which nvcc needs is missing or does not work.
	ErrNoHost = errors.New("nvcc has no host compiler")
)

const install = "install the CUDA toolkit, " + oldest + " or newer, from https://developer.nvidia.com/cuda-downloads, or set TFC_NVCC to the path of nvcc"

// oldest is the first nvcc that compiles for sm_90a.
const oldest = "12.0"

// Version is that of an nvcc, as 13.0.88.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

func (v Version) compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Toolkit is an nvcc that can be used.
type Toolkit struct {
	NVCC    string // its path
	From    string // where it was found: TFC_NVCC, CUDA_HOME, CUDA_PATH, PATH or a folder
	Version Version
	build   string // all that nvcc --version prints
}

// Find returns the first nvcc, new enough, of: TFC_NVCC, a path; bin/nvcc in CUDA_HOME and in CUDA_PATH; PATH;
// /usr/local/cuda; the newest /usr/local/cuda-*; /opt/cuda. Where TFC_NVCC is set, nothing else is tried. The error is
// ErrNotFound or ErrTooOld, or tells of an nvcc that does not run.
func Find(ctx context.Context) (*Toolkit, error) { return find(ctx, "/") }

// find looks for system folders under root.
func find(ctx context.Context, root string) (*Toolkit, error) {
	if file := os.Getenv("TFC_NVCC"); file != "" {
		if !executable(file) {
			return nil, fmt.Errorf("%w: TFC_NVCC is %s, which is no program; set it to the path of nvcc, or unset it", ErrNotFound, file)
		}
		return open(ctx, file, "TFC_NVCC")
	}
	var looked []string
	var first error
	for _, place := range places(root) {
		if place.dir == "" {
			looked = append(looked, place.from+" (not set)")
			continue
		}
		file := filepath.Join(place.dir, "nvcc")
		if !executable(file) {
			if !slices.Contains(looked, place.from) {
				looked = append(looked, place.from)
			}
			continue
		}
		t, err := open(ctx, file, place.from)
		if err == nil || ctx.Err() != nil {
			return t, err
		}
		first = cmp.Or(first, err)
	}
	if first != nil {
		return nil, first
	}
	return nil, fmt.Errorf("%w in %s; %s", ErrNotFound, strings.Join(looked, ", "), install)
}

// place is a folder that may hold nvcc; dir is "" where a variable that would name it is not set.
type place struct{ dir, from string }

func places(root string) (list []place) {
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH"} {
		dir := os.Getenv(name)
		if dir != "" {
			dir = filepath.Join(dir, "bin")
		}
		list = append(list, place{dir, name})
	}
	path := os.Getenv("PATH")
	for _, dir := range filepath.SplitList(path) {
		if dir != "" { // which would mean the working folder
			list = append(list, place{dir, "PATH"})
		}
	}
	if path == "" {
		list = append(list, place{"", "PATH"})
	}
	local := filepath.Join(root, "usr/local")
	list = append(list, place{filepath.Join(local, "cuda/bin"), filepath.Join(local, "cuda")})
	versions, _ := filepath.Glob(filepath.Join(local, "cuda-*")) // the pattern is good
	slices.SortFunc(versions, func(a, b string) int { return numbered(b).compare(numbered(a)) })
	for _, dir := range versions {
		list = append(list, place{filepath.Join(dir, "bin"), dir})
	}
	if len(versions) == 0 {
		list = append(list, place{filepath.Join(local, "cuda-*/bin"), filepath.Join(local, "cuda-*")})
	}
	opt := filepath.Join(root, "opt/cuda")
	return append(list, place{filepath.Join(opt, "bin"), opt})
}

// numbered reads the version in a folder's name, as cuda-12.4; zero where there is none.
func numbered(dir string) (v Version) {
	_, text, _ := strings.Cut(filepath.Base(dir), "-")
	parts := []*int{&v.Major, &v.Minor, &v.Patch}
	for i, part := range strings.SplitN(text, ".", len(parts)) {
		*parts[i], _ = strconv.Atoi(part) // 0 where it is no number
	}
	return v
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

var versionLine = regexp.MustCompile(`release (\d+)\.(\d+), V\d+\.\d+\.(\d+)`)

// open asks an nvcc for its version.
func open(ctx context.Context, file, from string) (*Toolkit, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, file, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s, from %s, does not run: %w: %s", file, from, cmp.Or(ctx.Err(), err), lastLine(out))
	}
	m := versionLine.FindStringSubmatch(string(out))
	if m == nil {
		return nil, fmt.Errorf("%s, from %s, does not say its version but %q; is it nvcc?", file, from, lastLine(out))
	}
	t := &Toolkit{NVCC: file, From: from, build: string(out)}
	for i, part := range []*int{&t.Version.Major, &t.Version.Minor, &t.Version.Patch} {
		*part, _ = strconv.Atoi(m[i+1]) // digits
	}
	if t.Version.compare(numbered("-"+oldest)) < 0 {
		return nil, fmt.Errorf("%w: %s, from %s, is version %s; %s", ErrTooOld, file, from, t.Version, install)
	}
	return t, nil
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndex(text, "\n")+1:]
}

// tool returns the path of a program that comes with nvcc.
func (t *Toolkit) tool(name string) (string, error) {
	dirs := []string{filepath.Dir(t.NVCC)}
	if real, err := filepath.EvalSymlinks(t.NVCC); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	for _, dir := range dirs {
		if file := filepath.Join(dir, name); executable(file) {
			return file, nil
		}
	}
	if file, err := exec.LookPath(name); err == nil {
		return file, nil
	}
	return "", fmt.Errorf("%s comes with nvcc, but is neither beside it in %s nor in PATH; install the whole CUDA toolkit", name, strings.Join(dirs, ", "))
}
