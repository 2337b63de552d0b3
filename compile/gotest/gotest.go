// Package gotest runs generated programs in tests: it writes their packages, builds them, and lets them compute. It says
// where tests run CUDA code: see GPU.
package gotest

import (
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
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
	Picks    []Pick  // how tokens are picked to go on after the prompt
	CUDA     bool    // run the code for GPUs, on the first one
}

// Pick is lm.PickOptions.
type Pick struct {
	Temperature, TopP float64
	TopK              int
	Seed              uint64
	Tokens            int
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
	Picked         [][]int32   // how the prompt goes on, for each of Picks, by a generator that picks on its device
	OnHost         [][]int32   // the same, picked on the host
	Held           int64       // bytes that the trainer holds on a GPU
	Err            string      // why there is none of these
}

// CUDA adds the code for GPUs to a program. Run compiles its kernels.
func CUDA(t testing.TB, p *gogen.Program, off map[string]bool) {
	t.Helper()
	var err error
	if p.CUDA, err = compile.CUDA(p.Spec, off, nil); err != nil {
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

// Program is a package to generate, and its job. Those that follow one of the same name are that package, with another job.
type Program struct {
	Name     string // "" for its number
	Compiled gogen.Program
	Job      Job
}

// Run generates the packages, builds one command out of all of them, in a module of its own, and runs their jobs. The answers
// come with the numbers of their programs; a job that fails is an error of the test and has none. env is added to what the
// command finds in its environment. CUDA code runs where GPU says; the command is named after the test there, and runs under what
// TFC_GPU_UNDER says, a tool and its arguments, a line each.
func Run(t testing.TB, ps []Program, env ...string) iter.Seq2[int, Answer] {
	t.Helper()
	cuda := false
	jobs := make([]any, len(ps))
	for i, p := range ps {
		if p.Name == "" {
			ps[i].Name = strconv.Itoa(i)
		}
		jobs[i] = struct {
			Program string
			Job
		}{ps[i].Name, p.Job}
		cuda = cuda || p.Compiled.CUDA != nil
	}
	command := filepath.Join(t.TempDir(), "programs")
	switch {
	case cuda && Building() != "":
		build(t, ps, filepath.Join(Building(), t.Name()))
		t.Skip("built")
	case cuda && GPU() != "" && exists(filepath.Join(GPU(), t.Name())):
		command = filepath.Join(GPU(), t.Name())
	default:
		build(t, ps, command)
	}
	input, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{command}
	if under := os.Getenv("TFC_GPU_UNDER"); cuda && under != "" {
		args = append(strings.Split(under, "\n"), command)
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(string(input))
	cmd.Env = append(os.Environ(), env...)
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
	return func(yield func(int, Answer) bool) {
		for i, a := range answers {
			if a.Err != "" {
				t.Errorf("%s: %s", ps[i].Name, a.Err)
			} else if !yield(i, a) {
				return
			}
		}
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// build generates the packages in a module of their own and builds their command.
func build(t testing.TB, ps []Program, command string) {
	t.Helper()
	m := newModule(t)
	var imports, table strings.Builder
	known := map[string]bool{}
	for i, p := range ps {
		if known[p.Name] {
			continue
		}
		known[p.Name] = true
		cuda := "nil"
		if p.Compiled.CUDA != nil {
			cuda = fmt.Sprintf("p%d.CUDA", i)
		}
		m.add(p.Compiled, fmt.Sprintf("p%d", i))
		fmt.Fprintf(&imports, "\tp%d \"check/p%d\"\n", i, i)
		fmt.Fprintf(&table, "\t%q: {p%d.NewTrainer, p%d.NewGenerator, %s, p%d.Weights(), p%d.WeightFloats, p%d.MicroBatch * p%d.Context},\n", p.Name, i, i, cuda, i, i, i, i)
	}
	m.write("main.go", fmt.Appendf(nil, checkMain, imports.String(), table.String()))
	if said, err := m.goCommand("build", "-ldflags=-s -w", "-o", command, ".").CombinedOutput(); err != nil {
		t.Fatalf("the generated programs do not build: %v\n%s", err, said)
	}
}

// Command builds the command of a program's package, and returns where it is.
func Command(t testing.TB, p gogen.Program) string {
	t.Helper()
	m := newModule(t)
	m.add(p, "p")
	out := filepath.Join(m.dir, "command")
	if said, err := m.goCommand("build", "-o", out, "./p/cmd/"+p.Spec.Name).CombinedOutput(); err != nil {
		t.Fatalf("the command does not compile: %v\n%s", err, said)
	}
	return out
}

// module is a Go module, named check, in a folder that goes with the test.
type module struct {
	t   testing.TB
	dir string
}

func newModule(t testing.TB) module {
	t.Helper()
	m := module{t, t.TempDir()}
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
	m.write("go.mod", []byte(text))
	m.write("go.sum", sum)
	return m
}

func (m module) write(path string, data []byte) {
	m.t.Helper()
	path = filepath.Join(m.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// add generates a program's package into a folder, with its CUDA kernels compiled for where tests run them.
func (m module) add(p gogen.Program, folder string) {
	m.t.Helper()
	p.ImportPath = "check/" + folder
	if p.CUDA != nil {
		withKernels := *p.CUDA
		withKernels.Files = append(slices.Clip(withKernels.Files), kernels(m.t, withKernels.Files))
		p.CUDA = &withKernels
	}
	files, err := gogen.Generate(p)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, f := range files {
		m.write(filepath.Join(folder, f.Path), f.Data)
	}
}

func (m module) goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	return cmd
}

const checkMain = `package main

import (
	"encoding/json"
	"os"

	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/weights"
%s)

type program struct {
	trainer   func([]float32, int) lm.Trainer
	generator func([]float32, int, int) lm.Generator
	cuda      func() lm.Backend
	table     []weights.Info
	floats    int
	eval      int
}

var programs = map[string]program{
%s}

type batch struct{ Tokens, Targets []int32 }

type job struct {
	Program  string
	Weights  map[string][]float32
	Steps    []batch
	LRs      []float32
	Seed     uint64
	Sequence []int32
	Prompt   int
	Picks    []lm.PickOptions
	CUDA     bool
}

type answer struct {
	Losses, Norms  []float32
	Grads, Final   map[string][]float32
	EvalSum, EvalN float64
	Logits         []float32
	Cached         [][]float32
	Picked, OnHost [][]int32
	Held           int64
	Err            string
}

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		panic(err)
	}
	answers := make([]answer, len(jobs))
	for i, j := range jobs {
		answers[i] = run(programs[j.Program], j)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}

func run(p program, j job) (a answer) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			a = answer{Err: r.Error()}
		default:
			panic(r)
		}
	}()
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
	if picker, ok := g.(lm.Picker); ok {
		vocabulary := len(a.Logits) / len(j.Sequence)
		for _, o := range j.Picks {
			a.Picked = append(a.Picked, write(picker, j, o))
			a.OnHost = append(a.OnHost, write(lm.NewPicker(struct{ lm.Generator }{g}, vocabulary), j, o))
		}
	}
	g.Close()
	t := newTrainer(w, 2)
	if s, ok := t.(lm.Sized); ok {
		a.Held = s.Bytes()
	}
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

type failure struct{ error }

// write lets two slots go on after the prompt, up to the last position, which only the second gets to.
func write(p lm.Picker, j job, o lm.PickOptions) (all []int32) {
	options := []lm.PickOptions{o, o}
	tokens, positions, slots := make([]int32, 2), make([]int32, 2), []int32{0, 1}
	for s := range options {
		options[s].Sequence = s
		for at := 0; at < j.Prompt; {
			n := min(p.MaxPrefill(), j.Prompt-at)
			token, err := p.PrefillAndPick(j.Sequence[at:at+n], at, s, options[s])
			check(err)
			tokens[s] = token
			at += n
		}
	}
	all = append(all, tokens...)
	for at := j.Prompt; at < len(j.Sequence); at++ {
		from := 0
		if at == len(j.Sequence)-1 {
			from = 1
		}
		positions[0], positions[1] = int32(at), int32(at)
		picked, err := p.DecodeAndPick(tokens[from:], positions[from:], slots[from:], options[from:])
		check(err)
		copy(tokens[from:], picked)
		all = append(all, picked...)
	}
	return all
}

func check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

func must(x []float32, err error) []float32 {
	check(err)
	return x
}
`
