package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

const (
	sumsFile = "checksums.json"
	maxSums  = 16 << 20 // bytes
)

// checksums.json has no version of its own, since nothing vouches for its bits: a damaged one must not look newer. The
// version is in state.json.

// sum is what checksums.json records of one file.
type sum struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Verify checks every file of a save against its size and SHA-256, and returns the save's state. The error names the
// first file at fault.
func Verify(dir string) (State, error) { return check(disk.OS{}, dir, true) }

// check verifies a save; without full, it compares sizes and reads no contents but the state.
func check(fsys disk.FS, dir string, full bool) (s State, err error) {
	fail := func(file string, err error) (State, error) {
		return State{}, fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
	}
	text, err := disk.ReadFile(fsys, filepath.Join(dir, sumsFile), maxSums)
	if err != nil {
		return s, err
	}
	sums, err := decodeSums(text)
	if err != nil {
		return fail(sumsFile, err)
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if err := checkFile(fsys, filepath.Join(dir, filepath.FromSlash(name)), sums[name], full); err != nil {
			return s, err
		}
	}
	text, err = disk.ReadFile(fsys, filepath.Join(dir, stateFile), maxState)
	if err != nil {
		return s, err
	}
	if s, err = decodeState(text); err != nil {
		return fail(stateFile, err)
	}
	if step, ok := saveStep(filepath.Base(dir)); ok && step != s.Step {
		return fail(stateFile, fmt.Errorf("step %d in a folder named for step %d", s.Step, step))
	}
	return s, nil
}

func checkFile(fsys disk.FS, path string, want sum, full bool) error {
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != want.Size {
		return fmt.Errorf("%s: %d bytes, %d were saved", path, info.Size(), want.Size)
	}
	if !full {
		return nil
	}
	got, err := sumOf(f)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s: its contents changed since it was saved (SHA-256 %.16s…, %.16s… was saved)", path, got.SHA256, want.SHA256)
	}
	return nil
}

func sumOf(f disk.File) (sum, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<16))
	return sum{n, hex.EncodeToString(h.Sum(nil))}, err
}

// sumAndSync returns the sums of all files in a folder and those in it, and waits until they are on the disk.
func sumAndSync(fsys disk.FS, root string) (map[string]sum, error) {
	sums := map[string]sum{}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := fsys.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() {
				err = walk(name)
			} else {
				sums[filepath.ToSlash(name)], err = sumAndSyncFile(fsys, filepath.Join(root, name))
			}
			if err != nil {
				return err
			}
		}
		return fsys.SyncDir(filepath.Join(root, dir))
	}
	return sums, walk("")
}

func sumAndSyncFile(fsys disk.FS, path string) (sum, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return sum{}, err
	}
	s, err := sumOf(f)
	if err == nil {
		err = f.Sync()
	}
	return s, errors.Join(err, f.Close())
}

func encodeSums(sums map[string]sum) []byte {
	text, err := json.MarshalIndent(map[string]any{"files": sums}, "", "  ")
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return append(text, '\n')
}

func decodeSums(text []byte) (map[string]sum, error) {
	sums := map[string]sum{}
	r := strictjson.NewReader(text)
	err := r.Object(func(key string) error {
		if key != "files" {
			return fmt.Errorf("unknown field %q", key)
		}
		return r.Object(func(name string) error {
			if !filepath.IsLocal(filepath.FromSlash(name)) {
				return fmt.Errorf("%q is not a file of the folder", name)
			}
			s, err := decodeSum(r)
			sums[name] = s
			return err
		})
	})
	if err == nil {
		err = r.End()
	}
	if _, ok := sums[stateFile]; err == nil && !ok {
		err = fmt.Errorf("%s is not listed", stateFile)
	}
	return sums, err
}

func decodeSum(r *strictjson.Reader) (s sum, err error) {
	err = r.Object(func(field string) (err error) {
		switch field {
		case "size":
			var n uint64
			n, err = r.Uint()
			s.Size = int64(n)
		case "sha256":
			s.SHA256, err = r.String()
		default:
			err = fmt.Errorf("unknown field %q", field)
		}
		return err
	})
	return s, err
}
