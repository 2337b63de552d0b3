package cudagen_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var entryLines = regexp.MustCompile(`(?s)extern "C" __global__.*\) \{\n    grid_release\(\);\n(?:    prefetch<\d+>\(\w+\);\n)*(    grid_wait\(\);\n)?    (\w+)<Config>\([^\n]*\);\n\}\n$`)

// TestEveryKernelWaits: each entry of the examples' packages lets its successor start, and waits for what is before it on the stream, or
// its body does.
func TestEveryKernelWaits(t *testing.T) {
	bodies := ""
	files, _ := filepath.Glob("kernels/*.cuh")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bodies += string(text)
	}
	waits := func(body string) bool { // whether it does, once and for all threads: not within an inner block
		_, text, found := strings.Cut(bodies, "__device__ void "+body+"(")
		text, _, _ = strings.Cut(text, "\n}\n")
		return found && strings.Count(text, "grid_wait();") == 1 && strings.Contains(text, "\n    grid_wait();")
	}
	files, err := filepath.Glob("../../golden/gen/*/kernels/*.cu")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d kernels found: %v", len(files), err)
	}
	early := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := entryLines.FindSubmatch(text)
		switch {
		case m == nil:
			t.Errorf("%s: the entry does not begin with grid_release", file)
		case waits(string(m[2])) == (len(m[1]) > 0):
			t.Errorf("%s: the entry and %s do not wait exactly once", file, m[2])
		case len(m[1]) == 0:
			early[string(m[2])] = true
		}
	}
	for _, body := range []string{"product_wgmma", "small_linear_mma"} {
		if !early[body] {
			t.Errorf("%s does not work before it waits", body)
		}
	}
}
