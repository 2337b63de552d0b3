package disk_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/disk/disktest"
)

func write(fsys disk.FS, path, text string) error {
	return disk.WriteFile(fsys, path, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// Whichever call fails, the file is the old one or the new one, whole, and success means the new one.
func TestWriteFileFailingAnyCall(t *testing.T) {
	for n := 1; ; n++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		if err := write(disk.OS{}, path, "old"); err != nil {
			t.Fatal(err)
		}
		faulty := &disktest.Faulty{FS: disk.OS{}, FailAt: n}
		err := write(faulty, path, "new")
		got, _ := os.ReadFile(path)
		if s := string(got); s != "old" && s != "new" || err == nil && s != "new" {
			t.Fatalf("call %d: the file holds %q after error %v", n, s, err)
		}
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("call %d: leftovers %v", n, names)
		}
		if faulty.Calls < n {
			if err != nil {
				t.Fatal(err)
			}
			if n < 6 {
				t.Errorf("only %d calls: file and folder cannot have been synced", n)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("call %d: error %v does not carry the cause", n, err)
		}
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, link, dir} {
		if _, err := (disk.OS{}).Open(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestReadFileLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := write(disk.OS{}, path, "12345"); err != nil {
		t.Fatal(err)
	}
	if got, err := disk.ReadFile(disk.OS{}, path, 5); err != nil || string(got) != "12345" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := disk.ReadFile(disk.OS{}, path, 4); err == nil {
		t.Error("4 bytes at most, and 5 read")
	}
}
