// Package disktest makes the disk fail on purpose, for tests of everything that saves.
package disktest

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// Faulty passes calls on to FS and fails call number FailAt, counted from 1; where Dead, all later ones too.
// A failing write writes half of its bytes first, and a failing RemoveAll removes nothing.
// Syncs are counted and fail like the rest, but do not wait for the disk: tests make thousands.
// The error is ENOSPC for a write and EIO for anything else.
type Faulty struct {
	disk.FS
	FailAt int
	Dead   bool
	Calls  int
}

func (f *Faulty) fail() bool {
	f.Calls++
	return f.Calls == f.FailAt || f.Dead && f.FailAt > 0 && f.Calls > f.FailAt
}

func eio(op, path string) error { return &fs.PathError{Op: op, Path: path, Err: syscall.EIO} }

func (f *Faulty) Mkdir(path string) error {
	if f.fail() {
		return eio("mkdir", path)
	}
	return f.FS.Mkdir(path)
}

func (f *Faulty) Create(path string) (disk.File, error) {
	if f.fail() {
		return nil, eio("create", path)
	}
	file, err := f.FS.Create(path)
	return &faultyFile{file, f, path}, err
}

func (f *Faulty) Open(path string) (disk.File, error) {
	if f.fail() {
		return nil, eio("open", path)
	}
	file, err := f.FS.Open(path)
	return &faultyFile{file, f, path}, err
}

func (f *Faulty) ReadDir(path string) ([]fs.DirEntry, error) {
	if f.fail() {
		return nil, eio("readdir", path)
	}
	return f.FS.ReadDir(path)
}

func (f *Faulty) Rename(from, to string) error {
	if f.fail() {
		return eio("rename", from)
	}
	return f.FS.Rename(from, to)
}

func (f *Faulty) RemoveAll(path string) error {
	if f.fail() {
		return eio("remove", path)
	}
	return f.FS.RemoveAll(path)
}

func (f *Faulty) SyncDir(path string) error {
	if f.fail() {
		return eio("sync", path)
	}
	return nil
}

type faultyFile struct {
	disk.File
	disk *Faulty
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if f.disk.fail() {
		n, err := f.File.Write(p[:len(p)/2])
		return n, errors.Join(err, &fs.PathError{Op: "write", Path: f.path, Err: syscall.ENOSPC})
	}
	return f.File.Write(p)
}

func (f *faultyFile) Read(p []byte) (int, error) {
	if f.disk.fail() {
		return 0, eio("read", f.path)
	}
	return f.File.Read(p)
}

func (f *faultyFile) Sync() error {
	if f.disk.fail() {
		return eio("sync", f.path)
	}
	return nil
}

func (f *faultyFile) Close() error {
	err := f.File.Close()
	if f.disk.fail() {
		return eio("close", f.path)
	}
	return err
}
