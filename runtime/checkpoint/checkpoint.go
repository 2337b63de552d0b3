// Package checkpoint keeps the saves of a training run, so that a run stopped at any moment by anything continues from
// a whole one.
//
//	run/lock               held by the process that trains
//	run/latest             the name of the newest save, for people and scripts
//	run/checkpoint-500/    one save: whatever the caller writes, and
//	    state.json         step, hashes of spec, tokenizer and data, metric, and what the caller adds
//	    checksums.json     size and SHA-256 of every other file; a folder without it is no save
//	run/.tmp-…             unfinished; removed by the next Lock
//
// A save is written to a .tmp- folder, every file of it synced, and the folder then renamed and the run's folder synced:
// it is there whole or not at all. Reading never trusts a folder's name: a save counts only if every file has the size
// and the checksum recorded.
package checkpoint

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

const (
	savePrefix    = "checkpoint-"
	replacePrefix = ".replaced-" // a save that another of the same step is about to replace
	latestFile    = "latest"
)

// State is what a save says about itself.
type State struct {
	Step          int
	SpecHash      string
	TokenizerHash string
	DataHash      string
	Extra         json.RawMessage // the caller's own; kept as compact JSON
	Metric        float64         // the lower the better, where HasMetric
	HasMetric     bool
}

// Match compares the hashes of a save with those of the program that wants to continue from it. The error lists those
// that differ, old → new. An empty hash in want matches any.
func (s State) Match(want State) error {
	var differ []string
	for _, h := range []struct{ what, old, new string }{
		{"spec", s.SpecHash, want.SpecHash}, {"tokenizer", s.TokenizerHash, want.TokenizerHash}, {"data", s.DataHash, want.DataHash},
	} {
		if h.new != "" && h.old != h.new {
			differ = append(differ, fmt.Sprintf("%s %s → %s", h.what, orNone(h.old), h.new))
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("the save at step %d was made with something else: %s", s.Step, strings.Join(differ, ", "))
}

func orNone(hash string) string {
	if hash == "" {
		return "(none)"
	}
	return hash
}

// Save adds a save to a run, whose folder it makes if missing (the parent must exist). files writes into the folder
// given whatever belongs to the save: weights, optimizer, tokenizer. A save of the same step is replaced. On an error,
// nothing of the new save is left, unless the error says that it is saved; the older ones are as they were either way. Only
// the process that holds the run's Lock may save.
func Save(run string, s State, files func(dir string) error) error {
	return save(disk.OS{}, run, s, files)
}

func save(fsys disk.FS, run string, s State, files func(dir string) error) error {
	state, err := encodeState(s)
	if err != nil {
		return err
	}
	if err := fsys.Mkdir(run); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	name := saveName(s.Step)
	final := filepath.Join(run, name)
	temp := disk.TempName(final)
	err = writeSave(fsys, temp, state, files)
	replaced := ""
	if err == nil {
		replaced, err = publish(fsys, temp, final)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("saving %s: %w", final, err), fsys.RemoveAll(temp))
	}
	// From here on the save is there; what can fail is what surrounds it.
	if err := finish(fsys, run, name, replaced); err != nil {
		return fmt.Errorf("%s is saved, but %w", final, err)
	}
	return nil
}

func finish(fsys disk.FS, run, name, replaced string) error {
	if err := fsys.SyncDir(run); err != nil {
		return fmt.Errorf("may not outlive a power failure: %w", err)
	}
	if replaced != "" {
		if err := retire(fsys, replaced); err != nil {
			return fmt.Errorf("the save it replaces was not removed: %w", err)
		}
	}
	err := disk.WriteFile(fsys, filepath.Join(run, latestFile), func(w io.Writer) error {
		_, err := io.WriteString(w, name+"\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("the pointer to it was not updated: %w", err)
	}
	return nil
}

// writeSave writes a whole save to a folder, and waits until it is on the disk.
func writeSave(fsys disk.FS, dir string, state []byte, files func(string) error) error {
	if err := fsys.Mkdir(dir); err != nil {
		return err
	}
	if err := files(dir); err != nil {
		return err
	}
	err := disk.WriteFile(fsys, filepath.Join(dir, stateFile), func(w io.Writer) error {
		_, err := w.Write(state)
		return err
	})
	if err != nil {
		return err
	}
	sums, err := sumAndSync(fsys, dir)
	if err != nil {
		return err
	}
	return disk.WriteFile(fsys, filepath.Join(dir, sumsFile), func(w io.Writer) error {
		_, err := w.Write(encodeSums(sums))
		return err
	})
}

// publish renames a finished save into place. A save already there steps aside first, to the name returned, and back if
// the rename fails; if the process dies in between, the next Lock puts it back.
func publish(fsys disk.FS, temp, final string) (replaced string, err error) {
	err = fsys.Rename(temp, final)
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	replaced = filepath.Join(filepath.Dir(final), replacePrefix+filepath.Base(final))
	if err := fsys.RemoveAll(replaced); err != nil {
		return "", err
	}
	if err := fsys.Rename(final, replaced); err != nil {
		return "", err
	}
	if err := fsys.Rename(temp, final); err != nil {
		return "", errors.Join(err, fsys.Rename(replaced, final))
	}
	return replaced, nil
}

// retire removes a save that is no longer wanted, in an order that never leaves half of one under a save's name.
func retire(fsys disk.FS, dir string) error {
	temp := disk.TempName(dir)
	if err := fsys.Rename(dir, temp); err != nil {
		return err
	}
	return fsys.RemoveAll(temp)
}

func saveName(step int) string { return savePrefix + strconv.Itoa(step) }

// saveStep returns the step in the name of a save's folder.
func saveStep(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, savePrefix)
	if !ok {
		return 0, false
	}
	step, err := strconv.Atoi(digits)
	return step, err == nil && step >= 0 && saveName(step) == name
}

// steps lists the steps of a run's folders that are named like saves, newest first.
func steps(fsys disk.FS, run string) ([]int, error) {
	entries, err := fsys.ReadDir(run)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if step, ok := saveStep(e.Name()); ok && e.IsDir() {
			list = append(list, step)
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list, nil
}

// Latest finds the newest save of a run whose every file verifies. Damaged ones are passed over, each reported to log,
// which may be nil, with the file at fault. Where a run has no save at all, or no folder, the error wraps
// fs.ErrNotExist; where all are damaged it does not, so that nobody starts over by mistake. A save written by a newer
// format is an error and not passed over.
func Latest(run string, log func(format string, args ...any)) (dir string, s State, err error) {
	list, err := steps(disk.OS{}, run)
	if err != nil {
		return "", s, err
	}
	var newest error
	for _, step := range list {
		dir := filepath.Join(run, saveName(step))
		s, err := Verify(dir)
		switch {
		case err == nil:
			return dir, s, nil
		case errors.Is(err, errNewer):
			return "", s, err
		case newest == nil:
			newest = err
		}
		if log != nil {
			log("%v; this save is passed over", err)
		}
	}
	if newest != nil {
		return "", s, fmt.Errorf("%s: none of its %d saves is whole; the newest: %v", run, len(list), newest)
	}
	return "", s, fmt.Errorf("%s: no saves: %w", run, fs.ErrNotExist)
}

// Best finds the save with the lowest metric whose every file verifies; of equal ones the newest. Where no save has a
// metric, the error wraps fs.ErrNotExist.
func Best(run string) (dir string, s State, err error) {
	list, err := steps(disk.OS{}, run)
	if err != nil {
		return "", s, err
	}
	var candidates []State
	for _, step := range list {
		if s, err := check(disk.OS{}, filepath.Join(run, saveName(step)), false); err == nil && s.HasMetric {
			candidates = append(candidates, s)
		}
	}
	slices.SortStableFunc(candidates, byMetric) // the list is newest first
	for _, c := range candidates {
		dir := filepath.Join(run, saveName(c.Step))
		if s, err := Verify(dir); err == nil {
			return dir, s, nil
		}
	}
	return "", s, fmt.Errorf("%s: no whole save with a metric: %w", run, fs.ErrNotExist)
}

func byMetric(a, b State) int { return cmp.Compare(a.Metric, b.Metric) }

// Prune removes the saves of a run except the newest keep (at least 1) and the one with the best metric. It removes
// nothing unless the newest of all verifies. Saves that are damaged or cannot be read do not count, and stay for a person
// to look at.
func Prune(run string, keep int) error { return prune(disk.OS{}, run, keep) }

func prune(fsys disk.FS, run string, keep int) error {
	if keep < 1 {
		return fmt.Errorf("keeping %d saves would lose the run; keep at least 1", keep)
	}
	list, err := steps(fsys, run)
	if err != nil || len(list) == 0 {
		return err
	}
	if _, err := check(fsys, filepath.Join(run, saveName(list[0])), true); err != nil {
		return fmt.Errorf("nothing is pruned, since the newest save is damaged: %w", err)
	}
	var whole []State // newest first
	for _, step := range list {
		if s, err := check(fsys, filepath.Join(run, saveName(step)), false); err == nil {
			whole = append(whole, s)
		}
	}
	best := -1
	for i, s := range whole {
		if s.HasMetric && (best < 0 || s.Metric < whole[best].Metric) {
			best = i
		}
	}
	for i, s := range whole {
		if i >= keep && i != best {
			if err := retire(fsys, filepath.Join(run, saveName(s.Step))); err != nil {
				return err
			}
		}
	}
	return fsys.SyncDir(run)
}
