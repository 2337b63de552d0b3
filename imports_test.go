package tfc

import (
	"os/exec"
	"strings"
	"testing"
)

// rules say what the packages of a folder may import beside the standard library. A name ending in /... means all below
// it; the rule of the longest folder counts.
var rules = map[string]string{
	"spec":       "",
	"ir":         "spec runtime/rng runtime/quant",
	"parser":     "spec ir github.com/alecthomas/participle/... gopkg.in/yaml.v3",
	"passes":     "spec ir",
	"codegen/go": "spec ir github.com/dave/jennifer/jen",
	"compile":    "spec ir passes codegen/go codegen/cuda runtime/gpu/footprint",
	"runtime":    "runtime/... golang.org/x/...", // no package of the compiler

	"codegen/cuda":          "spec ir",
	"codegen/cuda/nvcc":     "runtime/cuda/kernelfile",
	"codegen/cuda/cudarun":  "ir codegen/cuda runtime/cuda runtime/cuda/kernelfile", // for tests
	"compile/gotest":        "spec ir passes compile codegen/go codegen/cuda/nvcc runtime/cuda/cudatest",
	"runtime/cuda":          "runtime/internal/disk github.com/ebitengine/purego",
	"runtime/cuda/cudatest": "runtime/cuda/kernelfile github.com/ebitengine/purego golang.org/x/sys/cpu",
	"runtime/nvml":          "github.com/NVIDIA/go-nvml/...",
	"golden":                "github.com/google/go-cmp/cmp",
	"golden/gen":            "golden/gen/... runtime/...",
	"examples":              "examples/... runtime/...",
	"scripts":               "",
	"cmd/tfc": ". spec ir parser passes codegen/go codegen/cuda codegen/cuda/nvcc compile cmd/tfc/... runtime/... golang.org/x/... " +
		"github.com/spf13/cobra github.com/rogpeppe/go-internal/diff",
	"ir/irtest": "ir",
}

func TestImports(t *testing.T) {
	module, err := exec.Command("go", "list", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	tfc := strings.TrimSpace(string(module))
	packages := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		path, ours := within(tfc, fields[0])
		if !ours {
			t.Fatalf("go list lists %s", line)
		}
		if strings.HasPrefix(path, "build/") { // scratch, which git ignores
			continue
		}
		packages++
		rule, found := ruleOf(path)
		if !found && path != "." {
			t.Errorf("%s has no rule of what it may import", path)
		}
		for _, imported := range fields[1:] {
			imported, ours := within(tfc, imported)
			domain, _, _ := strings.Cut(imported, "/")
			if (ours || strings.Contains(domain, ".")) && !allowed(imported, rule) {
				t.Errorf("%s must not import %s", path, imported)
			}
		}
	}
	if packages < len(rules) {
		t.Errorf("%d packages found", packages)
	}
}

// within returns the path of a package below the module, . for the module's own.
func within(module, path string) (rest string, ours bool) {
	if path == module {
		return ".", true
	}
	rest, ours = strings.CutPrefix(path, module+"/")
	return rest, ours
}

func ruleOf(path string) (rule string, found bool) {
	best := ""
	for folder, r := range rules {
		if (path == folder || strings.HasPrefix(path, folder+"/")) && len(folder) > len(best) {
			best, rule, found = folder, r, true
		}
	}
	return rule, found
}

func allowed(path, rule string) bool {
	for _, may := range strings.Fields(rule) {
		below, all := strings.CutSuffix(may, "/...")
		if path == may || all && (path == below || strings.HasPrefix(path, below+"/")) {
			return true
		}
	}
	return false
}
