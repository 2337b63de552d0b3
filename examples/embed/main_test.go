package main

import (
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/golden"
	"github.com/tfc-dev/tfc/parser"
)

// The package beside the program is the one that go generate writes.
func TestGenerated(t *testing.T) {
	s, err := parser.Load("stories.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files, err := compile.Package(s, path.Join(gogen.Module, "examples/embed", s.Name), "devel", nil)
	if err != nil {
		t.Fatal(err)
	}
	golden.Owns(t, s.Name)
	for _, f := range files {
		golden.Check(t, filepath.Join(s.Name, f.Path), string(f.Data))
	}
}

// The program, built and run as a reader of it would: it learns, goes on, and writes.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "embed")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	first := run("-steps", "3")
	again := run("-steps", "3")
	if first != again {
		t.Errorf("a run that has its steps writes something else:\n%s\nthan before:\n%s", again, first)
	}
	if !strings.HasPrefix(first, "3 steps\n") || strings.Count(first, "Once upon a time") != 1 || strings.Count(first, "There was a") != 1 {
		t.Errorf("it wrote:\n%s", first)
	}
	if more := run("-steps", "5"); !strings.HasPrefix(more, "5 steps\n") || more == first {
		t.Errorf("after two more steps it wrote:\n%s", more)
	}
}
