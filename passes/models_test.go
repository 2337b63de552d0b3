package passes_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// models are small specs that together use every part of the language that shapes a function. Each is what differs from
// base.
var models = map[string]string{
	"llama":           "model: {preset: llama, num_kv_heads: 2}",
	"gpt2":            "model: {preset: gpt2, dropout: 0.2}",
	"gpt_neox":        "model: {preset: gpt_neox, head_dim: 8}",
	"gemma2":          "model: {preset: gemma2, num_kv_heads: 1, head_dim: 4}",
	"qwen3":           "model: {preset: qwen3, num_kv_heads: 2, head_dim: 6}",
	"parallel":        "model: {preset: llama, residual: parallel, dropout: 0.1}",
	"parallel_shared": "model: {preset: llama, residual: parallel_shared, norm: layernorm, activation: gelu, bias: true}",
	"post":            "model: {preset: llama, norm_placement: post, norm: layernorm}",
	"both":            "model: {preset: llama, norm_placement: both, dropout: 0.1, qk_norm: 'layernorm(over: all)'}",
	"post_dropout":    "model: {preset: gpt2, norm_placement: post, dropout: 0.1, positions: alibi}",
	"scaled":          "model: {preset: llama, residual_multiplier: 0.5, logit_multiplier: 0.25, embedding_multiplier: 3, logit_softcap: 5, attention_softcap: 4}",
	"relu":            "model: {preset: llama, activation: relu2, bias: {mlp: true, head: true}, tie_word_embeddings: false}",
	"patterns":        "model: {preset: llama, attention: '[causal, causal & window(3), prefix(2)]', qk_norm: rmsnorm}",
	"three_groups":    "model: {preset: llama, num_layers: 5, intermediate_size: '[24, 24, 24, 32, 20]', attention: '[causal, causal & window(3), causal, causal, causal & window(2)]'}",
	"single_layers":   "model: {preset: llama, num_heads: '[4, 2, 4]', num_kv_heads: '[2, 2, 1]', head_dim: 4, qk_norm: rmsnorm, positions: [rope, none, 'rope(theta: 500)']}",
	"one_layer":       "model: {preset: gpt2, num_layers: 1}",
	"one_micro_batch": "model: {preset: llama}\ntrain: {batch: 2, context: 6, optimizer: 'adamw(lr: 1e-2)'}",
}

const base = `
vocab_size: 19
hidden_size: 16
num_layers: 3
num_heads: 4
intermediate_size: 24
max_position_embeddings: 8
`

const baseTrain = "train: {batch: 4, micro_batch: 2, context: 6, optimizer: 'adamw(lr: 1e-2)'}"

// model parses the spec of that name, with the settings of base that it leaves out.
func model(t testing.TB, name string) *spec.Spec {
	t.Helper()
	text := strings.TrimSuffix(strings.SplitN(models[name], "\n", 2)[0], "}")
	for _, line := range strings.Split(strings.TrimSpace(base), "\n") {
		if key, _, _ := strings.Cut(line, ":"); !strings.Contains(text, key+":") {
			text += ", " + line
		}
	}
	text += "}\ntokenizer: tokenizer.json\ngenerate: {batch: 3}\n"
	if _, own, ok := strings.Cut(models[name], "\n"); ok {
		text += own
	} else {
		text += baseTrain
	}
	s, err := parser.Parse(name+".yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compile builds a job of s and takes it through the passes up to the one named last, or all.
func compile(t testing.TB, s *spec.Spec, job string, c spec.Checkpointing, last string) *ir.Func {
	t.Helper()
	f, err := tryCompile(s, job, c, last)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func tryCompile(s *spec.Spec, job string, c spec.Checkpointing, last string) (*ir.Func, error) {
	o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
	o.Checkpointing = c
	f := ir.Build(s, job)
	return f, passes.Run(f, o, last, nil)
}

// inputs draws inputs for f and a state with weights; the same for functions with the same parameters and inputs.
func inputs(f *ir.Func) (map[string]*ir.Tensor, *ir.State) {
	r := rand.New(rand.NewPCG(7, 9))
	state := ir.NewState()
	for _, p := range f.Params {
		if p.Cache || len(p.Parts) > 0 {
			continue
		}
		for i := range p.Members() {
			w := ir.NewTensor(p.Type.Shape()...)
			for k := range w.Data {
				w.Data[k] = 0.4 * r.NormFloat64()
				if p.Init.Kind == "constant" {
					w.Data[k] = p.Init.Scale + 0.1*r.NormFloat64()
				}
			}
			state.Weights[p.Member(p.From+i)] = w
		}
	}
	in := map[string]*ir.Tensor{}
	for _, v := range f.Inputs {
		shape := v.Type.Shape()
		if v.Axis != "" {
			shape = append([]int{f.Symbol("A")}, shape...)
		}
		x := ir.NewTensor(shape...)
		for k := range x.Data {
			switch v.Name {
			case "tokens", "targets":
				x.Data[k] = float64(r.IntN(f.Symbol("V")))
				if v.Name == "targets" && r.IntN(5) == 0 {
					x.Data[k] = -1
				}
			case "positions":
				x.Data[k] = float64(k % v.Type.Cols())
			case "slots":
				if f.Name == "decode" {
					x.Data[k] = float64(k)
				}
			case "lr":
				x.Data[k] = 0.01
			case "step", "seed":
				x.Data[k] = 3
			}
		}
		in[v.Name] = x
	}
	return in, state
}
