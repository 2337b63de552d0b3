package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

const lockFile = "lock"

// ErrLocked is wrapped by the error of Lock where another process trains in the run's folder.
var ErrLocked = errors.New("locked")

// Lock makes the calling process the only one that saves to a run, whose folder it makes if missing (the parent must
// exist), and clears away what killed saves left there. The error for a run that is in use wraps ErrLocked and names the
// holder as pid@host. The kernel frees the lock when the process ends, however it ends; unlock frees it earlier.
func Lock(run string) (unlock func(), err error) {
	if err := os.Mkdir(run, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(run, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := lock(f, run); err != nil {
		f.Close()
		return nil, err
	}
	if err := clean(disk.OS{}, run); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: clearing away unfinished saves: %w", run, err)
	}
	return func() { f.Close() }, nil
}

func lock(f *os.File, run string) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s is %w by %s, which trains there", run, ErrLocked, holder(f))
	}
	if err != nil {
		return fmt.Errorf("%s: flock: %w", f.Name(), err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "%d@%s\n", os.Getpid(), host), 0)
	return err
}

// holder reads who holds the lock, as written by lock.
func holder(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 300))
	name := strings.TrimSpace(string(text))
	if err != nil || name == "" {
		return "another process"
	}
	return strings.Trim(fmt.Sprintf("%q", name), `"`) // no control characters to the terminal
}

// clean removes unfinished saves, and puts back a save that was about to be replaced by one that never came.
func clean(fsys disk.FS, run string) error {
	entries, err := fsys.ReadDir(run)
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	changed := false
	for _, e := range entries {
		path := filepath.Join(run, e.Name())
		saved, replaced := strings.CutPrefix(e.Name(), replacePrefix)
		switch {
		case replaced && !names[saved]:
			err = fsys.Rename(path, filepath.Join(run, saved))
		case replaced, strings.HasPrefix(e.Name(), disk.TempPrefix):
			err = fsys.RemoveAll(path)
		default:
			continue
		}
		if err != nil {
			return err
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return fsys.SyncDir(run)
}
