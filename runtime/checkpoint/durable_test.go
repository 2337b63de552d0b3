package checkpoint

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// tracker knows what a power failure could still lose: files and folders changed since they were last synced.
type tracker struct {
	disk.OS
	t       *testing.T
	pending map[string]bool
}

func (f *tracker) Mkdir(path string) error {
	f.pending[filepath.Dir(path)] = true
	return f.OS.Mkdir(path)
}

func (f *tracker) Create(path string) (disk.File, error) {
	f.pending[path], f.pending[filepath.Dir(path)] = true, true
	file, err := f.OS.Create(path)
	return &trackedFile{file, f, path}, err
}

func (f *tracker) Open(path string) (disk.File, error) {
	file, err := f.OS.Open(path)
	return &trackedFile{file, f, path}, err
}

func (f *tracker) Rename(from, to string) error {
	for path := range f.pending {
		if path == from || strings.HasPrefix(path, from+"/") {
			f.t.Errorf("%s gets its name while %s is not on the disk", to, path)
		}
	}
	if strings.Contains(from, replacePrefix) && f.pending[filepath.Dir(from)] {
		f.t.Errorf("%s goes before the name of what replaces it is on the disk", from)
	}
	f.pending[filepath.Dir(from)], f.pending[filepath.Dir(to)] = true, true
	return f.OS.Rename(from, to)
}

func (f *tracker) SyncDir(path string) error {
	delete(f.pending, path)
	return f.OS.SyncDir(path)
}

type trackedFile struct {
	disk.File
	disk *tracker
	path string
}

func (f *trackedFile) Sync() error {
	delete(f.disk.pending, f.path)
	return f.File.Sync()
}

// A save has its name only once all of it is on the disk, and Save returns only once the name is too: files that the
// caller did not sync included.
func TestNothingIsLostToAPowerFailure(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	for _, step := range []int{1, 2, 2} {
		tracked := &tracker{t: t, pending: map[string]bool{}}
		err := save(tracked, run, State{Step: step}, func(dir string) error {
			if err := tracked.Mkdir(filepath.Join(dir, "parts")); err != nil {
				return err
			}
			for _, name := range []string{"model.bin", "parts/a.bin"} {
				f, err := tracked.Create(filepath.Join(dir, name))
				if err != nil {
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		delete(tracked.pending, filepath.Dir(run)) // the caller's folder
		for path := range tracked.pending {
			t.Errorf("step %d: %s may be lost", step, path)
		}
	}
}
