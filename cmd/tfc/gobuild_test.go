package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestGoBuild: a program has NVML where there are a driver and cgo, and only there; and where it cannot have it, it is
// compiled all the same, with a note.
func TestGoBuild(t *testing.T) {
	out, err := exec.Command("go", "env", "CGO_ENABLED").Output()
	if runtime.GOOS != "linux" || err != nil || strings.TrimSpace(string(out)) != "1" {
		t.Skipf("no cgo: %s %v", out, err)
	}
	folder := t.TempDir()
	driver := filepath.Join(folder, "version")
	if err := os.WriteFile(driver, []byte("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "program")
	for _, c := range []struct {
		name, driver string
		env          [2]string
		nvml         bool
		note         string
	}{
		{"a driver and cgo", driver, [2]string{}, true, ""},
		{"no driver", filepath.Join(folder, "none"), [2]string{}, false, ""},
		{"no cgo", driver, [2]string{"CGO_ENABLED", "0"}, false, ""},
		{"an NVML that does not compile", driver, [2]string{"CGO_CFLAGS", "-O2 -DnvmlInit_v2=0"}, false, "does not compile with NVML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			note, err := goBuild("../..", "./cmd/tfc", program, c.driver)
			if err != nil || (note == "") != (c.note == "") || !strings.Contains(note, c.note) {
				t.Fatalf("note %q, %v", note, err)
			}
			said, err := exec.Command("go", "version", "-m", program).Output()
			if err != nil || slices.Contains(strings.Fields(string(said)), "-tags=nvml") != c.nvml {
				t.Errorf("%v\n%s", err, said)
			}
			if out, err := exec.Command(program, "doctor").CombinedOutput(); err != nil {
				t.Errorf("it does not start where there is no driver: %v\n%s", err, out)
			}
		})
	}
	t.Setenv("CC", "no-such-compiler")
	if flags, _ := nvmlBuild("go", driver); flags != nil {
		t.Errorf("%v without a C compiler", flags)
	}
}
