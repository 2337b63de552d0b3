package gogen_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
	"github.com/tfc-dev/tfc/spec/spectest"
)

// reference computes what a job's answer should be with ir.Eval, in float64, on the functions as they were built.
func reference(t *testing.T, s *spec.Spec, j gotest.Job) gotest.Answer {
	t.Helper()
	return referenceBy(t, s, j, "cpu", false, ir.Eval)
}

// referenceBy evaluates the functions for a target: with fused, after all passes but the planning ones; else without any pass
// that may be left out but those of precision and quantize.
func referenceBy(t *testing.T, s *spec.Spec, j gotest.Job, target string, fused bool, evaluate func(*ir.Func, map[string]*ir.Tensor, *ir.State) ([]*ir.Tensor, error)) gotest.Answer {
	t.Helper()
	var a gotest.Answer
	build := func(job, last string) *ir.Func {
		f := ir.Build(s, job)
		o := passes.OptionsFor(s, ir.TargetNamed(target))
		o.Off = map[string]bool{}
		for _, p := range passes.Pipeline {
			o.Off[p.Name] = !fused && !p.Required && p.Name != "precision" && p.Name != "fp8" && p.Name != "quantize"
		}
		if err := passes.Run(f, o, last, nil); err != nil {
			t.Fatal(err)
		}
		return f
	}
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
		out, err := evaluate(f, in, state)
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
	a.Logits = narrow(eval(build("logits", "precision"), map[string]*ir.Tensor{"tokens": ints(j.Sequence, n), "positions": ints(iota(n, 0), n)})[0].Data)
	v := s.Model.VocabSize
	if prefill := build("prefill", "quantize"); isNarrow(prefill) { // generation has numbers of its own
		a.Cached = append(a.Cached, narrow(eval(prefill, map[string]*ir.Tensor{
			"tokens": ints(j.Sequence[:j.Prompt], j.Prompt), "positions": ints(iota(j.Prompt, 0), j.Prompt), "slots": ir.NewTensor(j.Prompt)})[0].Data))
		decode := build("decode", "quantize")
		for i := j.Prompt; i < n; i++ {
			a.Cached = append(a.Cached, narrow(eval(decode, map[string]*ir.Tensor{
				"tokens": ints(j.Sequence[i:i+1], 1), "positions": ints(iota(1, i), 1), "slots": ir.NewTensor(1)})[0].Data))
		}
	} else {
		for i := j.Prompt - 1; i < n; i++ {
			a.Cached = append(a.Cached, a.Logits[i*v:][:v])
		}
	}
	ctx, mb, mbs := s.Train.Context, ir.MicroBatch(s), ir.MicroBatches(s)
	positions := ir.NewTensor(mb, ctx)
	for i := range positions.Data {
		positions.Data[i] = float64(i % ctx)
	}
	out := eval(build("eval", "precision"), map[string]*ir.Tensor{"tokens": ints(j.Steps[0].Tokens[:mb*ctx], mb, ctx), "targets": ints(j.Steps[0].Targets[:mb*ctx], mb, ctx), "positions": positions})
	a.EvalSum, a.EvalN = out[0].Data[0], out[1].Data[0]
	train := build("train", map[bool]string{false: "fp8", true: "checkpoint"}[fused])
	for i, b := range j.Steps {
		out := eval(train, map[string]*ir.Tensor{"tokens": ints(b.Tokens, mbs, mb, ctx), "targets": ints(b.Targets, mbs, mb, ctx), "positions": positions,
			"lr": ir.Scalar(float64(j.LRs[i])), "step": ir.Scalar(float64(i + 1)), "seed": ir.Scalar(float64(j.Seed))})
		a.Losses, a.Norms = append(a.Losses, float32(out[0].Data[0])), append(a.Norms, float32(out[1].Data[0]))
	}
	a.Grads, a.Final = map[string][]float32{}, map[string][]float32{}
	for name, w := range state.Weights {
		a.Final[name] = narrow(w.Data)
		a.Grads[name] = narrow(state.Grads[name].Data)
	}
	return a
}

// isNarrow says whether f reads weights in fewer bits.
func isNarrow(f *ir.Func) (yes bool) {
	f.Walk(func(op *ir.Op) { yes = yes || op.Str("weights") != "" })
	return yes
}

func narrow(xs []float64) []float32 {
	out := make([]float32, len(xs))
	for i, x := range xs {
		out[i] = float32(x)
	}
	return out
}

// randomJob draws weights, tokens and targets for a spec.
func randomJob(s *spec.Spec, seed uint64, steps int) gotest.Job {
	r := rand.New(rand.NewPCG(seed, 1))
	j := gotest.Job{Weights: map[string][]float32{}, Seed: seed}
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
		b := gotest.Batch{Tokens: tokens(n), Targets: tokens(n)}
		for i := range b.Targets {
			if r.IntN(5) == 0 || i%s.Train.Context < ir.LossFrom(s) {
				b.Targets[i] = -100
			}
		}
		j.Steps, j.LRs = append(j.Steps, b), append(j.LRs, 1e-3)
	}
	j.Sequence = tokens(max(2, s.Model.MaxPositionEmbeddings-1))
	j.Prompt = min(len(j.Sequence), max(1, len(j.Sequence)*2/3, ir.LossFrom(s)+1)) // a prefix comes in one piece
	return j
}

// comparison holds an answer to the reference. A number may differ by a share of the largest in its list, and by some
// times what it moves where every weight moves by its last bit: float32 cannot know it better.
type comparison struct {
	t     *testing.T
	what  string
	scale float64 // the largest in the list counts at least this
}

const shaken = 30 // times the effect of one shake: a program rounds at every step, the shake does once

func (c comparison) numbers(got, want, moved []float32, tol float64) {
	c.t.Helper()
	if len(got) != len(want) {
		c.t.Errorf("%s: %d numbers, want %d", c.what, len(got), len(want))
		return
	}
	scale, unsure, worst, at := c.scale, 0.0, 0.0, 0
	for i, x := range want {
		scale = max(scale, math.Abs(float64(x)))
		unsure = max(unsure, math.Abs(float64(x)-float64(moved[i])))
	}
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	gotest.Off(c.t, worst/(tol*scale+shaken*unsure))
	if !(worst <= tol*scale+shaken*unsure) {
		c.t.Errorf("%s: element %d is %v, want %v: %.2g of the largest, %v; a shake moves %.2g", c.what, at, got[at], want[at], worst/scale, scale, unsure)
	}
}

// check holds what the program answered to what ir.Eval makes of the job.
func check(t *testing.T, s *spec.Spec, j gotest.Job, got gotest.Answer) {
	t.Helper()
	want, moved := reference(t, s, j), reference(t, s, shake(j))
	if s.Train.Precision == "bf16" {
		checkTrainedInBF16(t, s, j, got, want)
		got.Losses, got.Norms, got.EvalSum, got.EvalN, want.Grads, want.Final = want.Losses, want.Norms, want.EvalSum, want.EvalN, nil, nil // the rest is in f32
	}
	compare := func(what string, got, want, moved []float32, tol float64) {
		t.Helper()
		comparison{t, what, 1e-3}.numbers(got, want, moved, tol)
	}
	compare("losses", got.Losses, want.Losses, moved.Losses, 2e-5)
	compare("gradient norms", got.Norms, want.Norms, moved.Norms, 1e-4)
	sum := func(a gotest.Answer) []float32 { return []float32{float32(a.EvalSum), float32(a.EvalN)} }
	compare("eval", sum(got), sum(want), sum(moved), 2e-5)
	compare("logits", got.Logits, want.Logits, moved.Logits, 5e-5)
	for i := range want.Cached {
		compare(fmt.Sprintf("cached logits %d", i), got.Cached[i], want.Cached[i], moved.Cached[i], 5e-5)
	}
	// The gradient of queries and keys is what is left of a difference, dP - rowsum(dO·O): it is rounded as the gradients
	// it comes from are, however small it is.
	largest := 0.0
	for _, w := range want.Grads {
		for _, x := range w {
			largest = max(largest, math.Abs(float64(x)))
		}
	}
	for name, w := range want.Grads {
		if flat(s, name) {
			continue
		}
		comparison{t, "gradient of " + name, 1e-2 * largest}.numbers(got.Grads[name], w, moved.Grads[name], 2e-4)
	}
	for name, w := range want.Final {
		if flat(s, name) {
			continue
		}
		compare("weight "+name, got.Final[name], w, moved.Final[name], 1e-3)
	}
}

// checkTrainedInBF16 holds training whose products round their operands to what a plain computation that rounds them is off, as
// programs in 16 bits on GPUs are (checkPrecision). In models of a few numbers one rounding that falls the other way shows, as where
// it turns a ReLU off, so the plain computation is measured on several sets of weights, each close to the job's.
func checkTrainedInBF16(t *testing.T, s *spec.Spec, j gotest.Job, got, want gotest.Answer) {
	t.Helper()
	off := map[string]float64{} // of plain computations, the largest
	r := rand.New(rand.NewPCG(j.Seed, 2))
	for n := range 4 {
		near, exact := j, want
		if n > 0 {
			near.Weights = map[string][]float32{}
			for _, name := range slices.Sorted(maps.Keys(j.Weights)) {
				for _, x := range j.Weights[name] {
					near.Weights[name] = append(near.Weights[name], x*(1+float32(r.NormFloat64())/256))
				}
			}
			exact = reference(t, s, near)
		}
		want := answers(s, exact)
		for what, x := range answers(s, referenceBy(t, s, near, "cpu", false, ir.EvalRounded)) {
			off[what] = max(off[what], length(x, want[what]))
		}
	}
	rounded, plain := 0.0, 0.0
	gots := answers(s, got)
	for what, w := range answers(s, want) {
		d, allowed := length(gots[what], w), 2*off[what]+length(w, nil)*lastBit["bf16"]
		gotest.Off(t, d/allowed)
		if len(gots[what]) != len(w) || !(d <= allowed) {
			t.Errorf("%s: off by %.3g of %.3g, a plain computation by %.3g", what, d, length(w, nil), off[what])
		}
		rounded, plain = rounded+d, plain+off[what]
	}
	if rounded < plain/20 {
		t.Errorf("off by %.3g in all, plain computations by %.3g: nothing seems to be rounded", rounded, plain)
	}
}

// answers are the numbers of training by what they are.
func answers(s *spec.Spec, a gotest.Answer) map[string][]float32 {
	all := map[string][]float32{"losses": a.Losses, "gradient norms": a.Norms, "eval": {float32(a.EvalSum), float32(a.EvalN)}}
	for name, x := range packed(a.Grads) {
		if !flat(s, name) {
			all["gradient of "+name] = x
		}
	}
	for name, x := range a.Final {
		if !flat(s, name) {
			all["weight "+name] = x
		}
	}
	return all
}

// flat says whether a weight comes before a LayerNorm of two numbers, which gives ±1 whatever they are: its gradient is
// nothing but rounding.
func flat(s *spec.Spec, name string) bool {
	n := s.Model.QKNorm
	width := s.Model.HeadDim
	if n.Over == "all" {
		width *= s.Model.NumKVHeads.At(0)
	}
	return n.Kind == "layernorm" && width <= 2 && (strings.Contains(name, ".k.") || strings.Contains(name, ".q."))
}

// shake moves every weight of a job to a neighbouring float32.
func shake(j gotest.Job) gotest.Job {
	moved := map[string][]float32{}
	for name, w := range j.Weights {
		x := make([]float32, len(w))
		for i, v := range w {
			to := float32(math.Inf(1 - 2*(i%2)))
			x[i] = math.Nextafter32(v, to)
		}
		moved[name] = x
	}
	j.Weights = moved
	return j
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

type featureCase struct{ name, model, train string }

var features = []featureCase{
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
	var ps []gotest.Program
	for i, f := range features {
		s, text := featureSpec(t, f.model, f.train)
		ps = append(ps, gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 3)})
	}
	for i, got := range gotest.Run(t, ps) {
		t.Run(features[i].name, func(t *testing.T) { check(t, ps[i].Compiled.Spec, ps[i].Job, got) })
	}
}

// TestProgramsInBF16 builds packages whose products are in bf16, and holds them to the loss of a plain computation.
func TestProgramsInBF16(t *testing.T) {
	var ps []gotest.Program
	var names []string
	for i, f := range features {
		if i%2 == 1 || f.train != "" {
			continue
		}
		s, text := featureSpec(t, f.model, ", precision: bf16"+f.train)
		names = append(names, f.name)
		ps = append(ps, gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(100+i), 3)})
	}
	for i, got := range gotest.Run(t, ps) {
		t.Run(names[i], func(t *testing.T) { check(t, ps[i].Compiled.Spec, ps[i].Job, got) })
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
	var ps []gotest.Program
	for _, off := range offs {
		ps = append(ps, gotest.Program{Compiled: gotest.Compile(t, s, text, off), Job: j})
	}
	for i, got := range gotest.Run(t, ps) {
		t.Run(names[i], func(t *testing.T) { check(t, s, j, got) })
	}
}

// TestRandomPrograms builds packages for random specs over the whole language.
func TestRandomPrograms(t *testing.T) {
	var ps []gotest.Program
	for seed := range uint64(24) {
		text := spectest.Random(1000 + seed)
		s, err := parser.Parse("random.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		s.Train.Optimizer.Eps = 1e-3 // or a gradient of nothing but rounding moves its weight
		ps = append(ps, gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, seed, 2)})
	}
	for i, got := range gotest.Run(t, ps) {
		t.Run(fmt.Sprint(i), func(t *testing.T) { check(t, ps[i].Compiled.Spec, ps[i].Job, got) })
	}
}
