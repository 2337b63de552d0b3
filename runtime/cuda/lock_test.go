package cuda

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	thisDevice  = "GPU one, cuBLASLt 13.0.0"
	otherDevice = "GPU two, cuBLASLt 12.8.4"
)

func testAlgorithm(n uint64) algorithm { return algorithm{n, 0, 1 << 63, 3, 4, 5, 6, ^n} }

func hold(t *testing.T, l *Lock, where, product string, want algorithm) {
	t.Helper()
	if got, ok := l.find(where, product); !ok || got != want {
		t.Errorf("%s, %s: %v, %v, want %v", where, product, got, ok, want)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "products.lock")
	l := OpenLock(path)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a lock without entries wrote a file")
	}
	l.put(thisDevice, "m=1", testAlgorithm(1), 41700*time.Nanosecond)
	l.put(otherDevice, "m=1", testAlgorithm(2), time.Millisecond)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	again := OpenLock(path)
	if again.Note() != "" {
		t.Error(again.Note())
	}
	hold(t, again, thisDevice, "m=1", testAlgorithm(1))
	hold(t, again, otherDevice, "m=1", testAlgorithm(2))
	if _, ok := again.find(thisDevice, "m=2"); ok {
		t.Error("found what is not there")
	}
	if _, ok := again.find("GPU one, cuBLASLt 13.1.0", "m=1"); ok {
		t.Error("an algorithm of another version was found")
	}
	text, _ := os.ReadFile(path)
	for _, part := range []string{`"microseconds": 41.7`, `"algorithm": "0100000000000000`, `"GPU one, cuBLASLt 13.0.0": {`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s is not in\n%s", part, text)
		}
	}
	// Entries of others stay when this one adds to them.
	again.put(thisDevice, "m=2", testAlgorithm(3), time.Second)
	if err := again.Save(); err != nil {
		t.Fatal(err)
	}
	hold(t, OpenLock(path), otherDevice, "m=1", testAlgorithm(2))
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestLockDamaged(t *testing.T) {
	for name, c := range map[string]struct{ text, note string }{
		"empty":        {"", "is not used"},
		"no JSON":      {"\x00\x01\x02", "is not used"},
		"cut short":    {`{"format": 1, "devices": {"`, "is not used"},
		"other JSON":   {`[1, 2]`, "is not used"},
		"later format": {`{"format": 2, "devices": {}}`, "format 2 is not known"},
		"a product":    {`{"format": 1, "devices": {"` + thisDevice + `": {"m=1": 5}}}`, "1 damaged entries"},
		"no check":     {`{"format": 1, "devices": {"` + thisDevice + `": {"m=1": {"algorithm": "` + strings.Repeat("00", 64) + `"}}}}`, "1 damaged entries"},
	} {
		path := filepath.Join(t.TempDir(), "products.lock")
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		l := OpenLock(path)
		if !strings.Contains(l.Note(), c.note) {
			t.Errorf("%s: note %q", name, l.Note())
		}
		if _, ok := l.find(thisDevice, "m=1"); ok {
			t.Errorf("%s: an entry was found", name)
		}
		l.put(thisDevice, "m=1", testAlgorithm(7), time.Second)
		if err := l.Save(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l = OpenLock(path)
		if l.Note() != "" {
			t.Errorf("%s: after Save: %s", name, l.Note())
		}
		hold(t, l, thisDevice, "m=1", testAlgorithm(7))
	}
}

// TestLockChecks changes every byte of a file: an entry is found whole or not at all.
func TestLockChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "products.lock")
	l := OpenLock(path)
	l.put(thisDevice, "m=1", testAlgorithm(1), time.Second)
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		x := append([]byte{}, whole...)
		x[i] ^= 1
		if err := os.WriteFile(path, x, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, ok := OpenLock(path).find(thisDevice, "m=1"); ok && got != testAlgorithm(1) {
			t.Fatalf("byte %d changed: %v", i, got)
		}
	}
}

// TestLockOfWrongLength has entries whose check is right and whose algorithm is none.
func TestLockOfWrongLength(t *testing.T) {
	for _, algorithm := range []string{"", "00", strings.Repeat("0", 127), strings.Repeat("00", 65), strings.Repeat("zz", 64)} {
		e := lockEntry{Algorithm: algorithm}
		e.Check = e.sum(thisDevice, "m=1")
		text, err := json.Marshal(lockFile{lockFormat, lockDevices{thisDevice: {"m=1": e}}})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "products.lock")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := OpenLock(path).find(thisDevice, "m=1"); ok {
			t.Errorf("%q is an algorithm", algorithm)
		}
	}
}

func TestLockConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "products.lock")
	const writers = 8
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			l := OpenLock(path)
			for i := range 4 {
				l.put(thisDevice, fmt.Sprintf("m=%d n=%d", w, i), testAlgorithm(uint64(10*w+i)), time.Second)
				if err := l.Save(); err != nil {
					t.Error(err)
				}
				if l := OpenLock(path); l.Note() != "" {
					t.Error(l.Note()) // a reader never sees half a file
				}
			}
		})
	}
	all.Wait()
	l := OpenLock(path)
	for w := range writers {
		for i := range 4 {
			hold(t, l, thisDevice, fmt.Sprintf("m=%d n=%d", w, i), testAlgorithm(uint64(10*w+i)))
		}
	}
}

func TestLockCannotBeWritten(t *testing.T) {
	l := OpenLock(filepath.Join(t.TempDir(), "missing", "products.lock"))
	if l.Note() != "" {
		t.Error(l.Note())
	}
	l.put(thisDevice, "m=1", testAlgorithm(1), time.Second)
	if err := l.Save(); err == nil || !strings.Contains(err.Error(), "the lock of products cannot be saved") {
		t.Error(err)
	}
	hold(t, l, thisDevice, "m=1", testAlgorithm(1)) // in memory it is good all the same
}

func FuzzLock(f *testing.F) {
	e := lockEntry{Algorithm: strings.Repeat("00", 64)}
	e.Check = e.sum(thisDevice, "m=1")
	text, err := json.Marshal(lockFile{lockFormat, lockDevices{thisDevice: {"m=1": e}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":1,"devices":null}`))
	path := filepath.Join(f.TempDir(), "products.lock")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		l := OpenLock(path)
		l.find(thisDevice, "m=1")
		l.put(thisDevice, "m=2", algorithm{}, 0)
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		if l = OpenLock(path); l.Note() != "" {
			t.Fatalf("%s after %q", l.Note(), text)
		}
	})
}
