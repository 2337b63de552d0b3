package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
)

// pkg makes the files of a package from their texts, with a manifest that lists them.
func pkg(texts map[string]string) []gogen.File {
	m := compile.Manifest{Tfc: "test", Files: map[string]string{}}
	var files []gogen.File
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		files = append(files, gogen.File{Path: path, Data: []byte(texts[path])})
		m.Files[path] = compile.Hash([]byte(texts[path]))
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(files, gogen.File{Path: compile.ManifestFile, Data: data})
}

var (
	first  = pkg(map[string]string{"model.go": "package m\n\nconst A = 1\n", "dims.go": "package m\n", "cmd/a/main.go": "package main\n"})
	second = pkg(map[string]string{"model.go": "package m\n\nconst A = 2\n", "dims.go": "package m\n", "cmd/b/main.go": "package main\n"})
)

// tree reads all files below dir.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func texts(files []gogen.File) map[string]string {
	out := map[string]string{}
	for _, f := range files {
		out[f.Path] = string(f.Data)
	}
	return out
}

func mustWrite(t *testing.T, dir string, files []gogen.File, force bool) []string {
	t.Helper()
	changed, err := Write(dir, "m", files, force)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "m")
	differ, err := Differences(dir, "m", first)
	if err != nil || len(differ) != 4 {
		t.Errorf("a folder to be made: %v, %v", differ, err)
	}
	if changed := mustWrite(t, dir, first, false); len(changed) != 4 || !maps.Equal(tree(t, dir), texts(first)) {
		t.Errorf("changed %v, holds %v", changed, tree(t, dir))
	}
	if changed := mustWrite(t, dir, first, false); len(changed) != 0 {
		t.Errorf("writing the same again changes %v", changed)
	}
	put(t, filepath.Join(dir, "mine.go"), "package m\n")
	put(t, filepath.Join(dir, "mine_test.go"), "package m_test\n")
	put(t, filepath.Join(dir, "notes.txt"), "mine")
	want := []string{"cmd/a/main.go", "cmd/b/main.go", "manifest.json", "model.go"}
	if differ, err := Differences(dir, "m", second); err != nil || !slices.Equal(differ, want) {
		t.Errorf("differences %v, %v", differ, err)
	}
	if changed := mustWrite(t, dir, second, false); !slices.Equal(changed, want) {
		t.Errorf("changed %v", changed)
	}
	all := texts(second)
	all["mine.go"], all["mine_test.go"], all["notes.txt"] = "package m\n", "package m_test\n", "mine"
	if got := tree(t, dir); !maps.Equal(got, all) {
		t.Errorf("holds %v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "cmd", "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a removed command is still there: %v", err)
	}
}

func TestEdited(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, first, false)
	put(t, filepath.Join(dir, "model.go"), "package m // edited\n")
	put(t, filepath.Join(dir, "cmd/a/main.go"), "package main // edited\n")
	before := tree(t, dir)
	_, err := Write(dir, "m", second, false)
	if known := Check(dir, "m", second, false); fmt.Sprint(known) != fmt.Sprint(err) {
		t.Errorf("before: %v; after: %v", known, err)
	}
	if err := Check(dir, "m", second, true); err != nil {
		t.Errorf("with force: %v", err)
	}
	var edited *Edited
	if !errors.As(err, &edited) || !slices.Equal(edited.Files, []string{"cmd/a/main.go", "model.go"}) {
		t.Fatalf("overwriting edits: %v", err)
	}
	for _, part := range []string{dir, "model.go", "cmd/a/main.go", "--force"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if !maps.Equal(tree(t, dir), before) {
		t.Error("a refused build changed the folder")
	}
	if mustWrite(t, dir, second, true); !maps.Equal(tree(t, dir), texts(second)) {
		t.Errorf("with force it holds %v", tree(t, dir))
	}

	put(t, filepath.Join(dir, "dims.go"), "package m // edited\n")
	if _, err := Write(dir, "m", second, false); !errors.As(err, &edited) { // nothing else is to be done
		t.Errorf("an edit that the same build would undo: %v", err)
	}
	other := t.TempDir()
	put(t, filepath.Join(other, "model.go"), "package m // by hand\n")
	if _, err := Write(other, "m", first, false); !errors.As(err, &edited) {
		t.Errorf("a file that no build wrote: %v", err)
	}
}

func TestUnusable(t *testing.T) {
	cases := map[string]func(t *testing.T, dir string) string{
		"is a symbolic link": func(t *testing.T, dir string) string {
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(dir, link); err != nil {
				t.Fatal(err)
			}
			return link
		},
		"is a file": func(t *testing.T, dir string) string {
			put(t, filepath.Join(dir, "file"), "")
			return filepath.Join(dir, "file")
		},
		"not a directory": func(t *testing.T, dir string) string {
			put(t, filepath.Join(dir, "file"), "")
			return filepath.Join(dir, "file", "m")
		},
		"not a plain file": func(t *testing.T, dir string) string {
			if err := os.Symlink("/etc/hostname", filepath.Join(dir, "model.go")); err != nil {
				t.Fatal(err)
			}
			return dir
		},
		"no manifest of tfc": func(t *testing.T, dir string) string {
			put(t, filepath.Join(dir, "manifest.json"), `{"name": "another program's"}`)
			return dir
		},
		"is of package other": func(t *testing.T, dir string) string {
			put(t, filepath.Join(dir, "other.go"), "package other\n")
			return dir
		},
	}
	for part, make := range cases {
		at := make(t, t.TempDir())
		known := Check(at, "m", first, true)
		_, err := Write(at, "m", first, true)
		if fmt.Sprint(known) != fmt.Sprint(err) {
			t.Errorf("%s: before %v, after %v", part, known, err)
		}
		var unusable *Unusable
		if !errors.As(err, &unusable) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v", part, err)
		}
		if part == "not a plain file" || strings.Contains(part, "package") {
			if left := tree(t, at); len(left) > 1 {
				t.Errorf("%s: the folder holds %v", part, left)
			}
		}
	}
}

// TestCheck: it leaves a folder as it is, and none where there was none.
func TestCheck(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "a", "b")
	if err := Check(dir, "m", first, false); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(above); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mustWrite(t, dir, first, false)
	if err := Check(dir, "m", second, false); err != nil || !maps.Equal(tree(t, dir), texts(first)) {
		t.Errorf("%v; the folder holds %v", err, tree(t, dir))
	}
	var unusable *Unusable
	for _, dir := range []string{"/proc/tfc", "/proc/tfc/m", "/proc/self"} { // nobody may write there
		if err := Check(dir, "m", first, false); !errors.As(err, &unusable) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unlock, err := lock(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := Check(dir, "m", second, false); !errors.As(err, &unusable) || !strings.Contains(err.Error(), "another build") {
		t.Errorf("while another build is at work: %v", err)
	}
}

// A symbolic link in the folder must not lead a build out of it.
func TestNoWayOut(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "cmd")); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, "m", first, true); err == nil {
		t.Error("a folder of the package is a link to another place, and the build takes it")
	}
	if left := tree(t, outside); len(left) != 0 {
		t.Errorf("written outside of the folder: %v", left)
	}
}

func TestOneBuildAtATime(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unlock, err := lock(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, "m", first, false); err == nil || !strings.Contains(err.Error(), "another build") {
		t.Errorf("two builds at once: %v", err)
	}
	unlock()
	mustWrite(t, dir, first, false)
}

// faulty is a disk whose n-th change fails, or ends the process.
type faulty struct {
	*os.Root
	left int
	kill bool
	err  error
}

type killed struct{}

func (f *faulty) fail() error {
	f.left--
	if f.left >= 0 || f.left < -1 && !f.kill {
		return nil
	}
	if f.kill {
		panic(killed{})
	}
	return f.err
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.Root.OpenFile(name, flag, perm)
}

func (f *faulty) MkdirAll(name string, perm fs.FileMode) error {
	return cmpErr(f.fail(), func() error { return f.Root.MkdirAll(name, perm) })
}
func (f *faulty) Rename(from, to string) error {
	return cmpErr(f.fail(), func() error { return f.Root.Rename(from, to) })
}
func (f *faulty) Remove(name string) error {
	return cmpErr(f.fail(), func() error { return f.Root.Remove(name) })
}
func (f *faulty) RemoveAll(name string) error {
	return cmpErr(f.fail(), func() error { return f.Root.RemoveAll(name) })
}

func cmpErr(err error, otherwise func() error) error {
	if err != nil {
		return err
	}
	return otherwise()
}

// attempt writes the second package over the first on a disk that fails at change n, and says whether it came so far.
func attempt(t *testing.T, dir string, n int, kill bool) (err error, reached bool) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f := &faulty{Root: root, left: n, kill: kill, err: errors.New("the disk is on fire")}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			err, reached = fmt.Errorf("killed"), true
		}
	}()
	_, err = write(f, dir, "m", second, false)
	return err, f.left < 0
}

func withoutWork(files map[string]string) map[string]string {
	maps.DeleteFunc(files, func(path, _ string) bool { return strings.HasPrefix(path, work) })
	return files
}

// Whatever call fails, the folder holds the old package or the new one.
func TestFailureLeavesOneWhole(t *testing.T) {
	failures := 0
	for n := 0; ; n++ {
		dir := t.TempDir()
		mustWrite(t, dir, first, false)
		err, reached := attempt(t, dir, n, false)
		if !reached {
			break
		}
		got := withoutWork(tree(t, dir))
		if !maps.Equal(got, texts(first)) && !maps.Equal(got, texts(second)) {
			t.Fatalf("call %d failed (%v): a mix is left: %v", n, err, got)
		}
		if err != nil {
			failures++
		}
		mustWrite(t, dir, second, false)
		if got := tree(t, dir); !maps.Equal(got, texts(second)) {
			t.Fatalf("call %d failed, and building again leaves %v", n, got)
		}
	}
	if failures < 15 {
		t.Errorf("only %d calls failed", failures)
	}
}

// Whenever the process is killed, the next build makes it whole, and takes nothing that was left for a person's edit.
func TestKilled(t *testing.T) {
	kills := 0
	for n := 0; ; n++ {
		dir := t.TempDir()
		mustWrite(t, dir, first, false)
		if _, reached := attempt(t, dir, n, true); !reached {
			break
		}
		kills++
		mustWrite(t, dir, second, false)
		if got := tree(t, dir); !maps.Equal(got, texts(second)) {
			t.Fatalf("killed at call %d, and building again leaves %v", n, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "cmd", "a", "main.go")); err == nil {
			t.Fatalf("killed at call %d: a stale file is left", n)
		}
	}
	if kills < 15 {
		t.Errorf("only %d kills", kills)
	}
}
