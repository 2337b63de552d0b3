package cudatest

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// checks are what g++ puts into kernels; sim/checks.h turns them into faults. Contraction, which is g++'s default, fuses
// products and sums as nvcc does.
var checks = []string{"-O1", "-fsanitize=bounds,alignment,shift-exponent,integer-divide-by-zero", "-fno-sanitize-recover=all"}

// Kernels compiles .cu files for the simulator and returns the image that the fake libcuda loads as a module: all kernels
// of all of them. files has the text of each by its name, and of the .cuh files that they include. Only what has changed
// is compiled. It skips the test where there is no g++.
//
// An entry is written as extern "C" __global__ void, at the start of a line, with __launch_bounds__ or without.
func Kernels(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	c := findCompiler(t)
	image, err := compileKernels(c, files)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func compileKernels(c compiler, files map[string][]byte) ([]byte, error) {
	var units []string
	for name := range files {
		if path.Ext(name) == ".cu" {
			units = append(units, name)
		}
	}
	slices.Sort(units)
	if len(units) == 0 {
		return nil, errors.New("there is no .cu file to compile")
	}
	libraries := make([]string, len(units))
	work := make([]func() error, len(units))
	for i, unit := range units {
		work[i] = func() (err error) {
			libraries[i], err = compileUnit(c, unit, files)
			return err
		}
	}
	if err := parallel(work); err != nil {
		return nil, err
	}
	return append([]byte("TFCSIM:"+strings.Join(libraries, "\n")), 0), nil
}

// compileUnit compiles a .cu file and returns the path of the library.
func compileUnit(c compiler, unit string, files map[string][]byte) (string, error) {
	entries := entriesOf(files[unit])
	if len(entries) == 0 {
		return "", fmt.Errorf(`%s has no kernel: extern "C" __global__ void name(…) at the start of a line`, unit)
	}
	flags := slices.Concat(standard, c.flags, checks, []string{"-I", "sim", "-I", "."})
	key := c.key(flags)
	needed := includes(unit, files)
	for _, name := range needed {
		addFile(key, name, files[name])
	}
	headers, err := sources.ReadDir("sim")
	if err != nil {
		return "", err
	}
	sim := map[string][]byte{}
	for _, h := range headers {
		name := path.Join("sim", h.Name())
		if sim[name], err = sources.ReadFile(name); err != nil {
			return "", err
		}
		addFile(key, name, sim[name])
	}
	folder, err := cached("kernel", key, func(dir string) error {
		for _, name := range needed {
			if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), files[name]); err != nil {
				return err
			}
		}
		for name, text := range sim {
			if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), text); err != nil {
				return err
			}
		}
		var main bytes.Buffer
		fmt.Fprintf(&main, "#include %q\n", unit)
		for _, e := range entries {
			fmt.Fprintf(&main, "TFC_SIM_ENTRY(%s, (%s))\n", e.name, e.bound)
		}
		fmt.Fprintf(&main, "TFC_SIM_ENTRIES(%d)\n", len(entries))
		if err := writeFile(filepath.Join(dir, "unit.cpp"), main.Bytes()); err != nil {
			return err
		}
		// Apart from each other, because linking with -fsanitize would want a library of g++'s.
		if err := c.run(dir, slices.Concat(flags, []string{"-c", "unit.cpp", "-o", "unit.o"})); err != nil {
			return err
		}
		return c.run(dir, []string{"-shared", "-Wl,-Bsymbolic", "-o", "kernels.so", "unit.o", "-lm"})
	})
	if err != nil {
		return "", fmt.Errorf("%s does not compile for the simulator: %w", unit, err)
	}
	return filepath.Join(folder, "kernels.so"), nil
}

// entry is a kernel in a .cu file.
type entry struct {
	name  string
	bound string // threads of a block, at most: an expression
}

var entryPattern = regexp.MustCompile(`(?m)^[ \t]*extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)?(\w+)\s*\(`)

func entriesOf(text []byte) []entry {
	var entries []entry
	for _, m := range entryPattern.FindAllSubmatch(text, -1) {
		bound := strings.TrimSpace(firstArgument(string(m[1])))
		if bound == "" {
			bound = "1024"
		}
		entries = append(entries, entry{string(m[2]), bound})
	}
	return entries
}

// firstArgument returns what is before the first comma outside of parentheses.
func firstArgument(list string) string {
	depth := 0
	for i, c := range list {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			return list[:i]
		}
	}
	return list
}

var includePattern = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]*"([^"]+)"`)

// includes lists a file and the files that it includes, directly or not, as far as they are in files. What is named in a
// file lies beside it, or at the top.
func includes(name string, files map[string][]byte) []string {
	list := []string{name}
	for i := 0; i < len(list); i++ {
		for _, m := range includePattern.FindAllSubmatch(files[list[i]], -1) {
			for _, n := range []string{path.Join(path.Dir(list[i]), string(m[1])), path.Clean(string(m[1]))} {
				if _, ok := files[n]; ok {
					if !slices.Contains(list, n) {
						list = append(list, n)
					}
					break
				}
			}
		}
	}
	slices.Sort(list)
	return list
}
