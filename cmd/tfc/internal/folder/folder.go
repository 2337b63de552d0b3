// Package folder puts a generated package into a folder: all of it or nothing, and never over what a person has written.
//
// A build first writes what changes into .tfc-build/new, makes it durable, and names it .tfc-build/ready. From there it
// moves every file into place, keeping the old one in .tfc-build/old, the manifest last. When a move fails, all are
// undone. When the process is killed in between, the next build finishes what is ready before it starts its own.
package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
)

// Unusable is the error for a folder that cannot take a package, whatever is generated.
type Unusable struct{ text string }

func (e *Unusable) Error() string { return e.text }

func unusable(format string, args ...any) error { return &Unusable{fmt.Sprintf(format, args...)} }

// Edited is the error for files that a build would overwrite or remove although a person has written or changed them.
type Edited struct {
	Dir   string
	Files []string
}

func (e *Edited) Error() string {
	return fmt.Sprintf("%s: these files are not as tfc wrote them:\n  %s\nmove your changes elsewhere, or overwrite them with --force",
		e.Dir, strings.Join(e.Files, "\n  "))
}

// Write makes dir hold the files of package name, and no file of an earlier build besides. It returns the paths that
// changed. Other files in dir stay. Files that were edited are an *Edited error, unless force overwrites them.
func Write(dir, name string, files []gogen.File, force bool) (changed []string, err error) {
	err = alone(dir, true, func(root *os.Root) error {
		changed, err = write(root, dir, name, files, force)
		return err
	})
	return changed, err
}

// Check returns the error that Write would as far as it shows before anything is written, for a caller who has work to do in
// between. It leaves nothing behind.
func Check(dir, name string, files []gogen.File, force bool) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return canMake(dir)
	}
	return alone(dir, false, func(root *os.Root) error {
		if _, err := prepare(root, dir, name, files, force); err != nil {
			return err
		}
		return errors.Join(root.MkdirAll(fresh, 0o777), root.RemoveAll(work))
	})
}

// canMake makes a folder that is not there, and takes away again what it made.
func canMake(dir string) error {
	var missing []string // the innermost first
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, d)
	}
	root, err := open(dir, true)
	if err == nil {
		err = root.Close()
	}
	for _, d := range missing {
		if removed := os.Remove(d); err == nil && removed != nil {
			err = unusable("the folder of the package: %v", removed)
		}
	}
	return err
}

// alone calls f with the folder, which no other build writes to meanwhile.
func alone(dir string, create bool, f func(root *os.Root) error) error {
	root, err := open(dir, create)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := lock(root, dir)
	if err != nil {
		return err
	}
	defer unlock()
	err = f(root)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return unusable("%s: %v; give another folder with -o", dir, err)
	}
	return err
}

// Differences returns the paths in dir that Write would change, make or remove.
func Differences(dir, name string, files []gogen.File) ([]string, error) {
	root, err := open(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		var all []string
		for _, f := range files {
			all = append(all, f.Path)
		}
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	p, err := newPlan(root, dir, name, files)
	if err != nil {
		return nil, err
	}
	return p.paths(), nil
}

// open opens dir, and makes it where asked to.
func open(dir string, create bool) (*os.Root, error) {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return nil, unusable("make the folder of the package: %v; give another folder", err)
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil:
		return nil, unusable("the folder of the package: %v; give another folder", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, unusable("%s is a symbolic link; give the folder itself", dir)
	case !info.IsDir():
		return nil, unusable("%s is a file; give a folder", dir)
	}
	return os.OpenRoot(dir)
}

// disk is what write needs of an *os.Root; no path leads out of it.
type disk interface {
	Lstat(name string) (fs.FileInfo, error)
	ReadFile(name string) ([]byte, error)
	OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error)
	MkdirAll(name string, perm fs.FileMode) error
	Rename(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	FS() fs.FS
}

// plan is what is to be done to a folder.
type plan struct {
	write  []gogen.File // new or different
	remove []string     // of an earlier build
	edited []string     // of these, not as tfc wrote them
}

func (p *plan) paths() []string {
	var all []string
	for _, f := range p.write {
		all = append(all, f.Path)
	}
	all = append(all, p.remove...)
	slices.Sort(all)
	return all
}

// newPlan compares a folder with the files it is to hold.
func newPlan(d disk, dir, name string, files []gogen.File) (*plan, error) {
	known, err := manifest(d, dir, compile.ManifestFile)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	listed := map[string]bool{}
	for _, f := range files {
		listed[f.Path] = true
		old, err := read(d, f.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.write = append(p.write, f)
			continue
		case err != nil:
			return nil, unusable("%s: %v", filepath.Join(dir, f.Path), err)
		case string(old) == string(f.Data):
			continue
		}
		p.write = append(p.write, f)
		if f.Path != compile.ManifestFile && known[f.Path] != compile.Hash(old) {
			p.edited = append(p.edited, f.Path)
		}
	}
	for _, file := range stale(known, listed) {
		old, err := read(d, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, unusable("%s: %v", filepath.Join(dir, file), err)
		}
		p.remove = append(p.remove, file)
		if known[file] != compile.Hash(old) {
			p.edited = append(p.edited, file)
		}
	}
	slices.Sort(p.edited)
	return p, samePackage(d, dir, name, append(p.remove, keys(listed)...))
}

func keys(m map[string]bool) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	return list
}

// read returns a file of the folder, which must be a plain one.
func read(d disk, name string) ([]byte, error) {
	info, err := d.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("this is not a plain file, as the package needs it to be")
	}
	return d.ReadFile(name)
}

// manifest returns the hashes of the files that an earlier build wrote, none where there was no build.
func manifest(d disk, dir, name string) (map[string]string, error) {
	data, err := read(d, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var m compile.Manifest
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && m.Files == nil {
		err = errors.New("it lists no files")
	}
	if err != nil {
		return nil, unusable("%s is no manifest of tfc: %v; give another folder with -o", filepath.Join(dir, name), err)
	}
	return m.Files, nil
}

// stale lists the files of an earlier build that the next one does not have.
func stale(known map[string]string, listed map[string]bool) (list []string) {
	for file := range known {
		if !listed[file] && filepath.IsLocal(file) {
			list = append(list, file)
		}
	}
	slices.Sort(list)
	return list
}

// samePackage checks that the Go files beside the generated ones belong to the same package.
func samePackage(d disk, dir, name string, ours []string) error {
	entries, err := fs.ReadDir(d.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || slices.Contains(ours, e.Name()) {
			continue
		}
		data, err := read(d, e.Name())
		if err != nil {
			return unusable("%s: %v", filepath.Join(dir, e.Name()), err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), data, parser.PackageClauseOnly)
		if err != nil {
			continue // half written: the Go command will say so
		}
		if strings.TrimSuffix(f.Name.Name, "_test") != name {
			return unusable("%s is of package %s; package %s needs a folder of its own: give one with -o", filepath.Join(dir, e.Name()), f.Name.Name, name)
		}
	}
	return nil
}

// The folders of a build at work.
const (
	work  = ".tfc-build"
	fresh = work + "/new"
	ready = work + "/ready"
	old   = work + "/old"
)

func write(d disk, dir, name string, files []gogen.File, force bool) ([]string, error) {
	p, err := prepare(d, dir, name, files, force)
	if err != nil || len(p.write)+len(p.remove) == 0 {
		return nil, err
	}
	if err := stage(d, p.write); err != nil {
		return nil, errors.Join(err, d.RemoveAll(work))
	}
	return p.paths(), commit(d, p)
}

// prepare ends the work of a killed build, and plans what is to be done.
func prepare(d disk, dir, name string, files []gogen.File, force bool) (*plan, error) {
	if err := finish(d, dir); err != nil {
		return nil, err
	}
	p, err := newPlan(d, dir, name, files)
	if err == nil && len(p.edited) > 0 && !force {
		err = &Edited{dir, p.edited}
	}
	if err != nil {
		return nil, errors.Join(err, d.RemoveAll(work))
	}
	return p, nil
}

// stage writes files aside.
func stage(d disk, files []gogen.File) error {
	if err := d.MkdirAll(fresh, 0o777); err != nil {
		return err
	}
	for _, f := range files {
		at := path.Join(fresh, f.Path)
		if err := d.MkdirAll(path.Dir(at), 0o777); err != nil {
			return err
		}
		if err := writeFile(d, at, f.Data); err != nil {
			return err
		}
	}
	return d.Rename(fresh, ready)
}

func writeFile(d disk, name string, data []byte) error {
	f, err := d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// commit moves what is staged into place and removes what is stale, or leaves everything as it was. Where it can do
// neither, it leaves the rest to the next build.
func commit(d disk, p *plan) (err error) {
	var undo []func() error
	defer func() {
		if err != nil {
			for _, u := range slices.Backward(undo) {
				if failed := u(); failed != nil {
					err = errors.Join(err, failed)
					return
				}
			}
		}
		err = errors.Join(err, d.RemoveAll(work))
	}()
	move := func(from, to string) error {
		if err := d.MkdirAll(path.Dir(to), 0o777); err != nil {
			return err
		}
		if err := d.Rename(from, to); err != nil {
			return err
		}
		undo = append(undo, func() error { return d.Rename(to, from) })
		return nil
	}
	for _, file := range order(p) {
		if err := move(file, path.Join(old, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if slices.Contains(p.remove, file) {
			continue
		}
		if err := move(path.Join(ready, file), file); err != nil {
			return err
		}
	}
	for _, file := range p.remove { // and the folders that this empties
		for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
			if d.Remove(dir) != nil {
				break
			}
		}
	}
	return nil
}

// order lists what a plan changes, the manifest last.
func order(p *plan) []string {
	list := slices.DeleteFunc(p.paths(), func(f string) bool { return f == compile.ManifestFile })
	if slices.ContainsFunc(p.write, func(f gogen.File) bool { return f.Path == compile.ManifestFile }) {
		list = append(list, compile.ManifestFile)
	}
	return list
}

// finish does what a killed build had ready, and clears away what it had not.
func finish(d disk, dir string) error {
	if _, err := d.Lstat(ready); errors.Is(err, fs.ErrNotExist) {
		return d.RemoveAll(work)
	} else if err != nil {
		return err
	}
	p := &plan{}
	sub, err := fs.Sub(d.FS(), ready)
	if err != nil {
		return err
	}
	err = fs.WalkDir(sub, ".", func(file string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			p.write = append(p.write, gogen.File{Path: file})
		}
		return err
	})
	if err != nil {
		return err
	}
	if next, err := manifest(d, dir, path.Join(ready, compile.ManifestFile)); err != nil {
		return err
	} else if next != nil {
		before, err := manifest(d, dir, compile.ManifestFile)
		if before == nil && err == nil {
			before, err = manifest(d, dir, path.Join(old, compile.ManifestFile))
		}
		if err != nil {
			return err
		}
		listed := map[string]bool{}
		for file := range next {
			listed[file] = true
		}
		for _, file := range stale(before, listed) {
			if _, err := d.Lstat(file); err == nil {
				p.remove = append(p.remove, file)
			}
		}
	}
	if err := d.RemoveAll(old); err != nil {
		return err
	}
	return commit(d, p)
}
