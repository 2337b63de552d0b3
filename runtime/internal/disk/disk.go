// Package disk is how files of a model or a run are written: aside, synced, renamed into place, the folder synced, so
// that a reader or a crash sees the old file or the new one and nothing between.
// The calls go through an interface so that tests can fail any of them.
package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// TempPrefix begins the name of everything that is not finished.
const TempPrefix = ".tmp-"

// FS is the calls that saving needs.
type FS interface {
	Mkdir(path string) error          // the parent must exist
	Create(path string) (File, error) // the file must not exist
	Open(path string) (File, error)   // for reading and Sync; regular files only, links not followed
	ReadDir(path string) ([]fs.DirEntry, error)
	Rename(from, to string) error
	RemoveAll(path string) error
	SyncDir(path string) error // makes renames in a folder last
}

// File is an open file.
type File interface {
	io.ReadWriteCloser
	Sync() error
	Stat() (fs.FileInfo, error)
}

// OS is the operating system's FS.
type OS struct{}

// Mkdir makes a folder.
func (OS) Mkdir(path string) error { return os.Mkdir(path, 0o755) }

// Create makes a file for writing.
func (OS) Create(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

// Open opens a file for reading.
func (OS) Open(path string) (File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return os.Open(path)
}

// ReadDir lists a folder, sorted by name.
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

// Rename moves a file or a folder within a file system, in one step.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// RemoveAll removes a file or a folder with what is in it.
func (OS) RemoveAll(path string) error { return os.RemoveAll(path) }

// SyncDir waits until the names in a folder are on the disk.
func (OS) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// TempName returns an unused name beside path, for what will be renamed to path.
func TempName(path string) string {
	dir, base := filepath.Split(path)
	return fmt.Sprintf("%s%s%s-%08x", dir, TempPrefix, base, rand.Uint32())
}

// WriteFile writes a file whole or not at all: on an error, path is as it was and nothing else is left.
func WriteFile(fsys FS, path string, write func(io.Writer) error) error {
	temp := TempName(path)
	if err := writeSynced(fsys, temp, write); err != nil {
		return errors.Join(err, fsys.RemoveAll(temp))
	}
	if err := fsys.Rename(temp, path); err != nil {
		return errors.Join(err, fsys.RemoveAll(temp))
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%s is written, but may not outlive a power failure: %w", path, err)
	}
	return nil
}

func writeSynced(fsys FS, path string, write func(io.Writer) error) error {
	f, err := fsys.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are expected", path, info.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: grew past %d bytes while read", path, limit)
	}
	return data, err
}
