package parser

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/spec"
)

// small models of each family as Transformers wrote them; testdata/hf has their config.json and the shapes of their tensors.
var families = map[string]string{
	"gpt2":     "{num_heads: 4}",
	"gpt_neo":  `{num_layers: 4, num_heads: 4, intermediate_size: 64, attention: "[causal, causal & window(8)] * 2"}`,
	"gpt_neox": "{num_heads: 4, intermediate_size: 64}",
	"llama": `{num_heads: 4, num_kv_heads: 2, intermediate_size: 56, norm: rmsnorm(1e-6),
    positions: "rope(scaling: llama3(8, original_max_position_embeddings: 32))"}`,
	"mistral": "{num_heads: 4, num_kv_heads: 2, intermediate_size: 56, norm: rmsnorm(1e-6), attention: causal & window(8)}",
	"qwen2":   "{num_heads: 4, num_kv_heads: 2, intermediate_size: 56, positions: rope(10000), tie_word_embeddings: true}",
	"qwen3":   "{num_heads: 4, num_kv_heads: 2, head_dim: 12, intermediate_size: 56, positions: rope(10000)}",
	"gemma2": `{num_heads: 4, num_kv_heads: 2, head_dim: 8, intermediate_size: 56,
    attention: "[causal & window(8), causal]"}`,
	"phi3": "{num_heads: 4, num_kv_heads: 2, intermediate_size: 56}",
}

func loadFamily(t *testing.T, name string) *spec.Spec {
	t.Helper()
	keys := strings.TrimSuffix(families[name], "}")
	if !strings.Contains(keys, "num_layers") {
		keys += ", num_layers: 2"
	}
	text := fmt.Sprintf("tokenizer: tokenizer.json\nmodel: %s, preset: %s, vocab_size: 128, hidden_size: 32, max_position_embeddings: 64}\n", keys, name)
	s, err := Parse(name+".yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s
}

// fixture is a file of testdata/hf.
type fixture struct {
	Config  map[string]any
	Tensors map[string][]int
}

func readFixture(t *testing.T, name string) (f fixture) {
	t.Helper()
	text, err := os.ReadFile("testdata/hf/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPresetsAreTested(t *testing.T) {
	for _, p := range Presets() {
		if families[p.Name] == "" || p.Doc == "" {
			t.Errorf("preset %s: doc %q, tested %v", p.Name, p.Doc, families[p.Name] != "")
		}
	}
}

// weights lists the weights of a model with their shapes, as [out, in] or [n].
func weights(m *spec.Model) map[string][]int {
	d, e := m.HiddenSize, m.HeadDim
	list := map[string][]int{"wte": {m.VocabSize, d}}
	norm := func(name string, n int, bias bool) {
		list[name+".weight"] = []int{n}
		if bias {
			list[name+".bias"] = []int{n}
		}
	}
	linear := func(name string, out, in int, bias bool) {
		list[name+".weight"] = []int{out, in}
		if bias {
			list[name+".bias"] = []int{out}
		}
	}
	normBias := m.Norm.Kind == "layernorm" && m.Norm.Bias
	norm("final_norm", d, normBias)
	if !m.TieWordEmbeddings {
		list["head"] = []int{m.VocabSize, d}
	}
	if m.Positions.At(0).Kind == "learned" {
		list["wpe"] = []int{m.MaxPositionEmbeddings, d}
	}
	_, gated := m.Gated()
	for l := range m.NumLayers {
		p := fmt.Sprintf("layers.%d.", l)
		q, kv, f := m.NumHeads.At(l)*e, m.NumKVHeads.At(l)*e, m.IntermediateSize.At(l)
		norm(p+"attn_norm", d, normBias)
		norm(p+"mlp_norm", d, normBias)
		if m.NormPlacement == "both" {
			norm(p+"attn_post_norm", d, normBias)
			norm(p+"mlp_post_norm", d, normBias)
		}
		linear(p+"q", q, d, m.Bias.QKV)
		linear(p+"k", kv, d, m.Bias.QKV)
		linear(p+"v", kv, d, m.Bias.QKV)
		linear(p+"o", d, q, m.Bias.Output)
		if m.QKNorm.Kind != "none" {
			norm(p+"q_norm", e, false)
			norm(p+"k_norm", e, false)
		}
		linear(p+"up", f, d, m.Bias.MLP)
		if gated {
			linear(p+"gate", f, d, m.Bias.MLP)
		}
		linear(p+"down", d, f, m.Bias.MLP)
	}
	return list
}

// TestPlace checks that the weights of each family fill the tensors of its file: each row once, in the right shape.
func TestPlace(t *testing.T) {
	for name := range families {
		t.Run(name, func(t *testing.T) {
			s, want := loadFamily(t, name), readFixture(t, name).Tensors
			total := 0
			filled := map[string][]int{} // how often each row is
			for weight, shape := range weights(&s.Model) {
				p, ok := s.HF.Place(weight, &s.Model)
				tensor := slices.Clone(want[p.File])
				if !ok || tensor == nil {
					t.Errorf("%s: no tensor %q", weight, p.File)
					continue
				}
				if p.Transposed {
					slices.Reverse(tensor)
				}
				if p.Group == 0 {
					p.Rows, p.Group = tensor[0], tensor[0]
				}
				if p.Rows != tensor[0] || len(tensor) != len(shape) || !slices.Equal(tensor[1:], shape[1:]) {
					t.Errorf("%s %v does not fit %s %v, which has %d rows", weight, shape, p.File, tensor, p.Rows)
					continue
				}
				if filled[p.File] == nil {
					filled[p.File] = make([]int, tensor[0])
				}
				for r := range shape[0] {
					filled[p.File][p.Row+r/p.Group*p.Stride+r%p.Group]++
				}
				n := 1
				for _, d := range shape {
					n *= d
				}
				total += n
			}
			for tensor := range want {
				if rows := filled[tensor]; rows == nil || slices.Min(rows) != 1 || slices.Max(rows) != 1 {
					t.Errorf("%s is filled %v times", tensor, rows)
				}
			}
			if total != s.Model.Parameters() {
				t.Errorf("Parameters() = %d, the weights have %d", s.Model.Parameters(), total)
			}
		})
	}
}

// TestPlaceInterleaved checks GPT-NeoX's order of rows: by head, and in it queries, keys, values.
func TestPlaceInterleaved(t *testing.T) {
	s := loadFamily(t, "gpt_neox")
	p, ok := s.HF.Place("layers.1.k.weight", &s.Model)
	want := spec.Placement{File: "gpt_neox.layers.1.attention.query_key_value.weight", Rows: 96, Row: 8, Group: 8, Stride: 24}
	if !ok || p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	s = loadFamily(t, "gpt2")
	p, ok = s.HF.Place("layers.0.v.bias", &s.Model)
	want = spec.Placement{File: "transformer.h.0.attn.c_attn.bias", Rows: 96, Row: 64, Group: 32, Stride: 32}
	if !ok || p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	if _, ok := s.HF.Place("layers.0.gate.weight", &s.Model); ok {
		t.Error("gpt2 has a gate")
	}
}

// sameMeaning are config.json keys that say the same in other words than the fixture.
var sameMeaning = map[string]bool{
	"gpt2 n_inner": true, "gpt2 activation_function": true, // null is 4 * n_embd; gelu_new is gelu_pytorch_tanh
	"gpt_neo activation_function": true, "gpt_neo attention_types": true, // one item of four instead of a pair repeated
	"phi3 rope_parameters":                  true, // has a partial_rotary_factor of 1
	"phi3 original_max_position_embeddings": true, // read for longrope only
}

func TestHuggingFaceConfig(t *testing.T) {
	for name := range families {
		t.Run(name, func(t *testing.T) {
			s, want := loadFamily(t, name), readFixture(t, name).Config
			text, err := s.HuggingFaceConfig()
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			compared := 0
			for key, v := range got {
				w, ok := want[key]
				if !ok || sameMeaning[name+" "+key] {
					continue
				}
				compared++
				if diff := cmp.Diff(w, v); diff != "" {
					t.Errorf("%s (-want +got):\n%s", key, diff)
				}
			}
			if compared < 12 {
				t.Errorf("only %d keys compared", compared)
			}
			// What Transformers reads and nothing here says must be no part of the model.
			for key := range want {
				_, said := got[key]
				if !said && !slices.Contains(notModel, key) {
					t.Errorf("config.json lacks %s", key)
				}
			}
		})
	}
}

// notModel are config.json keys of the tokenizer, of other tasks and of the library.
var notModel = []string{"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "add_cross_attention", "reorder_and_upcast_attn",
	"summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "classifier_dropout",
	"is_decoder", "pretraining_tp", "max_window_layers", "use_bidirectional_attention"}

// TestDiffers checks that what a family's config.json cannot say is found.
func TestDiffers(t *testing.T) {
	base := "{vocab_size: 300, hidden_size: 64, num_layers: 2, num_heads: 4, preset: "
	for _, c := range []struct{ text, want string }{
		{"gpt2}", ""},
		{"gpt2, activation: relu, norm: layernorm(1e-6), dropout: 0}", ""},
		{"gpt2, activation: swiglu}", "activation"},
		{"gpt2, num_kv_heads: 2}", "num_kv_heads"},
		{"gpt2, bias: false}", "bias.mlp bias.output bias.qkv"},
		{"gpt2, attention: causal & window(4)}", "attention"},
		{"llama, positions: rope(theta: 5e5, scaling: yarn(4))}", ""},
		{"llama, positions: rope(fraction: 0.5)}", "positions.fraction"},
		{"llama, positions: [rope, none]}", "positions.fraction positions.kind positions.scaling.kind positions.theta"},
		{"llama, num_kv_heads: [2, 4]}", "num_kv_heads"},
		{"llama, qk_norm: rmsnorm}", "qk_norm.eps qk_norm.kind qk_norm.over"},
		{"llama, logit_softcap: 30, residual: parallel}", "logit_softcap residual"},
		{"mistral, attention: causal & window(8)}", ""},
		{`mistral, attention: "[causal, causal & window(8)]"}`, "attention"},
		{`qwen3, attention: "[causal, causal & window(8)]"}`, ""},
		{`gemma2, attention: "[causal & window(16), causal & window(8)]"}`, "attention"},
		{"gpt_neox, residual: serial, positions: rope(fraction: 0.5)}", ""},
		{"gpt_neox, residual: parallel_shared}", "residual"},
		{"llama, activation: geglu}", "activation"},
		{"phi3, head_dim: 32}", "attention_multiplier head_dim"},
	} {
		s, err := Parse("m.yaml", []byte("model: "+base+c.text))
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := strings.Join(s.HF.Differs, " "); got != c.want {
			t.Errorf("%s: differs in %q, want %q", c.text, got, c.want)
		}
		if _, err := s.HuggingFaceConfig(); (err == nil) != (c.want == "") {
			t.Errorf("%s: HuggingFaceConfig: %v", c.text, err)
		}
	}
}
