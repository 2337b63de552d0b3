// Package spectest writes random specs for tests: small models that over many seeds use the whole language of the model
// and training sections, every one of them valid.
package spectest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Random returns the YAML of a spec drawn from seed.
func Random(seed uint64) string {
	g := &generator{r: rand.New(rand.NewPCG(seed, 0x7fc))}
	g.line("model:")
	g.sizes()
	g.norms()
	g.attention()
	g.rest()
	g.train()
	return g.b.String()
}

type generator struct {
	r       *rand.Rand
	b       strings.Builder
	layers  int
	headDim int
	max     int // positions
	context int
	learned bool
}

func (g *generator) line(format string, args ...any) { fmt.Fprintf(&g.b, format+"\n", args...) }

// key writes a key of the model section.
func (g *generator) key(name, format string, args ...any) {
	g.line("  %s: %s", name, fmt.Sprintf(format, args...))
}

func (g *generator) chance(share float64) bool { return g.r.Float64() < share }

// between draws from [lo, hi].
func (g *generator) between(lo, hi int) int { return lo + g.r.IntN(hi-lo+1) }

func pick[T any](g *generator, list ...T) T { return list[g.r.IntN(len(list))] }

// perLayer writes one value for all layers, or with some chance a list.
func (g *generator) perLayer(name string, each func() string) {
	if !g.chance(0.4) {
		g.key(name, "%q", each())
		return
	}
	g.key(name, "")
	first := each()
	for range g.layers {
		if g.chance(0.5) {
			first = each() // else as the layer before, so that loops of several layers remain
		}
		g.line("    - %q", first)
	}
}

func (g *generator) sizes() {
	g.key("preset", "%s", pick(g, "llama", "gpt2", "gpt_neox", "gemma2", "phi3"))
	g.layers, g.headDim, g.max = g.between(1, 5), pick(g, 2, 4, 8), g.between(6, 9)
	g.context = g.between(5, g.max)
	g.key("vocab_size", "%d", g.between(11, 19))
	g.key("hidden_size", "%d", g.between(3, 9))
	g.key("num_layers", "%d", g.layers)
	g.key("head_dim", "%d", g.headDim)
	g.key("max_position_embeddings", "%d", g.max)
	heads, kv := []string{}, []string{}
	h, k := 0, 0
	for l := range g.layers {
		if l == 0 || g.chance(0.2) {
			k = g.between(1, 2)
			h = k * g.between(1, 3)
		}
		heads, kv = append(heads, fmt.Sprint(h)), append(kv, fmt.Sprint(k))
	}
	g.key("num_heads", "[%s]", strings.Join(heads, ", "))
	g.key("num_kv_heads", "[%s]", strings.Join(kv, ", "))
	g.perLayer("intermediate_size", func() string { return fmt.Sprint(g.between(3, 10)) })
}

func (g *generator) norms() {
	serial := g.chance(0.6)
	if serial {
		g.key("residual", "serial")
		g.key("norm_placement", "%s", pick(g, "pre", "post", "both"))
	} else {
		g.key("residual", "%s", pick(g, "parallel", "parallel_shared"))
		g.key("norm_placement", "pre")
	}
	g.key("norm", "%q", pick(g, "layernorm(eps: 1e-3)", "layernorm(bias: false)", "rmsnorm", "rmsnorm(eps: 1e-2, offset: 1)"))
	if g.chance(0.5) {
		g.key("qk_norm", "%q", pick(g, "layernorm", "layernorm(over: all)", "rmsnorm", "rmsnorm(offset: 1)", "rmsnorm(over: all)"))
	} else {
		g.key("qk_norm", "none")
	}
}

func (g *generator) attention() {
	if g.learned = g.chance(0.25); g.learned {
		g.key("positions", "learned")
	} else {
		g.perLayer("positions", g.positions)
	}
	g.perLayer("attention", g.pattern)
	if g.chance(0.3) {
		g.key("attention_multiplier", "%.2f", 0.2+g.r.Float64())
	} else {
		g.key("attention_multiplier", "1 / sqrt(head_dim)")
	}
	g.key("attention_softcap", "%d", pick(g, 0, 0, 2))
}

func (g *generator) positions() string {
	switch g.r.IntN(5) {
	case 0:
		return "none"
	case 1:
		return "alibi"
	}
	args := []string{fmt.Sprintf("theta: %d", pick(g, 10, 500, 10000))}
	rotated := g.headDim
	if g.headDim >= 4 && g.chance(0.4) {
		args, rotated = append(args, "fraction: 0.5"), g.headDim/2
	}
	if g.chance(0.4) {
		args = append(args, "interleaved: true")
	}
	scalings := []string{"none", "linear(2)", "llama3(4, original_max_position_embeddings: 4)", "yarn(factor: 2, beta_fast: 4, beta_slow: 0.5)"}
	if rotated > 2 {
		scalings = append(scalings, "ntk(4)")
	}
	args = append(args, "scaling: "+pick(g, scalings...))
	return "rope(" + strings.Join(args, ", ") + ")"
}

func (g *generator) pattern() string {
	prefix := fmt.Sprintf("prefix(%d)", g.between(1, g.context-1))
	window := fmt.Sprintf("window(%d)", g.between(1, 4))
	global := fmt.Sprintf("global(%d)", g.between(1, 3))
	stride := fmt.Sprintf("stride(%d)", g.between(1, 4))
	return pick(g, "causal", "causal", "causal & "+window, prefix, prefix+" & "+window,
		fmt.Sprintf("causal & (%s | %s)", window, global),
		fmt.Sprintf("causal & (%s | %s | %s)", window, global, stride),
		"causal & "+stride,
		fmt.Sprintf("causal & window(%d, block: %d)", g.between(1, 2), g.between(2, 3)),
		fmt.Sprintf("causal & (block(%d) | global(1, block: 2))", g.between(1, 3)),
		fmt.Sprintf("%s & (block(2) | stride(2, block: 2))", prefix))
}

func (g *generator) rest() {
	g.key("activation", "%s", pick(g, "gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh", "reglu", "relu2glu"))
	tied := g.chance(0.5)
	g.key("tie_word_embeddings", "%v", tied)
	g.key("bias", "{qkv: %v, output: %v, mlp: %v, head: %v}", g.chance(0.5), g.chance(0.5), g.chance(0.5), !tied && g.chance(0.5))
	drop := func() float64 { return pick(g, 0, 0, 0.25) }
	g.key("dropout", "{embedding: %g, attention: %g, residual: %g}", drop(), drop(), drop())
	for _, name := range []string{"embedding_multiplier", "logit_multiplier", "residual_multiplier"} {
		g.key(name, "%g", pick(g, 1, 1, 0.5, 2))
	}
	g.key("logit_softcap", "%d", pick(g, 0, 0, 3))
	g.key("init", "{weights: %q, embeddings: %q, residual: %q}", g.init(), g.init(), g.init())
}

func (g *generator) init() string {
	return pick(g, "normal(0.1)", "uniform(0.1)", "xavier_normal", "xavier_uniform", "zeros")
}

func (g *generator) train() {
	micro := g.between(1, 2)
	batch := micro * g.between(1, 3)
	g.line("tokenizer: tokenizer.json")
	g.line("train:")
	if g.chance(0.3) {
		g.key("batch", "tokens(%d)", batch*g.context)
	} else {
		g.key("batch", "%d", batch)
	}
	g.key("micro_batch", "%d", micro)
	g.key("context", "%d", g.context)
	g.key("clip", "%g", pick(g, 0, 0.5, 1))
	g.key("precision", "%s", pick(g, "f32", "tf32", "bf16", "fp16"))
	g.key("optimizer", "%q", fmt.Sprintf("adamw(lr: 1e-2, weight_decay: %g, decay_on: %s)", pick(g, 0, 0.1), pick(g, "matrices", "all")))
	g.key("checkpointing", "%q", pick(g, "none", "none", "full", fmt.Sprintf("every(%d)", g.between(1, g.layers)), "auto(1MiB)"))
	g.line("generate:")
	g.key("batch", "%d", g.between(1, 3))
	g.key("weights", "%s", pick(g, "auto", "f32", "bf16", "int8", "int4"))
}
