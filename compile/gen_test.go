package compile_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/golden"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/spec"
)

// examples returns the specs that people start from.
func examples(t *testing.T) []*spec.Spec {
	t.Helper()
	files, err := filepath.Glob("../examples/specs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example specs: %v", err)
	}
	var all []*spec.Spec
	for _, file := range files {
		s, err := parser.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// golden/gen holds the package of every example spec. They are recorded only once the Go compiler takes them.
func TestGenerated(t *testing.T) {
	const dir = "../golden/gen"
	golden.Owns(t, dir)
	for _, s := range examples(t) {
		t.Run(s.Name, func(t *testing.T) {
			importPath := path.Join(gogen.Module, "golden/gen", s.Name)
			files, err := compile.Package(s, importPath, "golden", nil)
			if err != nil {
				t.Fatal(err)
			}
			again, err := compile.Package(s, importPath, "golden", nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(files, again, func(a, b gogen.File) bool { return a.Path == b.Path && string(a.Data) == string(b.Data) }) {
				t.Fatal("generating twice gives different bytes")
			}
			if golden.Updating() {
				goBuild(t, filepath.Join(dir, s.Name), files)
			}
			for _, f := range files {
				if path.Ext(f.Path) == ".cuh" { // a body, copied as it is
					continue
				}
				golden.Check(t, filepath.Join(dir, s.Name, f.Path), string(f.Data))
			}
		})
	}
}

// goBuild compiles a package as if its files were in dir.
func goBuild(t *testing.T, dir string, files []gogen.File) {
	t.Helper()
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	aside := t.TempDir()
	overlay := map[string]map[string]string{"Replace": {}}
	old, err := filepath.Glob(filepath.Join(abs, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range old {
		overlay["Replace"][file] = "" // gone
	}
	for _, f := range files {
		at := filepath.Join(aside, f.Path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][filepath.Join(abs, f.Path)] = at
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(aside, "overlay.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", file, dir+"/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the package does not compile, so it is not recorded: %v\n%s", err, out)
	}
}
