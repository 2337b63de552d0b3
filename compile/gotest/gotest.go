// Package gotest runs generated programs in tests: it writes their packages, builds them, and lets them compute.
package gotest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/spec"
)

// Job is what a generated program is asked to compute.
type Job struct {
	Weights  map[string][]float32 // by name
	Steps    []Batch              // optimizer steps
	LRs      []float32            // learning rate of each step
	Seed     uint64
	Sequence []int32 // for logits, prefill and decode
	Prompt   int     // tokens of the sequence that are prefilled; the rest is decoded
	CUDA     bool    // run the code for GPUs, on the first one
}

// Batch is what one step learns from.
type Batch struct{ Tokens, Targets []int32 }

// Answer is what the program computed.
type Answer struct {
	Losses, Norms  []float32
	Grads          map[string][]float32 // of the last step
	Final          map[string][]float32 // weights after the steps
	EvalSum, EvalN float64
	Logits         []float32   // of the sequence, with the first weights
	Cached         [][]float32 // after the prompt, and after each token that follows
}

// CUDA adds the code for GPUs to a program, its kernels compiled for the simulator of package cudatest.
func CUDA(t testing.TB, p *gogen.Program, off map[string]bool) {
	t.Helper()
	var err error
	p.CUDA, err = compile.CUDA(p.Spec, off, func(sources []cudagen.Source, _ []string) ([]cudagen.Source, error) {
		files := map[string][]byte{}
		for _, s := range sources {
			files[s.Name] = s.Data
		}
		return []cudagen.Source{{Name: "kernels.fatbin", Data: cudatest.File(t, files, 12)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Compile takes a spec through the pipeline, with some passes off.
func Compile(t testing.TB, s *spec.Spec, text string, off map[string]bool) gogen.Program {
	t.Helper()
	p := gogen.Program{Spec: s, SpecText: []byte(text), Funcs: map[string]*ir.Func{}}
	o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
	o.Off = off
	for _, name := range ir.Jobs {
		p.Funcs[name] = ir.Build(s, name)
		if err := passes.Run(p.Funcs[name], o, "", nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return p
}

// root is the folder of the module that the test runs in.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

// Program is a package to generate, and its job.
type Program struct {
	Compiled gogen.Program
	Job      Job
}

// Run generates the packages, builds one command out of all of them, in a module of its own, and runs their jobs.
// env is added to what the command finds in its environment.
func Run(t testing.TB, ps []Program, env ...string) []Answer {
	t.Helper()
	dir := t.TempDir()
	write := func(path string, data []byte) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mod, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(root(t), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(mod), "module "+gogen.Module, "module check", 1)
	text += fmt.Sprintf("\nrequire %s v0.0.0\nreplace %s => %s\n", gogen.Module, gogen.Module, root(t))
	write("go.mod", []byte(text))
	write("go.sum", sum)
	var imports, table strings.Builder
	jobs := make([]Job, len(ps))
	for i, p := range ps {
		jobs[i] = p.Job
		p.Compiled.ImportPath = fmt.Sprintf("check/p%d", i)
		files, err := gogen.Generate(p.Compiled)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			write(filepath.Join(fmt.Sprintf("p%d", i), f.Path), f.Data)
		}
		fmt.Fprintf(&imports, "\tp%d \"check/p%d\"\n", i, i)
		cuda := "nil"
		if p.Compiled.CUDA != nil {
			cuda = fmt.Sprintf("p%d.CUDA", i)
		}
		fmt.Fprintf(&table, "\t{p%d.NewTrainer, p%d.NewGenerator, %s, p%d.Weights(), p%d.WeightFloats, p%d.MicroBatch * p%d.Context},\n", i, i, cuda, i, i, i, i)
	}
	write("main.go", []byte(fmt.Sprintf(checkMain, imports.String(), table.String())))
	input, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	write("jobs.json", input)
	cmd := exec.Command("go", "run", "-mod=mod", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	cmd.Env = append(cmd.Env, env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the generated programs do not run: %v\n%s", err, stderr.String())
	}
	var answers []Answer
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

const checkMain = `package main

import (
	"encoding/json"
	"os"

	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/weights"
%s)

var programs = []struct {
	trainer   func([]float32, int) lm.Trainer
	generator func([]float32, int, int) lm.Generator
	cuda      func() lm.Backend
	table     []weights.Info
	floats    int
	eval      int
}{
%s}

type batch struct{ Tokens, Targets []int32 }

type job struct {
	Weights  map[string][]float32
	Steps    []batch
	LRs      []float32
	Seed     uint64
	Sequence []int32
	Prompt   int
	CUDA     bool
}

type answer struct {
	Losses, Norms  []float32
	Grads, Final   map[string][]float32
	EvalSum, EvalN float64
	Logits         []float32
	Cached         [][]float32
}

func main() {
	data, err := os.ReadFile("jobs.json")
	if err != nil {
		panic(err)
	}
	var jobs []job
	if err := json.Unmarshal(data, &jobs); err != nil {
		panic(err)
	}
	answers := make([]answer, len(jobs))
	for i, j := range jobs {
		answers[i] = run(i, j)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}

func run(i int, j job) (a answer) {
	p := programs[i]
	w := make([]float32, p.floats)
	for _, info := range p.table {
		copy(w[info.Offset:][:info.Size()], j.Weights[info.Name])
	}
	newTrainer, newGenerator := p.trainer, p.generator
	if j.CUDA {
		index, err := p.cuda().Find()
		check(err)
		d, err := p.cuda().Open(index)
		check(err)
		defer d.Close()
		newTrainer = func(w []float32, _ int) lm.Trainer {
			t, err := d.NewTrainer(w, "")
			check(err)
			return t
		}
		newGenerator = func(w []float32, slots, _ int) lm.Generator {
			g, err := d.NewGenerator(w, slots, "")
			check(err)
			return g
		}
	}
	g := newGenerator(w, 2, 2)
	a.Logits = append(a.Logits, must(g.Logits(j.Sequence))...)
	at := 0
	for at < j.Prompt {
		n := min(g.MaxPrefill(), j.Prompt-at)
		logits := must(g.Prefill(j.Sequence[at:at+n], at, 1))
		if at += n; at == j.Prompt {
			a.Cached = append(a.Cached, append([]float32(nil), logits...))
		}
	}
	for ; at < len(j.Sequence); at++ {
		a.Cached = append(a.Cached, append([]float32(nil), must(g.Decode(j.Sequence[at:at+1], []int32{int32(at)}, []int32{1}))...))
	}
	g.Close()
	t := newTrainer(w, 2)
	sum, n, err := t.Loss(j.Steps[0].Tokens[:p.eval], j.Steps[0].Targets[:p.eval])
	check(err)
	a.EvalSum, a.EvalN = sum, float64(n)
	ahead, _ := t.(lm.Pipelined)
	start := func(s int) {
		if s < len(j.Steps) {
			check(ahead.Start(j.Steps[s].Tokens, j.Steps[s].Targets, lm.StepParams{LR: j.LRs[s], Step: s + 1, Seed: j.Seed}))
		}
	}
	if ahead != nil {
		start(0)
	}
	for s, b := range j.Steps {
		var loss, norm float32
		if ahead != nil { // as in a run: the next one is under way
			start(s + 1)
			loss, norm, err = ahead.Finish()
		} else {
			loss, norm, err = t.Step(b.Tokens, b.Targets, lm.StepParams{LR: j.LRs[s], Step: s + 1, Seed: j.Seed})
		}
		check(err)
		a.Losses, a.Norms = append(a.Losses, loss), append(a.Norms, norm)
	}
	check(t.Pull())
	a.Grads, a.Final = map[string][]float32{}, map[string][]float32{}
	for _, info := range p.table {
		a.Grads[info.Name] = t.Gradients()[info.Offset:][:info.Size()]
		a.Final[info.Name] = t.Weights()[info.Offset:][:info.Size()]
	}
	t.Close()
	return a
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must(x []float32, err error) []float32 {
	check(err)
	return x
}
`
