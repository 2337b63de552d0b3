// Command plantedbugs plants bugs in passes, generator and kernels, one at a time in a copy of the tree, and says which
// of them the tests catch. Run it from the module's root: go run ./scripts/plantedbugs. It takes minutes.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bug is a change of one line that compiles and computes something else.
type bug struct{ file, old, new, what string }

var bugs = []bug{
	{"passes/pack.go", "parts, dims = append(parts, q), append(dims, q.Type.Dims[0])", "parts, dims = append([]*ir.Param{q}, parts...), append(dims, q.Type.Dims[0])", "packed weights in the wrong order"},
	{"passes/fuse_norm.go", `add.Float("by") != 0 || `, "", "a norm swallows the factor of a residual add"},
	{"passes/fuse_epilogue.go", `add.Float("by") != 0 || `, "", "a product swallows the factor of a residual add"},
	{"passes/fuse_loss.go", `attrs["softcap"] = op.Float("cap")`, `_ = op`, "the fused loss forgets the soft cap"},
	{"passes/canonicalize.go", `op.Args[1], op.Attrs["by"] = s.Args[0], by`, `op.Args[1], op.Attrs["by"] = s.Args[0], 1.0`, "a folded scale is lost"},
	{"passes/grad.go", "back.Reverse = !l.Reverse", "back.Reverse = l.Reverse", "the backward loop runs forwards"},
	{"passes/grad.go", "if old := d.d[v]; old != nil {", "if old := d.d[v]; old != nil && old == dv {", "a second gradient of a value replaces the first"},
	{"passes/plan_memory.go", "!a.Type.Same(r.Type) || p.lastUse(a, op.Block) > p.when[op][0]", "!a.Type.Same(r.Type)", "a result overwrites an argument that is read later"},
	{"passes/plan_memory.go", "return l.Iterations() + 1", "return l.Iterations()", "a ring is one slot short"},
	{"passes/plan_memory.go", "s.home, s.slots = m.Block.Parent(), l.Iterations()", "s.slots = l.Iterations()", "what the backward pass reads lives too short"},
	{"passes/select_attention.go", `if e := op.Int("head_dim"); k.headDim > 0 && e > k.headDim || e%k.multiple != 0 {`, `if e := op.Int("head_dim"); k.headDim > 0 && e > k.headDim {`, "a kernel is chosen for a head width it does not have"},
	{"passes/precision.go", `"add_layernorm": 2`, `"add_layernorm": 3`, "statistics of a fused norm become bf16"},
	{"codegen/go/emitters.go", `b.Add(e.kernel("AddScaled", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), num(by)))`, `b.Add(e.kernel("Add", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1)))`, "the generator drops a factor"},
	{"codegen/go/emitters.go", `jen.Lit(op.Bool("inverse"))`, "jen.Lit(false)", "the rotary gradient rotates forwards"},
	{"codegen/go/emitters.go", `b.Id("update.WeightDecay").Op("=").Lit(0)`, `b.Id("update.WeightDecay").Op("=").Lit(1)`, "norms and biases decay"},
	{"codegen/go/memory.go", `k += fmt.Sprintf("+%d", p.Shift)`, `k += fmt.Sprintf("+%d", 0*p.Shift)`, "a layer writes its result over its input"},
	{"runtime/cpu/norm_grad.go", "if k.residual.Data != nil {", "if k.residual.Data != nil && r > 0 {", "the first row of a norm's gradient loses its residual"},
	{"runtime/cpu/embedding.go", "for r := range k.dy.Rows {", "for r := range max(k.dy.Rows-1, 0) {", "the last token's embedding gradient is lost"},
	{"runtime/cpu/rope.go", "copy(y[2*n:], x[2*n:])", "copy(y[2*n:], y[2*n:])", "entries that are not rotated are not copied"},
	{"runtime/cpu/optimizer.go", "correct2 := 1 - math.Pow(beta2, float64(o.Step))", "correct2 := 1 - math.Pow(beta2, float64(o.Step+1))", "AdamW's second correction is a step ahead"},
	{"runtime/cpu/attention.go", "return h / (a.Heads / a.KVHeads)", "return h % a.KVHeads", "query heads read the wrong key-value head"},
	{"runtime/cpu/attention.go", "sum[r] *= old", "sum[r] += 0 * old", "the running softmax keeps a stale sum"},
	{"runtime/cpu/linear.go", "for r := range t.dy.Rows {", "for r := range min(t.dy.Rows, 96) {", "a bias gradient stops after 96 rows"},
	{"runtime/cpu/headloss.go", "e[target] -= sum", "e[target] -= 1", "the loss gradient subtracts from the wrong scale"},
	{"runtime/cpu/dropout.go", "uint64(r)*uint64(len(y))", "uint64(r)*uint64(len(y)+1)", "dropout numbers its elements otherwise"},
}

// tests are the packages that prove passes and generated programs, and those that prove kernels.
func tests(file string) []string {
	switch {
	case strings.HasPrefix(file, "runtime/cpu"):
		return []string{"./runtime/cpu", "./codegen/go"}
	case strings.HasPrefix(file, "codegen"):
		return []string{"./codegen/go"}
	}
	return []string{"./passes", "./ir", "./codegen/go"}
}

func main() {
	dir, err := os.MkdirTemp("", "plantedbugs")
	if err != nil {
		fatal(err)
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("sh", "-c", "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "+dir).CombinedOutput(); err != nil {
		fatal(fmt.Errorf("copy the tree: %v: %s", err, out))
	}
	caught := 0
	for i, b := range bugs {
		start := time.Now()
		by, err := plant(dir, b)
		if err != nil {
			fatal(err)
		}
		verdict := "SURVIVES"
		if by != "" {
			verdict = "caught by " + by
			caught++
		}
		fmt.Printf("%2d  %-28s %-60s %-40s %4.0fs\n", i+1, b.file, b.what, verdict, time.Since(start).Seconds())
	}
	fmt.Printf("%d of %d caught\n", caught, len(bugs))
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "plantedbugs:", err)
	os.Exit(1)
}

// plant changes the line, runs the tests, puts the line back, and returns the test that failed first.
func plant(dir string, b bug) (string, error) {
	path := filepath.Join(dir, b.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), b.old); n != 1 {
		return "", fmt.Errorf("%s: %q stands there %d times, want once", b.file, b.old, n)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), b.old, b.new, 1)), 0o644); err != nil {
		return "", err
	}
	defer os.WriteFile(path, text, 0o644)
	for _, pkg := range tests(b.file) {
		cmd := exec.Command("go", "test", "-failfast", pkg)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		for line := range strings.Lines(string(out)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "--- FAIL: "); ok {
				name, _, _ = strings.Cut(name, " ")
				return strings.TrimPrefix(pkg, "./") + " " + name, nil
			}
		}
		if strings.Contains(string(out), "build failed") {
			return "", fmt.Errorf("%s: the planted bug does not compile:\n%s", b.file, out)
		}
		return strings.TrimPrefix(pkg, "./"), nil
	}
	return "", nil
}
