//go:build unix

package nvcc

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
)

func TestGroups(t *testing.T) {
	norm, rope := "#include \"norm.cuh\"\n", "#include \"rope.cuh\"\n"
	j := Job{
		Sources: map[string]string{
			"n1.cu": norm, "n2.cu": norm + "struct Config {};\n", "n3.cu": norm,
			"r1.cu": rope, "r2.cu": rope, "r1.group.cu": "#define X\n",
			"both1.cu": norm + rope, "both2.cu": norm + rope, "both3.cu": rope + norm,
			"defines.cu": norm + "#define X 3\n", "system.cu": norm + "#include <math.h>\n", "many.cu": "#include \"many.cuh\"\n",
			"missing.cu": "#include \"missing.cuh\"\n", "nothing.cu": "// nothing\n", "sub.cu": "#include \"sub/s.cuh\"\n",
		},
		Includes: map[string]string{"norm.cuh": "// what\n#pragma once\n#include \"device.cuh\"\n", "device.cuh": "", "rope.cuh": " # pragma once\n", "many.cuh": "int x;\n",
			"sub/s.cuh": "#pragma once\n#include \"t.cuh\"\n", "sub/t.cuh": "t\n", "t.cuh": "t\n"},
		Archs: []string{"sm_90a", "sm_80", "sm_80"},
		Only:  map[string][]string{"n3.cu": {"sm_90a"}},
	}
	var got []string
	for _, g := range j.groups() {
		got = append(got, fmt.Sprintf("%s: %s for %s", g.name, strings.Join(g.sources, " "), strings.Join(g.archs, " ")))
	}
	if diff := cmp.Diff([]string{
		"both1.group.cu: both1.cu both2.cu for sm_80 sm_90a",
		"both3.cu: both3.cu for sm_80 sm_90a",
		"defines.cu: defines.cu for sm_80 sm_90a",
		"many.cu: many.cu for sm_80 sm_90a",
		"missing.cu: missing.cu for sm_80 sm_90a",
		"n1.group.cu: n1.cu n2.cu for sm_80 sm_90a",
		"n3.cu: n3.cu for sm_90a",
		"nothing.cu: nothing.cu for sm_80 sm_90a",
		"a_r1.group.cu: r1.cu r2.cu for sm_80 sm_90a",
		"r1.group.cu: r1.group.cu for sm_80 sm_90a",
		"sub.cu: sub.cu for sm_80 sm_90a",
		"system.cu: system.cu for sm_80 sm_90a",
	}, got); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	for _, g := range j.groups() {
		if g.name == "both1.group.cu" {
			if diff := cmp.Diff(map[string]string{
				"both1.group.cu": "#include \"norm.cuh\"\n#include \"rope.cuh\"\nnamespace source_0 {\n#include \"both1.cu\"\n}\nnamespace source_1 {\n#include \"both2.cu\"\n}\n",
				"both1.cu":       norm + rope, "both2.cu": norm + rope,
				"norm.cuh": j.Includes["norm.cuh"], "rope.cuh": j.Includes["rope.cuh"], "device.cuh": "",
			}, g.files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		}
	}

	j = Job{Sources: map[string]string{}, Includes: j.Includes, Archs: []string{"sm_80"}}
	for i := range 2*groupSize + 1 {
		j.Sources[fmt.Sprintf("k%02d.cu", i)] = norm
	}
	sizes := map[string]int{}
	for _, g := range j.groups() {
		sizes[g.name] = len(g.sources)
	}
	if diff := cmp.Diff(map[string]int{"k00.group.cu": groupSize, "k16.group.cu": groupSize, "k32.cu": 1}, sizes); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}

// A group is compiled once, and its kernels are known by their sources.
func TestCompileGroup(t *testing.T) {
	f := newFake(t)
	include := "#include \"s.cuh\"\n"
	j := Job{
		Sources:  map[string]string{"a.cu": include + kernel("a"), "b.cu": include + kernel("b"), "c.cu": include + "#define C\n" + kernel("c")},
		Includes: map[string]string{"s.cuh": "#pragma once\n"}, Archs: []string{"sm_80", "sm_90a"},
	}
	r := f.compile(t, j)
	files := map[string]string{}
	for _, k := range r.Kernels {
		files[k.Entry] = k.File
	}
	if diff := cmp.Diff(map[string]string{"a": "a.cu", "b": "b.cu", "c": "c.cu"}, files); diff != "" || r.Compiled != 4 {
		t.Errorf("%d compilations, files (-want +got):\n%s", r.Compiled, diff)
	}
	_, modules, err := kernelfile.Unpack(r.Fatbin)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]kernelfile.Module{
		{File: "a.group.cu", Entries: []string{"a", "b"}, Fatbin: []byte("code of a.group.cu for sm_80\ncode of a.group.cu for sm_90a\n")},
		{File: "c.cu", Entries: []string{"c"}, Fatbin: []byte("code of c.cu for sm_80\ncode of c.cu for sm_90a\n")},
	}, modules); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}

	changed := j
	changed.Sources = maps.Clone(j.Sources)
	changed.Sources["b.cu"] += "//"
	if r := f.compile(t, changed); r.Compiled != 2 || r.Cached != 2 {
		t.Errorf("after a change of one: %d compiled, %d from the cache", r.Compiled, r.Cached)
	}
	changed.Sources["b.cu"] = include + "int none;\n"
	if _, err := f.Compile(context.Background(), changed); err == nil || err.Error() != "b.cu: there is no kernel in it" {
		t.Error(err)
	}
	changed.Sources["b.cu"] = include + kernel("b", "//sh echo '    40 bytes stack frame, 30 bytes spill stores, 20 bytes spill loads' >&2")
	if _, err := f.Compile(context.Background(), changed); err == nil || !strings.HasPrefix(err.Error(), "b.cu:4: kernel b needs more registers") {
		t.Error(err)
	}
	f.clean(t)
}
