package gogen_test

import (
	"os"
	"path/filepath"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
)

func TestSmoke(t *testing.T) {
	for _, name := range []string{"tiny", "stories", "everything", "sparse", "parallel"} {
		file := "../../examples/specs/" + name + ".yaml"
		s, err := parser.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(file)
		p := gogen.Program{Spec: s, SpecText: text, Funcs: map[string]*ir.Func{}, ImportPath: "github.com/tfc-dev/tfc/build/" + s.Name}
		for _, job := range ir.Jobs {
			p.Funcs[job] = ir.Build(s, job)
			if err := passes.Run(p.Funcs[job], passes.OptionsFor(s, ir.TargetNamed("cpu")), "", nil); err != nil {
				t.Fatal(err)
			}
		}
		files, err := gogen.Generate(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			at := filepath.Join("../../build", s.Name, f.Path)
			os.MkdirAll(filepath.Dir(at), 0o755)
			os.WriteFile(at, f.Data, 0o644)
		}
	}
}
