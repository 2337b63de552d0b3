package parser

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/spec"
)

const small = "{vocab_size: 1000, hidden_size: 64, num_layers: 4, num_heads: 4"

// load parses a spec with a small model that has more keys, and more sections.
func load(t *testing.T, keys, sections string) *spec.Spec {
	t.Helper()
	s, err := Parse("m.yaml", []byte("model: "+small+keys+"}\n"+sections))
	if err != nil {
		t.Fatalf("%s %s: %v", keys, sections, err)
	}
	return s
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/specs/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	sizes := map[string]float64{"tiny": 1.5e6, "stories": 30e6, "ladder_1m": 1e6, "ladder_3m": 3e6, "ladder_10m": 10e6, "ladder_30m": 30e6,
		"ladder_100m": 100e6, "gpt2_124m": 124e6, "llama_1b": 1.236e9}
	for _, file := range files {
		s, err := Load(file)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if want, ok := sizes[s.Name]; ok && (float64(s.Model.Parameters()) < 0.85*want || float64(s.Model.Parameters()) > 1.1*want) {
			t.Errorf("%s has %d parameters, want about %g", s.Name, s.Model.Parameters(), want)
		}
		if s.Data.Train.Kind != "stories" {
			t.Errorf("%s does not run as it stands: it needs %v", file, s.Data.Train.Files)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	if _, err := Load("testdata/none.yaml"); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// TestDefaults checks a spec of four lines.
func TestDefaults(t *testing.T) {
	s := load(t, "", "")
	s.Source, s.HF = nil, nil
	causal, rope := spec.Pattern{Op: "causal"}, spec.Positions{Kind: "rope", Theta: 10000, Fraction: 1, Scaling: spec.Scaling{Kind: "none"}}
	normal := func(std float64) spec.InitRule { return spec.InitRule{Kind: "normal", Std: std} }
	want := &spec.Spec{
		Name: "m",
		Model: spec.Model{Preset: "llama", VocabSize: 1000, HiddenSize: 64, NumLayers: 4, NumHeads: []int{4}, NumKVHeads: []int{4}, HeadDim: 16,
			IntermediateSize: []int{256}, MaxPositionEmbeddings: 2048, Norm: spec.Norm{Kind: "rmsnorm", Eps: 1e-5}, NormPlacement: "pre",
			QKNorm: spec.QKNorm{Kind: "none"}, Positions: []spec.Positions{rope}, Attention: []spec.Pattern{causal}, AttentionMultiplier: 0.25,
			Activation: "swiglu", Residual: "serial", EmbeddingMultiplier: 1, LogitMultiplier: 1, ResidualMultiplier: 1,
			Init: spec.Init{Weights: normal(0.02), Embeddings: normal(0.02), Residual: normal(0.02 / 2.8284271247461903)}},
		Tokenizer: spec.Tokenizer{Train: "byte_bpe"},
		Data:      spec.Data{Train: spec.Corpus{Kind: "stories", Count: 20000, Seed: 1}, Eval: spec.EvalSplit{Share: 0.01}},
		Train: spec.Train{Steps: 1000, Batch: spec.Batch{Kind: "sequences", N: 16}, MicroBatch: 16, Context: 2048, Precision: "f32",
			Optimizer: spec.Optimizer{Kind: "adamw", LR: 1e-3, Betas: []float64{0.9, 0.95}, Eps: 1e-8, WeightDecay: 0.1, DecayOn: "matrices"},
			Schedule:  spec.Schedule{{Kind: "warmup", Steps: spec.Count{Share: 0.05}}, {Kind: "cosine", To: 0.1}}, Clip: 1,
			Checkpointing: spec.Checkpointing{Kind: "none"}, Save: spec.Save{Every: 500, Keep: 3, Best: "eval_loss"},
			Eval: spec.Every{Every: 100, Batches: 20}, LogEvery: 10, Seed: 1},
		Generate: spec.Generate{MaxNewTokens: 200, Temperature: 0.8, TopP: 1, Seed: 1, Batch: 1, Weights: "auto"},
		Target:   spec.Target{Devices: []string{"cpu", "cuda"}, Arch: []string{"sm_80", "sm_90a"}},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestValues checks single values: a path into the spec, and what it becomes.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		keys, sections string
		get            func(s *spec.Spec) any
		want           any
	}{
		// arithmetic
		{", intermediate_size: 4 * hidden_size", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 256},
		{", intermediate_size: round_up(8 * hidden_size / 3, 64) + 2 - 1", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 193},
		{", intermediate_size: \"max(1, min(hidden_size, 48), num_heads) * (2 + 3) / 5\"", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 48},
		{", intermediate_size: sqrt(hidden_size) * floor(17 / 2)", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 64},
		{", intermediate_size: 1_024", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 1024},
		{", intermediate_size: 9223372036854775807 - 9223372036854775800", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 7},
		{", intermediate_size: 2.5e2", "", func(s *spec.Spec) any { return s.Model.IntermediateSize[0] }, 250},
		{", attention_multiplier: .5 - -1 / 8", "", func(s *spec.Spec) any { return s.Model.AttentionMultiplier }, 0.625},
		{", embedding_multiplier: sqrt(2) * sqrt(2)", "", func(s *spec.Spec) any { return s.Model.EmbeddingMultiplier }, 2.0000000000000004},
		{"", "train: {context: max_position_embeddings / 4, micro_batch: 2 * num_heads, batch: 4 * num_heads}", func(s *spec.Spec) any { return []int{s.Train.Context, s.Train.MicroBatch} }, []int{512, 8}},
		{"", "train: {seed: 18446744073709551615}", func(s *spec.Spec) any { return s.Train.Seed }, uint64(18446744073709551615)},
		{"", "train: {save: {every: 10 * keep, keep: 2}}", func(s *spec.Spec) any { return s.Train.Save.Every }, 20},
		// precedence: the spec, then the preset, then the default
		{", preset: gpt2", "", func(s *spec.Spec) any { return s.Model.Dropout }, spec.Dropout{Embedding: 0.1, Attention: 0.1, Residual: 0.1}},
		{", preset: gpt2, dropout: {attention: 0}", "", func(s *spec.Spec) any { return s.Model.Dropout }, spec.Dropout{Embedding: 0.1, Residual: 0.1}},
		{", preset: gpt2, dropout: 0.2", "", func(s *spec.Spec) any { return s.Model.Dropout }, spec.Dropout{Embedding: 0.2, Attention: 0.2, Residual: 0.2}},
		{", preset: gpt2, bias: {qkv: false}", "", func(s *spec.Spec) any { return s.Model.Bias }, spec.Bias{Output: true, MLP: true}},
		{", bias: true", "", func(s *spec.Spec) any { return s.Model.Bias }, spec.Bias{QKV: true, Output: true, MLP: true}},
		{", preset: gpt2", "", func(s *spec.Spec) any { return s.Model.Norm }, spec.Norm{Kind: "layernorm", Eps: 1e-5, Bias: true}},
		// per layer
		{", num_kv_heads: [4, 2, 1, 4]", "", func(s *spec.Spec) any { return s.Model.NumKVHeads }, spec.PerLayer[int]{4, 2, 1, 4}},
		{`, num_kv_heads: "[4] * 3 + [1]"`, "", func(s *spec.Spec) any { return s.Model.NumKVHeads }, spec.PerLayer[int]{4, 4, 4, 1}},
		{`, num_kv_heads: "2 * [2, 4]"`, "", func(s *spec.Spec) any { return s.Model.NumKVHeads }, spec.PerLayer[int]{2, 4, 2, 4}},
		{`, num_kv_heads: "[2, 4] * (num_layers / 2)"`, "", func(s *spec.Spec) any { return s.Model.NumKVHeads }, spec.PerLayer[int]{2, 4, 2, 4}},
		{", head_dim: 16, num_kv_heads: num_heads / 2, intermediate_size: [1, 2, 3, 4 * hidden_size]", "", func(s *spec.Spec) any { return s.Model.IntermediateSize }, spec.PerLayer[int]{1, 2, 3, 256}},
		{`, num_kv_heads: "[2, 4, 2, 4]", intermediate_size: 8 * num_kv_heads`, "", func(s *spec.Spec) any { return s.Model.IntermediateSize }, spec.PerLayer[int]{16, 32, 16, 32}},
		{", positions: [rope, rope(5e5), none, alibi]", "", func(s *spec.Spec) any { return s.Model.Positions[1].Theta }, 500000.0},
		// patterns
		{", attention: causal & (window(4) | global(2)) & stride(3)", "", func(s *spec.Spec) any { return s.Model.Attention[0].String() }, "causal & (window(4) | global(2)) & stride(3)"},
		{`, attention: "causal & (block(4) | global(1, block: 8) | stride(2, block: 2))"`, "", func(s *spec.Spec) any { return s.Model.Attention[0].String() }, "causal & (window(1, block: 4) | global(1, block: 8) | stride(2, block: 2))"},
		{", attention: causal & window(hidden_size / 2)", "", func(s *spec.Spec) any { return s.Model.Attention[0].String() }, "causal & window(32)"},
		{", attention: prefix(8)", "", func(s *spec.Spec) any { return s.Model.Attention[0].Prefix() }, 8},
		// calls
		{", norm: layernorm(eps: 1e-6, bias: false)", "", func(s *spec.Spec) any { return s.Model.Norm }, spec.Norm{Kind: "layernorm", Eps: 1e-6}},
		{", norm: rmsnorm(1e-6)", "", func(s *spec.Spec) any { return s.Model.Norm }, spec.Norm{Kind: "rmsnorm", Eps: 1e-6}},
		{", positions: rope(scaling: yarn(4, beta_fast: 16))", "", func(s *spec.Spec) any { return s.Model.Positions[0].Scaling },
			spec.Scaling{Kind: "yarn", Factor: 4, OriginalMax: 512, BetaFast: 16, BetaSlow: 1}},
		{", init: {weights: uniform(0.1), residual: zeros}", "", func(s *spec.Spec) any { return []string{s.Model.Init.Weights.Kind, s.Model.Init.Residual.Kind} }, []string{"uniform", "zeros"}},
		{"", "train: {batch: tokens(4096), context: 128}", func(s *spec.Spec) any { return s.Train.MicroBatch }, 32},
		{"", "train: {checkpointing: auto(1.5GiB)}", func(s *spec.Spec) any { return s.Train.Checkpointing.Budget }, spec.Bytes(3 << 29)},
		{"", "train: {checkpointing: auto(2 * 512MiB)}", func(s *spec.Spec) any { return s.Train.Checkpointing.Budget }, spec.Bytes(1 << 30)},
		{"", "train: {optimizer: adamw(3e-4, betas: [0.8, 1 - 1 / 100])}", func(s *spec.Spec) any { return s.Train.Optimizer.Betas }, []float64{0.8, 0.99}},
		{"", "train: {schedule: warmup(10) -> constant(20%) -> cosine(to: 0.1)}", func(s *spec.Spec) any { return s.Train.Schedule },
			spec.Schedule{{Kind: "warmup", Steps: spec.Count{N: 10}}, {Kind: "constant", Steps: spec.Count{Share: 0.2}}, {Kind: "cosine", To: 0.1}}},
		{"", "train: {epochs: 2.5}", func(s *spec.Spec) any { return s.Train.Steps }, 0},
		// texts
		{"", "data: {train: texts/*.txt}", func(s *spec.Spec) any { return s.Data.Train }, spec.Corpus{Kind: "files", Files: []string{"texts/*.txt"}}},
		{"", "data: {train: [a.txt, \"b (1).txt\"], eval: c.txt}", func(s *spec.Spec) any { return s.Data }, spec.Data{Train: spec.Corpus{Kind: "files", Files: []string{"a.txt", "b (1).txt"}}, Eval: spec.EvalSplit{Files: []string{"c.txt"}}}},
		{"", "data: {train: stories(count: 7)}", func(s *spec.Spec) any { return s.Data.Train }, spec.Corpus{Kind: "stories", Count: 7, Seed: 1}},
		{"", "data: {eval: 2.5%}", func(s *spec.Spec) any { return s.Data.Eval.Share }, 0.025},
		{"", "tokenizer: tokenizer.json", func(s *spec.Spec) any { return s.Tokenizer }, spec.Tokenizer{File: "tokenizer.json"}},
		{"", "tokenizer: {file: a/tokenizer.json}", func(s *spec.Spec) any { return s.Tokenizer }, spec.Tokenizer{File: "a/tokenizer.json"}},
		{"", "generate: {prompts: \"a (b: c)\"}", func(s *spec.Spec) any { return s.Generate.Prompts }, []string{"a (b: c)"}},
		{"", "generate:\n  prompts:\n    - |\n      two\n      lines (x, y: z)\n    - 1e5\n", func(s *spec.Spec) any { return s.Generate.Prompts }, []string{"two\nlines (x, y: z)\n", "1e5"}},
		{"", "name: other", func(s *spec.Spec) any { return s.Name }, "other"},
	} {
		s := load(t, c.keys, c.sections)
		if got := c.get(s); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s: got %v, want %v", c.keys, c.sections, got, c.want)
		}
	}
}

// TestPositions checks where values stand, in every style of YAML.
func TestPositions(t *testing.T) {
	text := "model:\r\n  vocab_size: 1000 # größe\r\n  hidden_size: '64'\r\n  num_layers: 2\r\n  num_heads: 4\r\n" +
		"  norm: rmsnorm(eps: 1e-6)\r\n  attention: \"[causal, \\x63ausal & window(8)]\"\r\n  positions: >-\r\n    [rope,\r\n    rope(theta: 5)]\r\n"
	s, err := Parse("m.yaml", append([]byte("\uFEFF"), text...))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"model": "1:1", "model.vocab_size": "2:15", "model.hidden_size": "3:16", "model.norm": "6:9", "model.norm.eps": "6:22",
		"model.attention": "7:14", "model.attention[0]": "7:16", "model.attention[1]": "7:24", "model.attention[1].n": "7:43",
		"model.positions": "8:14", "model.positions[0]": "9:6", "model.positions[1]": "10:5", "model.positions[1].theta": "10:17",
	} {
		p := s.Source.Pos[path]
		if got := fmt.Sprintf("%d:%d", p.Line, p.Col); got != want || p.File != "m.yaml" {
			t.Errorf("%s stands at %s, want %s", path, got, want)
		}
	}
	for path, want := range map[string]string{"model.norm.offset": "m.yaml:6:9", "model.attention[1].block": "m.yaml:7:24", "model.head_dim": "m.yaml:1:1", "train.steps": "m.yaml"} {
		if got := s.Source.At(path).String(); got != want {
			t.Errorf("At(%s) = %s, want %s", path, got, want)
		}
	}
}

func TestNameOf(t *testing.T) {
	for file, want := range map[string]string{"a/GPT2-124m.yaml": "gpt2_124m", "tiny.yml": "tiny", "x.y.yaml": "x_y", "é.yaml": "_"} {
		if got := nameOf(file); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

// TestPatternText checks that patterns read back what they print.
func TestPatternText(t *testing.T) {
	for _, text := range []string{"causal", "causal & window(3)", "causal & (window(3) | global(1, block: 2)) & stride(4)", "prefix(3) | causal & window(2)"} {
		p, err := Pattern(text)
		if err != nil || p.String() != text {
			t.Errorf("%s: got %s, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "causal &", "cauzal", "window(0)", "3", "window(x)"} {
		if p, err := Pattern(text); err == nil {
			t.Errorf("%q: got %s", text, p)
		}
	}
}
