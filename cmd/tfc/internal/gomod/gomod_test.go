package gomod

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	modzip "golang.org/x/mod/zip"

	"github.com/tfc-dev/tfc"
	gogen "github.com/tfc-dev/tfc/codegen/go"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSelf(t *testing.T) {
	tool := Self()
	if tool.Version != Devel || tool.Sum != "" {
		t.Errorf("a test is %+v", tool)
	}
	if _, err := os.Stat(filepath.Join(tool.Checkout, "embed.go")); err != nil {
		t.Errorf("the checkout is not at %s: %v", tool.Checkout, err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "tfc/go.mod"), "module "+gogen.Module+"\n")
	put(t, filepath.Join(root, "user/go.mod"), "module example.org/app\nrequire "+gogen.Module+" v1.2.3\n")
	put(t, filepath.Join(root, "new/go.mod"), "module example.org/app\n")
	put(t, filepath.Join(root, "nameless/go.mod"), "go 1.26\n")
	put(t, filepath.Join(root, "broken/go.mod"), "module (\n")
	devel, released := Tool{Version: Devel, Checkout: "/src/tfc"}, Tool{Version: "v1.2.3"}
	for _, c := range []struct {
		tool               Tool
		dir, path, in, say string
	}{
		{devel, "nowhere/m", "example.com/m", "", ""},
		{devel, "tfc/build/m", gogen.Module + "/build/m", "tfc", ""},
		{devel, "user", "example.org/app", "user", ""},
		{devel, "user/a/m", "example.org/app/a/m", "user", ""},
		{released, "user/m", "example.org/app/m", "user", ""},
		{Tool{Version: "v1.3.0"}, "user/m", "example.org/app/m", "user", "go get " + gogen.Module + "@v1.3.0"},
		{released, "new/m", "example.org/app/m", "new", "go get " + gogen.Module + "@v1.2.3"},
		{devel, "new/m", "example.org/app/m", "new", "-replace=" + gogen.Module + "=/src/tfc"},
	} {
		p, err := c.tool.Find(filepath.Join(root, c.dir), "m")
		want := ""
		if c.in != "" {
			want = filepath.Join(root, c.in)
		}
		if err != nil || p.ImportPath != c.path || p.Root != want || !strings.Contains(p.Note, c.say) || (c.say == "") != (p.Note == "") {
			t.Errorf("%s with %s: %+v, %v", c.dir, c.tool.Version, p, err)
		}
	}
	for _, dir := range []string{"nameless", "broken"} {
		if _, err := devel.Find(filepath.Join(root, dir, "m"), "m"); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "go.mod")) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestStandaloneDevel(t *testing.T) {
	path, files, err := Tool{Version: Devel, Checkout: "/src/tfc with space"}.Standalone("m")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", files[0].Data, nil)
	if err != nil {
		t.Fatal(err)
	}
	own, err := modfile.Parse("go.mod", tfc.GoMod, nil)
	if err != nil {
		t.Fatal(err)
	}
	if path != "example.com/m" || mod.Module.Mod.Path != path || mod.Go.Version != own.Go.Version || len(mod.Require) != len(own.Require)+1 {
		t.Errorf("%s:\n%s", path, files[0].Data)
	}
	if len(mod.Replace) != 1 || mod.Replace[0].New.Path != "/src/tfc with space" {
		t.Errorf("replaces %+v", mod.Replace)
	}
	if !bytes.Equal(files[1].Data, tfc.GoSum) {
		t.Error("go.sum is not that of tfc")
	}
	if _, _, err := (Tool{Version: Devel}).Standalone("m"); err == nil {
		t.Error("a checkout at no known place")
	}
}

func TestGoModSum(t *testing.T) {
	want, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tfc.GoMod)), nil })
	if got := goModSum(tfc.GoMod); err != nil || got != want {
		t.Errorf("%s, want %s (%v)", got, want, err)
	}
}

// A released tfc writes a go.mod and a go.sum by which the go command finds everything that a package imports, and asks
// for nothing beside. The release is made here, in a module proxy of files.
func TestStandaloneReleased(t *testing.T) {
	const version = "v0.0.1"
	checkout, proxy, dir := Self().Checkout, t.TempDir(), t.TempDir()
	at := filepath.Join(proxy, "github.com/tfc-dev/tfc/@v", version)
	put(t, at+".info", `{"Version": "`+version+`"}`)
	put(t, at+".mod", string(tfc.GoMod))
	var zipped bytes.Buffer
	m := module.Version{Path: gogen.Module, Version: version}
	if err := modzip.Create(&zipped, m, runtimeFiles(t, checkout)); err != nil {
		t.Fatal(err)
	}
	put(t, at+".zip", zipped.String())
	sum, err := dirhash.HashZip(at+".zip", dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	_, files, err := Tool{Version: version, Sum: sum}.Standalone("m")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		put(t, filepath.Join(dir, f.Path), string(f.Data))
	}
	put(t, filepath.Join(dir, "m.go"), "package m\n\nimport _ \""+gogen.Module+"/runtime/lm\"\n")
	cache, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-mod=readonly", "-deps", ".")
	list.Dir = dir
	list.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-modcacherw", "GONOSUMDB=*", "GOTOOLCHAIN=local", "GOMODCACHE="+t.TempDir(),
		"GOPROXY=file://"+proxy+",file://"+filepath.Join(strings.TrimSpace(string(cache)), "cache/download"))
	out, err := list.CombinedOutput()
	if err != nil || !strings.Contains(string(out), gogen.Module+"/runtime/lm\n") {
		t.Errorf("%v\n%s\n%s", err, out, files[0].Data)
	}
}

// file is a file of the checkout, in the form that package zip wants.
type file struct{ dir, path string }

func (f file) Path() string                 { return f.path }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.dir, f.path)) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.dir, f.path)) }

// runtimeFiles lists go.mod and the runtime.
func runtimeFiles(t *testing.T, checkout string) []modzip.File {
	t.Helper()
	files := []modzip.File{file{checkout, "go.mod"}}
	err := filepath.WalkDir(filepath.Join(checkout, "runtime"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			rel, failed := filepath.Rel(checkout, path)
			files, err = append(files, file{checkout, filepath.ToSlash(rel)}), failed
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
