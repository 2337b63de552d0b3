// Package golden compares what tests get with files, and keeps folders of such files free of strays. Run tests with
// -update to write the files; look at the difference before keeping it.
package golden

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

// Updating says whether golden files are being written.
func Updating() bool { return *update }

var (
	mu      sync.Mutex
	checked = map[string]bool{} // files that a test has compared or written, by cleaned path
)

// Check compares got with the file at path, or writes it with -update. A missing file fails.
func Check(t testing.TB, path, got string) {
	t.Helper()
	mu.Lock()
	checked[filepath.Clean(path)] = true
	mu.Unlock()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%v; run this test with -update to write it", err)
		return
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// Owns declares that t checks every file under dir. When t ends, a file that it did not check fails it; with -update
// such a file is removed, unless t failed. A run of some subtests only, as -run Test/case, is not judged.
func Owns(t testing.TB, dir string) {
	t.Helper()
	if run := flag.Lookup("test.run"); run != nil && strings.Contains(run.Value.String(), "/") {
		return
	}
	t.Cleanup(func() {
		strays, err := unchecked(dir)
		if err != nil {
			t.Error(err)
		}
		for _, path := range strays {
			if !*update || t.Failed() { // a test that failed may not have come to it
				t.Errorf("%s belongs to no test; remove it, or run with -update", path)
			} else if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	})
}

// unchecked lists the files under dir that no test has checked.
func unchecked(dir string) (paths []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		mu.Lock()
		defer mu.Unlock()
		if err == nil && !e.IsDir() && !checked[filepath.Clean(path)] {
			paths = append(paths, path)
		}
		return err
	})
	return paths, err
}
