package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGeneratedFilesAreFresh regenerates the kernels and compares them with the committed ones, but for the first line,
// which names the files written.
func TestGeneratedFilesAreFresh(t *testing.T) {
	dir := t.TempDir()
	code, stubs := filepath.Join(dir, "vector_amd64.s"), filepath.Join(dir, "vector_amd64.go")
	if out, err := exec.Command("go", "run", ".", "-out", code, "-stubs", stubs, "-pkg", "cpu").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, fresh := range []string{code, stubs} {
		committed := filepath.Join("..", filepath.Base(fresh))
		if !bytes.Equal(body(t, fresh), body(t, committed)) {
			t.Errorf("%s is stale: run go generate in runtime/cpu", committed)
		}
	}
}

func body(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("\n"))
	return rest
}
