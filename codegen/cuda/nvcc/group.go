package nvcc

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// group is sources that are compiled as one file, in which each has a namespace of its own: those that include the same,
// which most time goes into. It is split where it has many, so that slow ones are compiled in parallel.
type group struct {
	name    string   // of the file: that of the source, where there is one
	sources []string // their names
	archs   []string
	files   map[string]string // the file, the sources, and all that they include of the job's
}

// groupSize is the most sources of a group.
const groupSize = 16

var (
	includeLine = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"`)
	directive   = regexp.MustCompile(`(?m)^[ \t]*#.*$`)
	onceLine    = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*pragma[ \t]+once\b`)
)

// groups divides the job's sources, the same way on every machine.
func (j *Job) groups() (all []group) {
	alike := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(j.Sources)) {
		archs := j.archs(name)
		headers, ok := j.headers(name)
		if !ok {
			all = append(all, group{name: name, sources: []string{name}, archs: archs, files: j.files(name)})
			continue
		}
		key := strings.Join(headers, "\n") + "\n\n" + strings.Join(archs, " ")
		alike[key] = append(alike[key], name)
	}
	for _, key := range slices.Sorted(maps.Keys(alike)) {
		for sources := range slices.Chunk(alike[key], groupSize) {
			all = append(all, j.group(sources))
		}
	}
	slices.SortFunc(all, func(a, b group) int { return cmp.Compare(a.sources[0], b.sources[0]) })
	return all
}

// headers returns what a source includes, and whether it can share a file: it has no other directives than these, and
// what it includes counts once, so that it may stand before all namespaces.
func (j *Job) headers(name string) (list []string, shares bool) {
	for _, line := range directive.FindAllString(j.Sources[name], -1) {
		m := includeLine.FindStringSubmatch(line)
		if m == nil || !onceLine.MatchString(j.Includes[m[1]]) {
			return nil, false
		}
		list = append(list, m[1])
	}
	return list, len(list) > 0
}

// group writes the file of a group.
func (j *Job) group(sources []string) group {
	g := group{name: sources[0], sources: sources, archs: j.archs(sources[0]), files: map[string]string{}}
	for _, name := range sources {
		maps.Copy(g.files, j.files(name))
	}
	if len(sources) == 1 {
		return g
	}
	headers, _ := j.headers(sources[0])
	var b strings.Builder
	for _, h := range headers {
		fmt.Fprintf(&b, "#include %q\n", h)
	}
	for i, name := range sources {
		fmt.Fprintf(&b, "namespace source_%d {\n#include %q\n}\n", i, name)
	}
	g.name = strings.TrimSuffix(sources[0], ".cu") + ".group.cu"
	for j.Sources[g.name] != "" {
		g.name = "a_" + g.name
	}
	g.files[g.name] = b.String()
	return g
}

// files returns a source and all that it includes of the job's, directly or not, whatever the conditions around that.
func (j *Job) files(name string) map[string]string {
	files := map[string]string{name: j.Sources[name]}
	for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
		for _, m := range includeLine.FindAllStringSubmatch(files[todo[0]], -1) {
			for _, included := range []string{path.Join(path.Dir(todo[0]), m[1]), path.Clean(m[1])} {
				text, ours := j.Includes[included]
				if _, seen := files[included]; ours && !seen {
					files[included] = text
					todo = append(todo, included)
				}
			}
		}
	}
	return files
}

// declaring returns the source that declares a kernel, and the line; "" where none does.
func (g *group) declaring(entry string) (source string, line int) {
	declared := regexp.MustCompile(`\b` + regexp.QuoteMeta(entry) + `\s*\(`)
	for _, name := range g.sources {
		n := 0
		for text := range strings.Lines(g.files[name]) {
			n++
			if declared.MatchString(text) {
				return name, n
			}
		}
	}
	if len(g.sources) == 1 { // by a macro
		return g.sources[0], 0
	}
	return "", 0
}
