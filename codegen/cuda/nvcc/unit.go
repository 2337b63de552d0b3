package nvcc

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// unit is a group compiled for one architecture.
type unit struct {
	group
	toolkit *Toolkit
	host    Host
	arch    string // as sm_90a
	flags   []string
}

// built is what comes of a unit; the cubin stands beside it in the cache.
type built struct {
	Usage    map[string]Usage `json:"usage"` // of each kernel
	Warnings Errors           `json:"warnings,omitempty"`
}

// variables change what the compilers do.
var variables = append([]string{"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"}, flagVariables...)

// key names the unit's result.
func (u *unit) key() string {
	parts := []string{"cubin", u.toolkit.build, u.host.Version, u.name, u.arch}
	parts = append(parts, u.flags...)
	for _, name := range variables {
		parts = append(parts, name+"="+os.Getenv(name))
	}
	for _, name := range slices.Sorted(maps.Keys(u.files)) {
		parts = append(parts, name, u.files[name])
	}
	return key(parts...)
}

// build compiles the unit in a folder of scratch, which must be empty. Errors in the sources are Errors.
func (u *unit) build(ctx context.Context, work string) (*built, []byte, error) {
	for name, text := range u.files {
		file := filepath.Join(work, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			return nil, nil, err
		}
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			return nil, nil, err
		}
	}
	out, err := u.run(ctx, work)
	if err != nil && ctx.Err() == nil {
		out = u.placed(ctx, work, out)
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		return nil, nil, u.failure(out, err)
	}
	cubin, err := os.ReadFile(filepath.Join(work, cubinFile))
	if err != nil {
		return nil, nil, fmt.Errorf("%s compiled %s and wrote no result: %w", u.toolkit.NVCC, u.name, err)
	}
	return &built{Usage: usages(out), Warnings: u.warnings(out)}, cubin, nil
}

const cubinFile = "out.cubin"

// run calls nvcc in the folder of the sources. What it and its children leave aside goes there too.
func (u *unit) run(ctx context.Context, work string, more ...string) (out string, err error) {
	temp := filepath.Join(work, "temp")
	if err := os.MkdirAll(temp, 0o777); err != nil {
		return "", err
	}
	args := append([]string{"-cubin", "-gencode", "arch=compute_" + strings.TrimPrefix(u.arch, "sm_") + ",code=" + u.arch}, u.flags...)
	args = append(args, u.host.flags()...)
	args = append(args, more...)
	cmd := command(ctx, u.toolkit.NVCC, append(args, "-I.", "-o", cubinFile, u.name)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "PWD="+work, "TMPDIR="+temp, "LC_ALL=C")
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err = cmd.Run()
	return text.String(), err
}

// placed returns the output of a compilation that failed with ptxas's complaints moved from lines of PTX to lines of the
// sources. It compiles again for that, with line tables and keeping the PTX.
func (u *unit) placed(ctx context.Context, work, out string) string {
	if !slices.ContainsFunc(messages(out), func(m message) bool { return m.ptx > 0 }) {
		return out
	}
	kept := filepath.Join(work, "kept")
	if os.Mkdir(kept, 0o777) != nil {
		return out
	}
	again, _ := u.run(ctx, work, "-lineinfo", "-keep", "-keep-dir", "kept") // fails as before
	found, _ := filepath.Glob(filepath.Join(kept, "*.ptx"))
	if len(found) != 1 {
		return out
	}
	ptx, err := os.ReadFile(found[0])
	if err != nil {
		return out
	}
	sources := ptxSources(string(ptx))
	var b strings.Builder
	for line := range strings.Lines(again) {
		if m := ptxLine.FindStringSubmatch(strings.TrimRight(line, "\r\n ")); m != nil {
			if at, ok := sources[number(m[2])]; ok {
				file := at.file
				if rel, err := filepath.Rel(work, file); err == nil && filepath.IsLocal(rel) {
					file = rel
				}
				line = fmt.Sprintf("%s:%d: %s: ptxas: %s, in kernel '%s'\n", file, at.line, strings.Replace(m[3], "fatal", "fatal error", 1), m[4], at.entry)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// sourceLine is where a line of PTX comes from.
type sourceLine struct {
	file  string
	line  int
	entry string // the kernel that it is in
}

var (
	ptxFile = regexp.MustCompile(`^\s*\.file\s+(\d+)\s+"(.*?)"`)
	ptxLoc  = regexp.MustCompile(`^\s*\.loc\s+(\d+) (\d+) `)
	ptxHead = regexp.MustCompile(`^(?:\.visible )?\.entry (\w+)\(`)
)

// ptxSources maps the lines of a PTX file with line tables to those they were made from.
func ptxSources(ptx string) map[int]sourceLine {
	files := map[int]string{}
	for line := range strings.Lines(ptx) { // the names stand at the end
		if m := ptxFile.FindStringSubmatch(line); m != nil {
			files[number(m[1])] = m[2]
		}
	}
	sources := map[int]sourceLine{}
	var at sourceLine
	n := 0
	for line := range strings.Lines(ptx) {
		n++
		if m := ptxHead.FindStringSubmatch(line); m != nil {
			at = sourceLine{entry: m[1]}
		} else if m := ptxLoc.FindStringSubmatch(line); m != nil {
			at.file, at.line = files[number(m[1])], number(m[2])
		}
		if at.file != "" {
			sources[n] = at
		}
	}
	return sources
}

// pack makes one fatbin of the cubins of a group, each given with its architecture.
func (t *Toolkit) pack(ctx context.Context, work, name string, archs []string, cubins [][]byte) ([]byte, error) {
	program, err := t.tool("fatbinary")
	if err != nil {
		return nil, err
	}
	args := []string{"--create=out.fatbin", "-64", "-compress-all", "-ident=" + name}
	for i, arch := range archs {
		file := arch + ".cubin"
		if err := os.WriteFile(filepath.Join(work, file), cubins[i], 0o666); err != nil {
			return nil, err
		}
		args = append(args, "--image3=kind=elf,sm="+strings.TrimPrefix(arch, "sm_")+",file="+file)
	}
	cmd := command(ctx, program, args...)
	cmd.Dir = work
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s cannot pack the code of %s: %w: %s", program, name, err, lastLine(out))
	}
	return os.ReadFile(filepath.Join(work, "out.fatbin"))
}
