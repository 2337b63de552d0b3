package gogen_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// job is what a generated program is asked to compute, and what it answers.
type job struct {
	Weights  map[string][]float32 // by name
	Steps    []batch              // optimizer steps
	LR       float32
	Seed     uint64
	Sequence []int32 // for logits, prefill and decode
	Prompt   int     // tokens of the sequence that are prefilled; the rest is decoded
}

type batch struct{ Tokens, Targets []int32 }

type answer struct {
	Losses, Norms  []float32
	Grads          map[string][]float32 // of the last step
	Final          map[string][]float32 // weights after the steps
	EvalSum, EvalN float64
	Logits         []float32   // of the sequence, with the first weights
	Cached         [][]float32 // after the prompt, and after each token that follows
}

// compile takes a spec through the pipeline.
func compile(t testing.TB, s *spec.Spec, text string, off map[string]bool, importPath string) gogen.Program {
	t.Helper()
	p := gogen.Program{Spec: s, SpecText: []byte(text), Funcs: map[string]*ir.Func{}, ImportPath: importPath}
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

// root is the folder of the module.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// program is one generated package in a check, and its jobs.
type program struct {
	name    string
	spec    *spec.Spec
	program gogen.Program
	job     job
}

// runAll builds one command out of all the packages, in a module of its own beside them, and runs their jobs.
func runAll(t *testing.T, ps []*program) []answer {
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
	jobs := make([]job, len(ps))
	for i, p := range ps {
		jobs[i] = p.job
		files, err := gogen.Generate(p.program)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			write(filepath.Join(fmt.Sprintf("p%d", i), f.Path), f.Data)
		}
		fmt.Fprintf(&imports, "\tp%d \"check/p%d\"\n", i, i)
		fmt.Fprintf(&table, "\t{p%d.NewTrainer, p%d.NewGenerator, p%d.Weights(), p%d.WeightFloats, p%d.MicroBatch * p%d.Context},\n", i, i, i, i, i, i)
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
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the generated programs do not run: %v\n%s", err, stderr.String())
	}
	var answers []answer
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
	table     []weights.Info
	floats    int
	eval      int
}{
%s}

type batch struct{ Tokens, Targets []int32 }

type job struct {
	Weights  map[string][]float32
	Steps    []batch
	LR       float32
	Seed     uint64
	Sequence []int32
	Prompt   int
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
	g := p.generator(w, 2, 2)
	a.Logits = append(a.Logits, g.Logits(j.Sequence)...)
	at := 0
	for at < j.Prompt {
		n := min(g.MaxPrefill(), j.Prompt-at)
		logits := g.Prefill(j.Sequence[at:at+n], at, 1)
		if at += n; at == j.Prompt {
			a.Cached = append(a.Cached, append([]float32(nil), logits...))
		}
	}
	for ; at < len(j.Sequence); at++ {
		a.Cached = append(a.Cached, append([]float32(nil), g.Decode(j.Sequence[at:at+1], []int32{int32(at)}, []int32{1})...))
	}
	g.Close()
	t := p.trainer(w, 2)
	sum, n := t.Loss(j.Steps[0].Tokens[:p.eval], j.Steps[0].Targets[:p.eval])
	a.EvalSum, a.EvalN = sum, float64(n)
	for s, b := range j.Steps {
		loss, norm := t.Step(b.Tokens, b.Targets, lm.StepParams{LR: j.LR, Step: s + 1, Seed: j.Seed})
		a.Losses, a.Norms = append(a.Losses, loss), append(a.Norms, norm)
	}
	a.Grads, a.Final = map[string][]float32{}, map[string][]float32{}
	for _, info := range p.table {
		a.Grads[info.Name] = t.Gradients()[info.Offset:][:info.Size()]
		a.Final[info.Name] = t.Weights()[info.Offset:][:info.Size()]
	}
	t.Close()
	return a
}
`

// reference computes what a job's answer should be with ir.Eval, in float64, on the functions as they were built.
func reference(t *testing.T, s *spec.Spec, j job) answer {
	t.Helper()
	var a answer
	state := ir.NewState()
	load := func() {
		for _, w := range ir.WeightTable(s, ir.Build(s, "train")) {
			x := ir.NewTensor(w.Shape...)
			for i, v := range j.Weights[w.Name] {
				x.Data[i] = float64(v)
			}
			state.Weights[w.Name] = x
		}
	}
	load()
	eval := func(f *ir.Func, in map[string]*ir.Tensor) []*ir.Tensor {
		t.Helper()
		out, err := ir.Eval(f, in, state)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ints := func(xs []int32, shape ...int) *ir.Tensor {
		x := ir.NewTensor(shape...)
		for i, v := range xs {
			x.Data[i] = float64(v)
		}
		return x
	}
	iota := func(n, from int) []int32 {
		p := make([]int32, n)
		for i := range p {
			p[i] = int32(from + i)
		}
		return p
	}
	n := len(j.Sequence)
	a.Logits = narrow(eval(ir.Build(s, "logits"), map[string]*ir.Tensor{"tokens": ints(j.Sequence, n), "positions": ints(iota(n, 0), n)})[0].Data)
	v := s.Model.VocabSize
	for i := j.Prompt - 1; i < n; i++ {
		a.Cached = append(a.Cached, a.Logits[i*v:][:v])
	}
	ctx, mb, mbs := s.Train.Context, ir.MicroBatch(s), ir.MicroBatches(s)
	positions := ir.NewTensor(mb, ctx)
	for i := range positions.Data {
		positions.Data[i] = float64(i % ctx)
	}
	out := eval(ir.Build(s, "eval"), map[string]*ir.Tensor{"tokens": ints(j.Steps[0].Tokens[:mb*ctx], mb, ctx), "targets": ints(j.Steps[0].Targets[:mb*ctx], mb, ctx), "positions": positions})
	a.EvalSum, a.EvalN = out[0].Data[0], out[1].Data[0]
	train := ir.Build(s, "train")
	o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
	o.Off = map[string]bool{}
	for _, p := range passes.Pipeline {
		o.Off[p.Name] = !p.Required
	}
	if err := passes.Run(train, o, "grad", nil); err != nil {
		t.Fatal(err)
	}
	for i, b := range j.Steps {
		out := eval(train, map[string]*ir.Tensor{"tokens": ints(b.Tokens, mbs, mb, ctx), "targets": ints(b.Targets, mbs, mb, ctx), "positions": positions,
			"lr": ir.Scalar(float64(j.LR)), "step": ir.Scalar(float64(i + 1)), "seed": ir.Scalar(float64(j.Seed))})
		a.Losses, a.Norms = append(a.Losses, float32(out[0].Data[0])), append(a.Norms, float32(out[1].Data[0]))
	}
	a.Grads, a.Final = map[string][]float32{}, map[string][]float32{}
	for name, w := range state.Weights {
		a.Final[name] = narrow(w.Data)
		a.Grads[name] = narrow(state.Grads[name].Data)
	}
	return a
}

func narrow(xs []float64) []float32 {
	out := make([]float32, len(xs))
	for i, x := range xs {
		out[i] = float32(x)
	}
	return out
}

// randomJob draws weights, tokens and targets for a spec.
func randomJob(s *spec.Spec, seed uint64, steps int) job {
	r := rand.New(rand.NewPCG(seed, 1))
	j := job{Weights: map[string][]float32{}, LR: 1e-3, Seed: seed}
	for _, w := range ir.WeightTable(s, ir.Build(s, "train")) {
		x := make([]float32, w.Size())
		for i := range x {
			x[i] = float32(r.NormFloat64() * 0.3)
			if w.Init.Kind == "constant" {
				x[i] = float32(w.Init.Scale) + x[i]/3
			}
		}
		j.Weights[w.Name] = x
	}
	tokens := func(n int) []int32 {
		x := make([]int32, n)
		for i := range x {
			x[i] = int32(r.IntN(s.Model.VocabSize))
		}
		return x
	}
	n := ir.MicroBatches(s) * ir.MicroBatch(s) * s.Train.Context
	for range steps {
		b := batch{tokens(n), tokens(n)}
		for i := range b.Targets {
			if r.IntN(5) == 0 || i%s.Train.Context < ir.LossFrom(s) {
				b.Targets[i] = -100
			}
		}
		j.Steps = append(j.Steps, b)
	}
	j.Sequence = tokens(max(2, s.Model.MaxPositionEmbeddings-1))
	j.Prompt = max(1, len(j.Sequence)*2/3)
	return j
}

// compare holds one list of numbers to another: their difference may be tol of the largest of them.
func compare(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d numbers, want %d", what, len(got), len(want))
		return
	}
	scale, worst, at := 1e-3, 0.0, 0
	for _, x := range want {
		scale = max(scale, math.Abs(float64(x)))
	}
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if !(worst <= tol*scale) {
		t.Errorf("%s: element %d is %v, want %v: %.2g of the largest, %v", what, at, got[at], want[at], worst/scale, scale)
	}
}

func compareAnswers(t *testing.T, got, want answer) {
	t.Helper()
	compare(t, "losses", got.Losses, want.Losses, 2e-5)
	compare(t, "gradient norms", got.Norms, want.Norms, 1e-4)
	compare(t, "eval", []float32{float32(got.EvalSum), float32(got.EvalN)}, []float32{float32(want.EvalSum), float32(want.EvalN)}, 2e-5)
	compare(t, "logits", got.Logits, want.Logits, 5e-5)
	for i := range want.Cached {
		compare(t, fmt.Sprintf("cached logits %d", i), got.Cached[i], want.Cached[i], 5e-5)
	}
	for name, w := range want.Grads {
		compare(t, "gradient of "+name, got.Grads[name], w, 2e-4)
	}
	for name, w := range want.Final {
		compare(t, "weight "+name, got.Final[name], w, 1e-3)
	}
}

// base is a small model; each of the features below changes part of it.
const base = `
model:
  preset: llama
  vocab_size: 40
  hidden_size: 24
  num_layers: 3
  num_heads: 4
  num_kv_heads: 2
  head_dim: 8
  intermediate_size: 36
  max_position_embeddings: 20
%s
tokenizer: tokenizer.json
train: {batch: 4, micro_batch: 2, context: 13, optimizer: "adamw(eps: 1e-3)"%s}
generate: {batch: 2}
`

var features = []struct{ name, model, train string }{
	{"llama", "", ""},
	{"gpt2", "  norm: layernorm\n  positions: learned\n  activation: gelu_tanh\n  bias: true\n  tie_word_embeddings: true", ""},
	{"dropout", "  dropout: 0.2", ""},
	{"masks", "  attention: \"[causal & (window(3) | global(2)), causal & stride(3), causal & window(2, block: 4)]\"", ""},
	{"prefix", "  attention: prefix(5)", ""},
	{"post", "  norm_placement: post\n  norm: layernorm", ""},
	{"both", "  norm_placement: both\n  norm: \"rmsnorm(offset: 1)\"\n  attention_softcap: 5\n  logit_softcap: 8\n  embedding_multiplier: 3", ""},
	{"parallel", "  residual: parallel\n  positions: \"rope(fraction: 0.5)\"\n  activation: gelu\n  bias: true", ""},
	{"shared", "  residual: parallel_shared\n  positions: alibi\n  activation: relu2", ""},
	{"groups", "  intermediate_size: \"[36, 36, 20]\"\n  positions: \"[rope, rope(theta: 100), none]\"", ""},
	{"qknorm", "  qk_norm: rmsnorm\n  num_kv_heads: 1\n  residual_multiplier: 0.5\n  logit_multiplier: 0.3", ""},
	{"qknorm all", "  qk_norm: \"layernorm(over: all)\"\n  bias: {head: true, qkv: true}", ""},
	{"two parallel layers", "  num_layers: 2\n  residual: parallel", ""},
	{"one layer", "  num_layers: 1\n  attention: causal", ", checkpointing: full"},
	{"full", "", ", checkpointing: full"},
	{"auto", "  num_layers: 5\n  attention: \"[causal, causal & window(4)] * 2 + [causal]\"\n  dropout: 0.1", ", checkpointing: auto(590000B)"},
	{"segments over unlike layers", "  num_layers: 4\n  intermediate_size: \"[36, 20, 20, 36]\"", ", checkpointing: every(3)"},
	{"whole", "", ", checkpointing: every(3)"},
	{"every", "  dropout: 0.1", ", checkpointing: every(2)"},
}

func featureSpec(t *testing.T, model, train string) (*spec.Spec, string) {
	t.Helper()
	text := fmt.Sprintf(base, model, train)
	for _, line := range strings.Split(model, "\n") { // a feature's own key replaces the base's
		key, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if n := strings.Count(text, "  "+key+":"); key != "" && n > 1 {
			i := strings.Index(text, "  "+key+":")
			text = text[:i] + text[i+strings.IndexByte(text[i:], '\n')+1:]
		}
	}
	s, err := parser.Parse("model.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s, text
}

// TestProgramsAgreeWithEval builds a package for each feature of the language and runs it beside the reference.
func TestProgramsAgreeWithEval(t *testing.T) {
	var ps []*program
	for i, f := range features {
		s, text := featureSpec(t, f.model, f.train)
		ps = append(ps, &program{f.name, s, compile(t, s, text, nil, fmt.Sprintf("check/p%d", i)), randomJob(s, uint64(i), 3)})
	}
	for i, got := range runAll(t, ps) {
		t.Run(ps[i].name, func(t *testing.T) { compareAnswers(t, got, reference(t, ps[i].spec, ps[i].job)) })
	}
}

// TestPassesOff switches each pass off that may be, in turn, then all of them: the same results come out.
func TestPassesOff(t *testing.T) {
	s, text := featureSpec(t, "  bias: true\n  dropout: 0.1\n  logit_softcap: 10", ", checkpointing: full")
	j := randomJob(s, 7, 3)
	all := map[string]bool{}
	names := []string{"none"}
	offs := []map[string]bool{nil}
	for _, p := range passes.Pipeline {
		if !p.Required {
			all[p.Name] = true
			names = append(names, p.Name)
			offs = append(offs, map[string]bool{p.Name: true})
		}
	}
	names, offs = append(names, "all"), append(offs, all)
	var ps []*program
	for i, off := range offs {
		ps = append(ps, &program{names[i], s, compile(t, s, text, off, fmt.Sprintf("check/p%d", i)), j})
	}
	want := reference(t, s, j)
	for i, got := range runAll(t, ps) {
		t.Run(names[i], func(t *testing.T) { compareAnswers(t, got, want) })
	}
}
