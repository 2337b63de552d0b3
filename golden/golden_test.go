package golden

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorder stands in for a test: it keeps what fails and what is to run at the end.
type recorder struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any) {
	r.failures = append(r.failures, args[0].(error).Error())
}
func (r *recorder) Errorf(format string, args ...any) { r.failures = append(r.failures, format) }

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	same, other := filepath.Join(dir, "same.txt"), filepath.Join(dir, "deep", "other.txt")
	if err := os.WriteFile(same, []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &recorder{TB: t}
	if Check(r, same, "text\n"); len(r.failures) != 0 {
		t.Errorf("an equal file fails: %q", r.failures)
	}
	if Check(r, same, "text"); len(r.failures) != 1 {
		t.Errorf("a different text: %q", r.failures)
	}
	if Check(r, other, "text"); len(r.failures) != 2 || !strings.Contains(r.failures[1], "-update") {
		t.Errorf("a missing file: %q", r.failures)
	}
	*update = true
	defer func() { *update = false }()
	Check(r, other, "new")
	*update = false
	if Check(r, other, "new"); len(r.failures) != 2 {
		t.Errorf("a file just written: %q", r.failures)
	}
}

func TestOwns(t *testing.T) {
	dir := t.TempDir()
	known, stray := filepath.Join(dir, "known.txt"), filepath.Join(dir, "sub", "stray.txt")
	if err := os.Mkdir(filepath.Dir(stray), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{known, stray} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &recorder{TB: t}
	Owns(r, dir)
	Check(r, known, "")
	end := func() {
		for _, f := range r.cleanups {
			f()
		}
	}
	if end(); len(r.failures) != 1 || !strings.Contains(r.failures[0], "belongs to no test") {
		t.Errorf("a stray file: %q", r.failures)
	}
	*update = true
	defer func() { *update = false }()
	if end(); len(r.failures) != 1 {
		t.Errorf("removing it: %q", r.failures)
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("the stray file is still there: %v", err)
	}
	if _, err := os.Stat(known); err != nil {
		t.Error(err)
	}
}
