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

func all(algorithm) bool { return true }

func save(t testing.TB, l *Lock) {
	t.Helper()
	l.Save()
	for _, n := range l.Notes() {
		t.Error(n)
	}
}

func hold(t *testing.T, l *Lock, where, product string, want algorithm) {
	t.Helper()
	if got, ok := l.find(where, product, all); !ok || got != want {
		t.Errorf("%s, %s: %v, %v, want %v", where, product, got, ok, want)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "products.lock")
	l := OpenLock(path, "")
	save(t, l)
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a lock without entries wrote a file")
	}
	l.put(thisDevice, "m=1", testAlgorithm(1), 41700*time.Nanosecond)
	l.put(otherDevice, "m=1", testAlgorithm(2), time.Millisecond)
	save(t, l)
	again := OpenLock(path, "")
	if notes := again.Notes(); notes != nil {
		t.Error(notes)
	}
	hold(t, again, thisDevice, "m=1", testAlgorithm(1))
	hold(t, again, otherDevice, "m=1", testAlgorithm(2))
	if _, ok := again.find(thisDevice, "m=2", all); ok {
		t.Error("found what is not there")
	}
	if _, ok := again.find("GPU one, cuBLASLt 13.1.0", "m=1", all); ok {
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
	save(t, again)
	hold(t, OpenLock(path, ""), otherDevice, "m=1", testAlgorithm(2))
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
		l := OpenLock(path, "")
		if notes := l.Notes(); len(notes) != 1 || !strings.Contains(notes[0], c.note) || l.Notes() != nil {
			t.Errorf("%s: notes %q", name, notes)
		}
		if _, ok := l.find(thisDevice, "m=1", all); ok {
			t.Errorf("%s: an entry was found", name)
		}
		l.put(thisDevice, "m=1", testAlgorithm(7), time.Second)
		save(t, l)
		l = OpenLock(path, "")
		if notes := l.Notes(); notes != nil {
			t.Errorf("%s: after Save: %s", name, notes)
		}
		hold(t, l, thisDevice, "m=1", testAlgorithm(7))
	}
}

// TestLockChecks changes every byte of a file: an entry is found whole or not at all.
func TestLockChecks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "products.lock")
	l := OpenLock(path, "")
	l.put(thisDevice, "m=1", testAlgorithm(1), time.Second)
	save(t, l)
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
		if got, ok := OpenLock(path, "").find(thisDevice, "m=1", all); ok && got != testAlgorithm(1) {
			t.Fatalf("byte %d changed: %v", i, got)
		}
	}
}

// TestLockOfWrongLength has entries whose check is right and whose algorithm is none.
func TestLockOfWrongLength(t *testing.T) {
	for _, algorithm := range []string{"", "00", strings.Repeat("0", 127), strings.Repeat("00", 65), strings.Repeat("zz", 64)} {
		e := lockEntry{Algorithm: algorithm}
		e.Check = e.sum(thisDevice, "m=1")
		text, err := json.Marshal(lockText{lockFormat, lockDevices{thisDevice: {"m=1": e}}})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "products.lock")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := OpenLock(path, "").find(thisDevice, "m=1", all); ok {
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
			l := OpenLock(path, "")
			for i := range 4 {
				l.put(thisDevice, fmt.Sprintf("m=%d n=%d", w, i), testAlgorithm(uint64(10*w+i)), time.Second)
				save(t, l)
				for _, n := range OpenLock(path, "").Notes() {
					t.Error(n) // a reader never sees half a file
				}
			}
		})
	}
	all.Wait()
	l := OpenLock(path, "")
	for w := range writers {
		for i := range 4 {
			hold(t, l, thisDevice, fmt.Sprintf("m=%d n=%d", w, i), testAlgorithm(uint64(10*w+i)))
		}
	}
}

func TestLockCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(t.TempDir(), "tuned.json")
	l := OpenLock(run, filepath.Join(file, "products.json"))
	l.Notes() // that it cannot be read
	for range 2 {
		l.choosing()
		l.put(thisDevice, "m=1", testAlgorithm(1), time.Second)
		l.Save()
		if notes := l.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "products.json cannot be saved") {
			t.Error(notes)
		}
	}
	hold(t, l, thisDevice, "m=1", testAlgorithm(1)) // in memory it is good all the same
	hold(t, OpenLock(run, ""), thisDevice, "m=1", testAlgorithm(1))
}

// TestLockOfRunAndMachine: the run's choice wins, the machine's is taken over by the run, what was not timed is the run's
// alone, and an entry that is refused is replaced.
func TestLockOfRunAndMachine(t *testing.T) {
	dir := t.TempDir()
	machine, run, other := filepath.Join(dir, "cache", "products.json"), filepath.Join(dir, "tuned.json"), filepath.Join(dir, "other.json")
	l := OpenLock(run, machine)
	l.put(thisDevice, "m=1", testAlgorithm(1), time.Second)
	l.put(thisDevice, "m=2", testAlgorithm(2), 0)
	save(t, l)
	if _, ok := OpenLock("", machine).find(thisDevice, "m=2", all); ok {
		t.Error("what was not timed is in the machine's lock")
	}
	l = OpenLock(other, machine)
	hold(t, l, thisDevice, "m=1", testAlgorithm(1))
	save(t, l)
	l = OpenLock("", machine)
	l.Anew = true
	l.put(thisDevice, "m=1", testAlgorithm(3), time.Second)
	save(t, l)
	hold(t, OpenLock("", machine), thisDevice, "m=1", testAlgorithm(3))
	hold(t, OpenLock(run, machine), thisDevice, "m=1", testAlgorithm(1))
	hold(t, OpenLock(other, machine), thisDevice, "m=1", testAlgorithm(1))
	hold(t, OpenLock(filepath.Join(dir, "new.json"), machine), thisDevice, "m=1", testAlgorithm(3))

	// A second process that chose at the same time does not replace the first one's choice, unless that is refused.
	for _, refused := range []bool{false, true} {
		path := filepath.Join(dir, fmt.Sprintf("raced %v.json", refused))
		first, second := OpenLock(path, ""), OpenLock(path, "")
		first.put(thisDevice, "m=1", testAlgorithm(5), time.Second)
		save(t, first)
		want := testAlgorithm(5)
		if refused {
			want = testAlgorithm(6)
			second = OpenLock(path, "")
			if _, ok := second.find(thisDevice, "m=1", func(algorithm) bool { return false }); ok {
				t.Error("a refused algorithm is found")
			}
		}
		second.put(thisDevice, "m=1", testAlgorithm(6), time.Second)
		save(t, second)
		hold(t, OpenLock(path, ""), thisDevice, "m=1", want)
	}
}

// TestLockChoosing: while one chooses, others wait, and then find what it chose.
func TestLockChoosing(t *testing.T) {
	machine := filepath.Join(t.TempDir(), "cache", "products.json")
	chosen := 0
	var wait sync.WaitGroup
	for i := range 6 {
		wait.Go(func() {
			l := OpenLock("", machine)
			if _, ok := l.find(thisDevice, "m=1", all); !ok {
				l.choosing()
				if _, ok := l.find(thisDevice, "m=1", all); !ok {
					chosen++
					l.put(thisDevice, "m=1", testAlgorithm(uint64(i)), time.Second)
				}
			}
			save(t, l)
		})
	}
	wait.Wait()
	if chosen != 1 {
		t.Errorf("%d have chosen", chosen)
	}
}

func FuzzLock(f *testing.F) {
	e := lockEntry{Algorithm: strings.Repeat("00", 64)}
	e.Check = e.sum(thisDevice, "m=1")
	text, err := json.Marshal(lockText{lockFormat, lockDevices{thisDevice: {"m=1": e}}})
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
		l := OpenLock(path, "")
		l.find(thisDevice, "m=1", all)
		l.put(thisDevice, "m=2", algorithm{}, 0)
		save(t, l)
		if notes := OpenLock(path, "").Notes(); notes != nil {
			t.Fatalf("%s after %q", notes, text)
		}
	})
}
