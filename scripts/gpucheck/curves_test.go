package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// buildModels builds the command models, as gpu.sh does, of small.yaml in all precisions, for the simulator.
func buildModels(t *testing.T, b *bench) {
	t.Helper()
	b.env = cudatest.Build(t).Environ()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mod := strings.Replace(read(t, filepath.Join(root, "go.mod")), "module "+gogen.Module, "module check", 1)
	write("go.mod", fmt.Appendf(nil, "%s\nrequire %s v0.0.0\nreplace %s => %s\n", mod, gogen.Module, gogen.Module, root))
	write("go.sum", []byte(read(t, filepath.Join(root, "go.sum"))))
	imports, cases := "", ""
	for model, precision := range map[string]string{"small": "f32", "curve_f32": "f32", "curve_bf16": "bf16", "curve_fp16": "fp16", "curve_fp8": "fp8"} {
		text := strings.NewReplacer("name: small", "name: "+model, "precision: f32", "precision: "+precision).Replace(read(t, "small.yaml"))
		if precision == "fp8" {
			text += "target: {arch: [sm_90a]}\n"
		}
		s, err := parser.Parse(model+".yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		files, err := compile.Package(s, "check/"+model, "test", func(sources []cudagen.Source, _ []string) ([]cudagen.Source, error) {
			texts := map[string][]byte{}
			for _, f := range sources {
				texts[f.Name] = f.Data
			}
			return []cudagen.Source{{Name: "kernels.fatbin", Data: cudatest.File(t, texts, 12)}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			write(filepath.Join(model, f.Path), f.Data)
		}
		imports += fmt.Sprintf("%q\n", "check/"+model)
		cases += fmt.Sprintf("case %q:\n%s.Main()\n", model, model)
	}
	write("main.go", []byte("package main\nimport (\n\"os\"\n"+imports+")\nfunc main() {\nname := os.Args[1]\nos.Args = os.Args[1:]\nswitch name {\n"+cases+"}\n}\n"))
	cmd := exec.Command("go", "build", "-mod=mod", "-o", b.built("models"), ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestCurves trains a small model in the simulator, in every way that is compared on a GPU.
func TestCurves(t *testing.T) {
	b := newBench(t, "curves")
	buildModels(t, b)
	large, small := trainer{b, "curve_", 20, t.TempDir()}, trainer{b, "small", 20, t.TempDir()}
	for _, r := range []result{large.repeated(), large.stopped("fp16"), large.stopped("fp8"), small.moved()} {
		t.Logf("%s: %d cases, %s", r.what, r.cases, r.note)
		if r.failed > 0 || r.cases < 2 {
			t.Errorf("%s: %d of %d failed: %s", r.what, r.failed, r.cases, strings.Join(r.failures, "\n"))
		}
	}

	// What the simulator trains for 20 steps is no proof, but all of it must have run.
	if r := large.pairs(comparison{"bf16", "f32", 2, 1, 1}, "stories"); r.cases != 2 || !strings.Contains(r.note, "standard error") {
		t.Errorf("%+v", r)
	}

	// What differs is found: bf16 is not f32, and a run of other weights is not the same.
	want, err := large.log("f32-1", 20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := large.log("bf16-1", 20)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if r.compare(got, want, 1e-9); r.failed == 0 {
		t.Errorf("bf16 is as good as f32: %+v", r)
	}
	r = result{}
	if r.compare(got[:1], want, 1); r.failed != len(want)-1 {
		t.Errorf("a log of one line passes for %d: %+v", len(want), r)
	}
	r = result{}
	if large.equal(&r, "f32-1", "bf16-1"); r.failed == 0 {
		t.Errorf("files of f32 and bf16 are the same: %+v", r)
	}
	r = result{}
	if large.equal(&r, "nothing", "bf16"); r.failed == 0 {
		t.Errorf("a run without files passes: %+v", r)
	}
	if off, err := distance(filepath.Join(large.checkpoint("bf16-1"), "model.safetensors"), filepath.Join(large.checkpoint("f32-1"), "model.safetensors")); err != nil || !(off > 1e-6 && off < 0.1) {
		t.Errorf("weights of bf16 and f32 are %g apart: %v", off, err)
	}
}

// A command that does not train, or on something else, fails the part with what it said.
func TestCurvesFail(t *testing.T) {
	b := newBench(t, "curves")
	script(t, b.built("models"), "echo device: cpu, no driver; exit 0\n")
	for _, r := range curves(b) {
		if r.failed == 0 || !strings.Contains(strings.Join(r.failures, "\n"), "device: cpu, no driver") {
			t.Errorf("%+v", r)
		}
	}
}
