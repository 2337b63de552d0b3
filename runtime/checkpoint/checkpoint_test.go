package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/disk/disktest"
)

// contents writes a model's file and one in a sub-folder.
func contents(fsys disk.FS, text string) func(string) error {
	return func(dir string) error {
		for _, name := range []string{"model.bin", "parts/a.bin"} {
			if sub := filepath.Dir(filepath.Join(dir, name)); sub != dir {
				if err := fsys.Mkdir(sub); err != nil {
					return err
				}
			}
			err := disk.WriteFile(fsys, filepath.Join(dir, name), func(w io.Writer) error {
				_, err := io.WriteString(w, text)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func mustSave(t *testing.T, run string, s State, text string) {
	t.Helper()
	if err := Save(run, s, contents(disk.OS{}, text)); err != nil {
		t.Fatal(err)
	}
}

// latest returns the step and contents of the newest save, and what was reported.
func latest(t *testing.T, run string) (step int, text string, reports []string) {
	t.Helper()
	dir, s, err := Latest(run, func(format string, args ...any) { reports = append(reports, fmt.Sprintf(format, args...)) })
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "model.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return s.Step, string(data), reports
}

func duplicate(t *testing.T, run string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(to, os.DirFS(run)); err != nil {
		t.Fatal(err)
	}
	return to
}

func folders(t *testing.T, run string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(run)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestSaveAndLatest(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if _, _, err := Latest(run, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no run: %v", err)
	}
	want := State{9, "spec", "tok", "data", json.RawMessage(`{"losses":[1.5,0.1],"note":"<é>"}`), 2.25, true}
	mustSave(t, run, want, "nine")
	mustSave(t, run, State{Step: 10}, "ten") // 10 is after 9, though not in the order of names
	dir, s, err := Latest(run, t.Errorf)
	if err != nil || dir != filepath.Join(run, "checkpoint-10") || !reflect.DeepEqual(s, State{Step: 10}) {
		t.Errorf("latest %s, %+v, %v", dir, s, err)
	}
	if got, err := Verify(filepath.Join(run, "checkpoint-9")); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("state %+v, %v, want %+v", got, err, want)
	}
	if pointer, _ := os.ReadFile(filepath.Join(run, "latest")); string(pointer) != "checkpoint-10\n" {
		t.Errorf("the pointer says %q", pointer)
	}
	if got := folders(t, run); !slices.Equal(got, []string{"checkpoint-10", "checkpoint-9"}) {
		t.Errorf("the run holds %v", got)
	}
	mustSave(t, run, State{Step: 10}, "ten again")
	if step, text, _ := latest(t, run); step != 10 || text != "ten again" {
		t.Errorf("after the same step again: step %d, %q", step, text)
	}
	if got := folders(t, run); len(got) != 2 {
		t.Errorf("the run holds %v", got)
	}
}

func TestSaveRefuses(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	for _, s := range []State{
		{Metric: math.NaN(), HasMetric: true}, {Metric: math.Inf(1), HasMetric: true}, {Step: -1},
		{Extra: json.RawMessage(`{"a":`)}, {Extra: json.RawMessage(`{"a":1,"a":2}`)},
	} {
		if err := Save(run, s, contents(disk.OS{}, "x")); err == nil {
			t.Errorf("%+v is saved", s)
		}
	}
	if err := Save(run, State{}, func(string) error { return errors.New("no weights") }); err == nil || !strings.Contains(err.Error(), "no weights") {
		t.Errorf("files fails: %v", err)
	}
	if got := folders(t, run); len(got) != 0 {
		t.Errorf("the run holds %v", got)
	}
}

func TestMatch(t *testing.T) {
	saved := State{Step: 5, SpecHash: "a", TokenizerHash: "b"}
	for _, want := range []State{{}, {SpecHash: "a"}, {SpecHash: "a", TokenizerHash: "b"}} {
		if err := saved.Match(want); err != nil {
			t.Errorf("%+v: %v", want, err)
		}
	}
	err := saved.Match(State{SpecHash: "x", TokenizerHash: "b", DataHash: "d"})
	if err == nil || !strings.HasSuffix(err.Error(), ": spec a → x, data (none) → d") {
		t.Errorf("error %v", err)
	}
}

// Every byte of every file matters: whichever has a bit flipped, the save before is used and the file named.
func TestFlippedBits(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	mustSave(t, run, State{Step: 1}, "good")
	mustSave(t, run, State{Step: 2, SpecHash: "s"}, "flipped")
	for _, name := range []string{"model.bin", "parts/a.bin", stateFile, sumsFile} {
		path := filepath.Join(run, "checkpoint-2", name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range good {
			bit := 8*i + i%8
			bad := slices.Clone(good)
			bad[i] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			step, text, reports := latest(t, run)
			if step != 1 || text != "good" || len(reports) != 1 || !strings.Contains(reports[0], filepath.Join(run, "checkpoint-2")) {
				t.Fatalf("%s, bit %d: step %d, reports %v", name, bit, step, reports)
			}
			if name != sumsFile && !strings.Contains(reports[0], path) { // a flipped list may name any file
				t.Fatalf("%s, bit %d: the report %q does not name the file", name, bit, reports[0])
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if step, _, _ := latest(t, run); step != 2 {
		t.Error("restored, and still passed over")
	}
}

func TestDamagedSaves(t *testing.T) {
	cases := []struct {
		name, want string
		damage     func(dir string) error
	}{
		{"file cut short", "model.bin: 0 bytes, 3 were saved", func(dir string) error { return os.Truncate(filepath.Join(dir, "model.bin"), 0) }},
		{"file missing", "model.bin: no such file", func(dir string) error { return os.Remove(filepath.Join(dir, "model.bin")) }},
		{"no checksums", "checksums.json: no such file", func(dir string) error { return os.Remove(filepath.Join(dir, sumsFile)) }},
		{"empty folder", "checksums.json: no such file", func(dir string) error { return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)) }},
		{"a link for a file", "model.bin: not a regular file", func(dir string) error {
			path := filepath.Join(dir, "model.bin")
			return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
		}},
		{"a copy of another step", "step 1 in a folder named for step 2", func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join(filepath.Dir(dir), "checkpoint-1"))))
		}},
		{"file outside", `"../lock" is not a file of the folder`, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, sumsFile), []byte(`{"files":{"../lock":{"size":0,"sha256":""}}}`), 0o644)
		}},
		{"nothing listed", "state.json is not listed", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, sumsFile), []byte(`{"files":{}}`), 0o644)
		}},
	}
	for _, c := range cases {
		run := filepath.Join(t.TempDir(), "run")
		mustSave(t, run, State{Step: 1}, "one")
		mustSave(t, run, State{Step: 2}, "two")
		if err := c.damage(filepath.Join(run, "checkpoint-2")); err != nil {
			t.Fatal(err)
		}
		step, _, reports := latest(t, run)
		if step != 1 || len(reports) != 1 || !strings.Contains(reports[0], c.want) {
			t.Errorf("%s: step %d, reports %v, want one with %q", c.name, step, reports, c.want)
		}
		if err := Prune(run, 1); err == nil || !strings.Contains(err.Error(), "nothing is pruned") || len(folders(t, run)) != 2 {
			t.Errorf("%s: pruned: %v", c.name, err)
		}
	}
}

func TestAllDamagedIsNotAnEmptyRun(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	mustSave(t, run, State{Step: 1}, "one")
	if err := os.Truncate(filepath.Join(run, "checkpoint-1", "model.bin"), 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Latest(run, nil); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none of its 1 saves is whole") {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(filepath.Join(run, "checkpoint-1", "model.bin")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Latest(run, nil); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file passes for a missing run: %v", err)
	}
}

// A save of a later format is not damaged: falling back from it would throw work away.
func TestNewerFormat(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	mustSave(t, run, State{Step: 1}, "one")
	mustSave(t, run, State{Step: 2}, "two")
	dir := filepath.Join(run, "checkpoint-2")
	state, _ := os.ReadFile(filepath.Join(dir, stateFile))
	newer := strings.Replace(string(state), `"version": 1`, `"version": 2`, 1)
	if err := errors.Join(os.Remove(filepath.Join(dir, sumsFile)), os.WriteFile(filepath.Join(dir, stateFile), []byte(newer), 0o644)); err != nil {
		t.Fatal(err)
	}
	sums, err := sumAndSync(disk.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sumsFile), encodeSums(sums), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Latest(run, t.Errorf); err == nil || !strings.Contains(err.Error(), "a newer version of tfc: format 2, this one reads 1") {
		t.Errorf("error %v", err)
	}
}

func TestStateIsStrict(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"step":1,"step":2}`:                 "given twice",
		`{"version":1,"Step":1}`:                          "unknown field",
		`{"step":1}`:                                      "no version",
		`{"version":1,"step":-1}`:                         "not a whole number",
		`{"version":1,"step":9223372036854775808}`:        "out of range",
		`{"version":1,"metric":null}`:                     "a number is expected",
		`{"version":1} {}`:                                "more text after the end",
		`{"version":1,"metric":1e999}`:                    "out of range",
		`{"version":1,"extra":` + strings.Repeat("[", 99): "nested more than",
	} {
		if _, err := decodeState([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestBestAndPrune(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if _, _, err := Best(run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no run: %v", err)
	}
	metrics := map[int]float64{1: 5, 2: 3, 3: 3, 4: 4, 5: 6}
	for step := 1; step <= 5; step++ {
		mustSave(t, run, State{Step: step, Metric: metrics[step], HasMetric: true}, "x")
	}
	mustSave(t, run, State{Step: 6}, "x") // no metric: never the best
	if _, s, err := Best(run); err != nil || s.Step != 3 {
		t.Errorf("best is step %d, %v", s.Step, err)
	}
	if err := Prune(run, 0); err == nil {
		t.Error("pruned to nothing")
	}
	if err := os.Truncate(filepath.Join(run, "checkpoint-5", "model.bin"), 0); err != nil {
		t.Fatal(err)
	}
	if err := Prune(run, 2); err != nil { // 5 is damaged: it neither counts nor goes
		t.Fatal(err)
	}
	if got := folders(t, run); !slices.Equal(got, []string{"checkpoint-3", "checkpoint-4", "checkpoint-5", "checkpoint-6"}) {
		t.Errorf("kept %v", got)
	}
	if err := os.WriteFile(filepath.Join(run, "checkpoint-3", "model.bin"), []byte("y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, s, err := Best(run); err != nil || s.Step != 4 {
		t.Errorf("with the best damaged: step %d, %v", s.Step, err)
	}
}

// Whichever call of a save fails, once or from then on, every older save still loads; a save that reports success is
// the newest; and what a failed save leaves, the next start clears away.
func TestSaveFailingAnyCall(t *testing.T) {
	template := filepath.Join(t.TempDir(), "run")
	mustSave(t, template, State{Step: 0}, "zero")
	mustSave(t, template, State{Step: 1}, "one")
	for _, dead := range []bool{false, true} {
		for _, step := range []int{2, 1} { // a new step, and one that replaces the save
			for n, done := 1, false; !done; n++ {
				run := duplicate(t, template)
				faulty := &disktest.Faulty{FS: disk.OS{}, FailAt: n, Dead: dead}
				err := save(faulty, run, State{Step: step}, contents(faulty, "new"))
				where := fmt.Sprintf("dead %v, step %d, call %d, error %v", dead, step, n, err)
				done = faulty.Calls < n
				if done != (err == nil) {
					t.Errorf("%s: of %d calls", where, faulty.Calls)
				}
				if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("%s: the cause is lost", where)
				}
				if _, err := Verify(filepath.Join(run, "checkpoint-0")); err != nil {
					t.Fatalf("%s: the oldest save is hurt: %v", where, err)
				}
				if !dead {
					latest(t, run) // without the clearing away of the next start
					if _, err := Verify(filepath.Join(run, "checkpoint-1")); err != nil {
						t.Errorf("%s: %v", where, err)
					}
					for _, name := range folders(t, run) {
						if strings.HasPrefix(name, disk.TempPrefix+savePrefix) && (err == nil || !strings.Contains(err.Error(), "remove")) {
							t.Errorf("%s: left %s", where, name)
						}
					}
				}
				unlock, lockErr := Lock(run)
				if lockErr != nil {
					t.Fatalf("%s: %v", where, lockErr)
				}
				unlock()
				got, text, reports := latest(t, run)
				isNew := got == step && text == "new"
				if isOld := got == 1 && text == "one"; len(reports) > 0 || !isNew && (!isOld || err == nil) {
					t.Fatalf("%s: step %d, %q, reports %v", where, got, text, reports)
				}
				if err != nil && strings.Contains(err.Error(), "is saved, but") != isNew {
					t.Errorf("%s: and the newest save is step %d, %q", where, got, text)
				}
				want := 2
				if isNew && step == 2 {
					want = 3
				}
				if got := folders(t, run); len(got) != want {
					t.Errorf("%s: the run holds %v", where, got)
				}
			}
		}
	}
}

// A prune that fails anywhere leaves the newest save, the best, and no half save under a save's name.
func TestPruneFailingAnyCall(t *testing.T) {
	template := filepath.Join(t.TempDir(), "run")
	for step := range 4 {
		mustSave(t, template, State{Step: step, Metric: float64(step), HasMetric: true}, "x")
	}
	for n := 1; ; n++ {
		run := duplicate(t, template)
		faulty := &disktest.Faulty{FS: disk.OS{}, FailAt: n}
		err := prune(faulty, run, 1)
		list, _ := steps(disk.OS{}, run)
		for _, step := range list {
			if _, err := Verify(filepath.Join(run, saveName(step))); err != nil {
				t.Fatalf("call %d: %v", n, err)
			}
		}
		if !slices.Contains(list, 3) || !slices.Contains(list, 0) {
			t.Fatalf("call %d: error %v, left %v", n, err, list)
		}
		if faulty.Calls < n {
			if err != nil || len(list) != 2 {
				t.Fatalf("left %v, %v", list, err)
			}
			return
		}
	}
}
