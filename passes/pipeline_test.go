package passes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/golden"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
)

// shown are the functions of examples whose whole way through the pipeline is golden.
var shown = map[string][]string{
	"tiny":       ir.Jobs,
	"everything": {"train", "decode"},
	"gpt2-124m":  {"train"},
	"parallel":   {"train", "prefill"},
}

// TestGoldenPipeline shows what all passes make of examples, and how often each fires.
func TestGoldenPipeline(t *testing.T) {
	golden.Owns(t, "../golden/pipeline")
	for name, jobs := range shown {
		text, err := os.ReadFile("../examples/specs/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		s, err := parser.Parse(name+".yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range jobs {
			var fired strings.Builder
			f := ir.Build(s, job)
			err := passes.Run(f, passes.OptionsFor(s, ir.TargetNamed("cpu")), "", func(p *passes.Pass, _ *ir.Func, n int) {
				fmt.Fprintf(&fired, "%s %d\n", p.Name, n)
			})
			if err != nil {
				t.Fatalf("%s, %s: %v", name, job, err)
			}
			golden.Check(t, filepath.Join("../golden/pipeline", name, job+".txt"), fired.String()+"\n"+ir.Print(f))
		}
	}
}

// TestExamplesCompile takes every job of every example through the pipeline.
func TestExamplesCompile(t *testing.T) {
	files, err := filepath.Glob("../examples/specs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		s, err := parser.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range ir.Jobs {
			f := ir.Build(s, job)
			if err := passes.Run(f, passes.OptionsFor(s, ir.TargetNamed("cpu")), "", nil); err != nil {
				t.Errorf("%s, %s: %v", file, job, err)
				continue
			}
			if err := roundTrip(f); err != nil {
				t.Errorf("%s, %s: %v", file, job, err)
			}
		}
	}
}
