package ir

import (
	"fmt"
	"math"

	"github.com/tfc-dev/tfc/spec"
)

// Jobs are the functions of a model, in the order they are built.
//
//	train    one optimizer step: a loop over micro-batches, each forward, loss and (after grad) backward; then the update
//	eval     the summed loss of one micro-batch, and how many targets it counts
//	logits   the logits of every position of one sequence
//	prefill  a run of tokens into the key-value cache, and the logits after the last
//	decode   one token into each of some slots of the cache, and their logits
var Jobs = []string{"train", "eval", "logits", "prefill", "decode"}

// maxPrefill is the most tokens prefill takes at once: enough for products to run at speed, few enough that its arena
// stays small.
const maxPrefill = 256

// Streams of random numbers, one for each place that drops out.
const (
	streamEmbedding = iota
	streamAttention
	streamAttentionOutput
	streamMLPOutput
)

// Build returns the function of s for a job, as the spec says it and nothing fused. The spec must have passed its checks.
func Build(s *spec.Spec, job string) *Func {
	f := &Func{Name: job, Body: &Block{}}
	b := &build{Builder: NewBuilder(f, f.Body), s: s, m: &s.Model, params: map[string]*Value{}}
	b.symbols()
	switch job {
	case "train":
		b.train()
	case "eval":
		b.eval()
	case "logits":
		b.logits()
	case "prefill", "decode":
		b.generate()
	default:
		panic("ir: no job " + job)
	}
	return f
}

type build struct {
	*Builder
	s      *spec.Spec
	m      *spec.Model
	params map[string]*Value // by name

	positions, seed, step, slots *Value
	group                        group // the layers being built
}

// group is a run of layers that one loop serves: alike in everything but their attention patterns.
type group struct {
	from, to               int
	heads, kvHeads, hidden int
	positions              spec.Positions
	whole                  bool // the only group
}

func (b *build) groups() []group {
	m := b.m
	var gs []group
	for l := range m.NumLayers {
		g := group{from: l, to: l + 1, heads: m.NumHeads.At(l), kvHeads: m.NumKVHeads.At(l), hidden: m.IntermediateSize.At(l), positions: m.Positions.At(l)}
		if n := len(gs); n > 0 && gs[n-1].heads == g.heads && gs[n-1].kvHeads == g.kvHeads && gs[n-1].hidden == g.hidden && gs[n-1].positions == g.positions {
			gs[n-1].to = l + 1
			continue
		}
		gs = append(gs, g)
	}
	if len(gs) == 1 {
		gs[0].whole = true
	}
	return gs
}

func (b *build) symbols() {
	m, t := b.m, &b.s.Train
	add := func(name string, size int) { b.Func.Symbols = append(b.Func.Symbols, Symbol{Name: name, Size: size}) }
	switch b.Func.Name {
	case "train":
		add("A", MicroBatches(b.s))
		fallthrough
	case "eval":
		add("B", MicroBatch(b.s))
		add("T", t.Context)
	case "logits":
		b.Func.Symbols = append(b.Func.Symbols, Symbol{"N", m.MaxPositionEmbeddings, true})
	case "prefill":
		n := min(maxPrefill, m.MaxPositionEmbeddings)
		if LossFrom(b.s) > 0 {
			n = m.MaxPositionEmbeddings // a prefix sees itself whole, so it cannot come in pieces
		}
		b.Func.Symbols = append(b.Func.Symbols, Symbol{"N", n, true})
		add("S", b.s.Generate.Batch)
	case "decode":
		b.Func.Symbols = append(b.Func.Symbols, Symbol{"N", b.s.Generate.Batch, true})
		add("S", b.s.Generate.Batch)
	}
	add("D", m.HiddenSize)
	for _, g := range b.groups() {
		b.group = g
		add(b.suffix("H"), g.heads)
		add(b.suffix("G"), g.kvHeads)
		add(b.suffix("F"), g.hidden)
	}
	add("E", m.HeadDim)
	add("V", m.VocabSize)
	add("P", m.MaxPositionEmbeddings)
}

// suffix names a symbol of the current group: H, or H4 for the group that starts at layer 4.
func (b *build) suffix(name string) string {
	if b.group.whole {
		return name
	}
	return fmt.Sprintf("%s%d", name, b.group.from)
}

func (b *build) dim(name string) Dim { return Dim{name, b.Func.Symbol(name)} }

// heads gives the axis of n heads side by side.
func (b *build) heads(symbol string, n int) Dim {
	return Dim{b.suffix(symbol) + "*E", n * b.m.HeadDim}
}

// MicroBatch returns the sequences of one micro-batch.
func MicroBatch(s *spec.Spec) int {
	if s.Train.MicroBatch > 0 {
		return s.Train.MicroBatch
	}
	return s.Train.Batch.Sequences(s.Train.Context)
}

// MicroBatches returns the micro-batches of one step.
func MicroBatches(s *spec.Spec) int { return s.Train.Batch.Sequences(s.Train.Context) / MicroBatch(s) }

// LossFrom returns the first position whose target is learned: those inside a prefix are in sight and are left out.
func LossFrom(s *spec.Spec) int {
	n := 0
	for _, p := range s.Model.Attention {
		n = max(n, p.Prefix()-1)
	}
	return n
}

func (b *build) input(name string, d DType, axis string, dims ...string) *Value {
	v := &Value{Name: b.Name(name), Type: Type{DType: d}, Axis: axis}
	for _, n := range dims {
		v.Type.Dims = append(v.Type.Dims, b.dim(n))
	}
	b.Func.Inputs = append(b.Func.Inputs, v)
	return v
}

func (b *build) at(key string) { b.Pos = b.s.Source.At("model." + key) }

// dropout is the probability p where training, else 0.
func (b *build) dropout(p float64) float64 {
	if b.Func.Name == "train" {
		return p
	}
	return 0
}

func (b *build) train() {
	tokens, targets := b.input("tokens", I32, "micro", "B", "T"), b.input("targets", I32, "micro", "B", "T")
	b.positions = b.input("positions", I32, "", "B", "T")
	b.input("lr", F32, "")
	b.step, b.seed = b.input("step", I32, ""), b.input("seed", U64, "")
	b.Pos = b.s.Source.At("train.batch")
	n := b.Op("count", []string{"n"}, []*Value{targets}, nil).Result()
	zero := b.Op("zero", []string{"zero"}, nil, nil).Result()
	loop := b.For(Loop{Var: "m", Axis: "micro", To: b.Func.Symbol("A")}, []string{"loss"}, []*Value{zero})
	b.AtEnd(loop.Loop.Body)
	part := b.loss(b.layers(b.embed(tokens)), targets, n)
	sum := b.Op("add", []string{"loss"}, []*Value{loop.Loop.Carries[0], part}, nil).Result()
	b.AtEnd(b.Func.Body)
	b.Func.Results = b.EndFor(loop, []*Value{sum}, []string{"mean_loss"})
}

func (b *build) eval() {
	tokens, targets := b.input("tokens", I32, "", "B", "T"), b.input("targets", I32, "", "B", "T")
	b.positions = b.input("positions", I32, "", "B", "T")
	n := b.Op("count", []string{"n"}, []*Value{targets}, nil).Result()
	b.Func.Results = []*Value{b.loss(b.layers(b.embed(tokens)), targets, nil), n}
}

func (b *build) logits() {
	tokens := b.input("tokens", I32, "", "N")
	b.positions = b.input("positions", I32, "", "N")
	b.Func.Results = []*Value{b.head(b.finalNorm(b.layers(b.embed(tokens))))}
}

func (b *build) generate() {
	tokens := b.input("tokens", I32, "", "N")
	b.positions, b.slots = b.input("positions", I32, "", "N"), b.input("slots", I32, "", "N")
	x := b.layers(b.embed(tokens))
	if b.Func.Name == "prefill" {
		x = b.Op("last", []string{"x_last"}, []*Value{x}, nil).Result()
	}
	b.Func.Results = []*Value{b.head(b.finalNorm(x))}
}

func (b *build) embed(tokens *Value) *Value {
	m := b.m
	b.at("embedding_multiplier")
	table := b.weight("wte", m.Init.Embeddings, b.dim("V"), b.dim("D"))
	x := b.Op("embed", []string{"x"}, []*Value{tokens, table}, Attrs{"scale": m.EmbeddingMultiplier}).Result()
	if m.Positions.At(0).Kind == "learned" {
		b.at("positions")
		wpe := b.weight("wpe", m.Init.Embeddings, b.dim("P"), b.dim("D"))
		x = b.Op("add_positions", []string{"x"}, []*Value{x, wpe, b.positions}, nil).Result()
	}
	return b.drop(x, m.Dropout.Embedding, streamEmbedding)
}

func (b *build) drop(x *Value, p float64, stream int) *Value {
	if b.dropout(p) == 0 {
		return x
	}
	b.at("dropout")
	return b.Op("dropout", []string{x.Name + "_kept"}, []*Value{x, b.seed, b.step}, Attrs{"p": p, "stream": stream}).Result()
}

func (b *build) layers(x *Value) *Value {
	for _, g := range b.groups() {
		b.group = g
		b.at("num_layers")
		loop := b.For(Loop{Var: "l", Axis: "layers", From: g.from, To: g.to}, []string{"x"}, []*Value{x})
		outer := b.Block
		b.AtEnd(loop.Loop.Body)
		y := b.layer(loop.Loop.Carries[0])
		b.AtEnd(outer)
		x = b.EndFor(loop, []*Value{y}, []string{"stream"})[0]
	}
	return x
}

func (b *build) layer(x *Value) *Value {
	m := b.m
	add := func(x, y *Value) *Value {
		b.at("residual")
		a := Attrs{}
		if m.ResidualMultiplier != 1 {
			b.at("residual_multiplier")
			a["by"] = m.ResidualMultiplier
		}
		return b.Op("add", []string{"x"}, []*Value{x, y}, a).Result()
	}
	// sublayer runs fn between its norms.
	sublayer := func(x *Value, name string, stream int, fn func(*Value) *Value) *Value {
		h := x
		if m.NormPlacement != "post" {
			h = b.norm(x, "layers."+name+"_norm", name+"_in")
		}
		y := fn(h)
		if m.NormPlacement == "both" {
			y = b.norm(y, "layers."+name+"_post_norm", name+"_post")
		}
		return b.drop(y, m.Dropout.Residual, stream)
	}
	switch m.Residual {
	case "parallel":
		a := sublayer(x, "attn", streamAttentionOutput, b.attention)
		y := sublayer(x, "mlp", streamMLPOutput, b.mlp)
		return add(add(x, a), y)
	case "parallel_shared":
		h := b.norm(x, "layers.attn_norm", "attn_in")
		a := b.drop(b.attention(h), m.Dropout.Residual, streamAttentionOutput)
		y := b.drop(b.mlp(h), m.Dropout.Residual, streamMLPOutput)
		return add(add(x, a), y)
	}
	x = add(x, sublayer(x, "attn", streamAttentionOutput, b.attention))
	if m.NormPlacement == "post" {
		x = b.norm(x, "layers.attn_norm", "x")
	}
	x = add(x, sublayer(x, "mlp", streamMLPOutput, b.mlp))
	if m.NormPlacement == "post" {
		x = b.norm(x, "layers.mlp_norm", "x")
	}
	return x
}

func (b *build) norm(x *Value, weight, name string) *Value {
	n := b.m.Norm
	b.at("norm")
	d := x.Type.Last()
	w := b.vector(weight+".weight", 1-n.Offset, d)
	if n.Kind == "layernorm" {
		var bias *Value
		if n.Bias {
			bias = b.vector(weight+".bias", 0, d)
		}
		return b.Op("layernorm", []string{name, name + "_stats"}, []*Value{x, w, bias}, Attrs{"eps": n.Eps}).Result()
	}
	a := Attrs{"eps": n.Eps}
	if n.Offset != 0 {
		a["offset"] = n.Offset
	}
	return b.Op("rmsnorm", []string{name, name + "_stats"}, []*Value{x, w}, a).Result()
}

// qkNorm normalises queries or keys: each head, or all together.
func (b *build) qkNorm(x *Value, weight string) *Value {
	n := b.m.QKNorm
	if n.Kind == "none" {
		return x
	}
	b.at("qk_norm")
	d, a := x.Type.Last(), Attrs{"eps": n.Eps}
	if n.Over == "head" {
		d = b.dim("E")
		a["group"] = d.Size
	}
	name := []string{x.Name, x.Name + "_stats"}
	if n.Kind == "layernorm" {
		return b.Op("layernorm", name, []*Value{x, b.vector(weight+".weight", 1, d), b.vector(weight+".bias", 0, d)}, a).Result()
	}
	if n.Offset != 0 {
		a["offset"] = n.Offset
	}
	return b.Op("rmsnorm", name, []*Value{x, b.vector(weight+".weight", 1-n.Offset, d)}, a).Result()
}

// linear is x·wᵀ with its bias.
func (b *build) linear(x *Value, weight, name string, out Dim, rule spec.InitRule, bias bool) *Value {
	w := b.weight(weight+".weight", rule, out, x.Type.Last())
	y := b.Op("linear", []string{name}, []*Value{x, w, nil, nil}, nil).Result()
	if bias {
		b.at("bias")
		y = b.Op("bias", []string{name}, []*Value{y, b.vector(weight+".bias", 0, out)}, nil).Result()
	}
	return y
}

func (b *build) attention(h *Value) *Value {
	m, g := b.m, b.group
	b.at("num_heads")
	q := b.linear(h, "layers.q", "q", b.heads("H", g.heads), m.Init.Weights, m.Bias.QKV)
	b.at("num_kv_heads")
	k := b.linear(h, "layers.k", "k", b.heads("G", g.kvHeads), m.Init.Weights, m.Bias.QKV)
	v := b.linear(h, "layers.v", "v", b.heads("G", g.kvHeads), m.Init.Weights, m.Bias.QKV)
	q, k = b.qkNorm(q, "layers.q_norm"), b.qkNorm(k, "layers.k_norm")
	if g.positions.Kind == "rope" {
		b.at("positions")
		rope := func(x *Value, heads int) *Value {
			return b.Op("rope", []string{x.Name + "_rot"}, []*Value{x, b.positions}, rotaryAttrs(g.positions, heads, m.HeadDim, m.MaxPositionEmbeddings)).Result()
		}
		q, k = rope(q, g.heads), rope(k, g.kvHeads)
	}
	b.at("attention")
	a := Attrs{"heads": g.heads, "kv_heads": g.kvHeads, "head_dim": m.HeadDim, "scale": m.AttentionMultiplier, "mask": b.masks()}
	if m.AttentionSoftcap != 0 {
		a["softcap"] = m.AttentionSoftcap
	}
	if g.positions.Kind == "alibi" {
		a["alibi"] = true
	}
	var o *Value
	if b.slots != nil {
		cache := func(name string) *Value {
			return b.param(Param{Name: b.family(name), Type: Type{F32, []Dim{b.dim("S"), b.dim("P"), b.heads("G", g.kvHeads)}},
				Axis: "layers", From: g.from, To: g.to, Cache: true})
		}
		o = b.Op("attention_cached", []string{"attn"}, []*Value{q, k, v, cache("layers.k_cache"), cache("layers.v_cache"), b.positions, b.slots}, a).Result()
	} else {
		args := []*Value{q, k, v, nil, nil}
		if p := b.dropout(m.Dropout.Attention); p > 0 {
			a["dropout"], a["stream"] = p, streamAttention
			args[3], args[4] = b.seed, b.step
		}
		o = b.Op("attention", []string{"attn", "lse"}, args, a).Result()
	}
	b.at("hidden_size")
	return b.linear(o, "layers.o", "attn_out", b.dim("D"), m.Init.Residual, m.Bias.Output)
}

// masks returns the patterns of the model's layers, cut to their period: layer l takes element l mod their number.
func (b *build) masks() []spec.Pattern {
	all := make([]spec.Pattern, b.m.NumLayers)
	text := make([]string, len(all))
	for l := range all {
		all[l] = b.m.Attention.At(l)
		text[l] = all[l].String()
	}
	for period := 1; ; period++ {
		ok := true
		for l := range text {
			ok = ok && text[l] == text[l%period]
		}
		if ok {
			return all[:period]
		}
	}
}

func (b *build) mlp(h *Value) *Value {
	m := b.m
	fn, gated := m.Gated()
	b.at("intermediate_size")
	f := b.dim(b.suffix("F"))
	var y *Value
	if gated {
		gate := b.linear(h, "layers.gate", "gate", f, m.Init.Weights, m.Bias.MLP)
		up := b.linear(h, "layers.up", "up", f, m.Init.Weights, m.Bias.MLP)
		b.at("activation")
		y = b.Op("glu", []string{"act"}, []*Value{gate, up}, Attrs{"fn": fn}).Result()
	} else {
		up := b.linear(h, "layers.up", "up", f, m.Init.Weights, m.Bias.MLP)
		b.at("activation")
		y = b.Op("act", []string{"act"}, []*Value{up}, Attrs{"fn": fn}).Result()
	}
	b.at("hidden_size")
	return b.linear(y, "layers.down", "mlp_out", b.dim("D"), m.Init.Residual, m.Bias.MLP)
}

func (b *build) finalNorm(x *Value) *Value {
	if b.m.NormPlacement == "post" {
		return x
	}
	return b.norm(x, "final_norm", "final")
}

// head gives the logits of x, which the final norm has seen.
func (b *build) head(x *Value) *Value {
	m := b.m
	b.at("vocab_size")
	w := b.params["wte"]
	if !m.TieWordEmbeddings {
		w = b.weight("head", m.Init.Weights, b.dim("V"), b.dim("D"))
	}
	logits := b.Op("linear", []string{"logits"}, []*Value{x, w, nil, nil}, nil).Result()
	if m.Bias.Head {
		b.at("bias")
		logits = b.Op("bias", []string{"logits"}, []*Value{logits, b.vector("head.bias", 0, b.dim("V"))}, nil).Result()
	}
	if m.LogitMultiplier != 1 {
		b.at("logit_multiplier")
		logits = b.Op("scale", []string{"logits"}, []*Value{logits}, Attrs{"by": m.LogitMultiplier}).Result()
	}
	if m.LogitSoftcap != 0 {
		b.at("logit_softcap")
		logits = b.Op("softcap", []string{"logits"}, []*Value{logits}, Attrs{"cap": m.LogitSoftcap}).Result()
	}
	return logits
}

func (b *build) loss(x, targets, n *Value) *Value {
	logits := b.head(b.finalNorm(x))
	b.at("vocab_size")
	return b.Op("cross_entropy", []string{"part", "row_losses"}, []*Value{logits, targets, n}, nil).Result()
}

// family names a parameter of the current group's layers.
func (b *build) family(name string) string {
	if b.group.whole {
		return name
	}
	return fmt.Sprintf("layers.%d-%d.%s", b.group.from, b.group.to, name[len("layers."):])
}

// param returns the parameter, made at its first use.
func (b *build) param(p Param) *Value {
	if v := b.params[p.Name]; v != nil {
		return v
	}
	p.Pos = b.Pos
	v := b.AddParam(p)
	b.params[p.Name] = v
	return v
}

func (b *build) weight(name string, rule spec.InitRule, out, in Dim) *Value {
	return b.tensor(name, initOf(rule, out.Size, in.Size), out, in)
}

func (b *build) vector(name string, value float64, d Dim) *Value {
	return b.tensor(name, Init{"constant", value}, d)
}

func (b *build) tensor(name string, init Init, dims ...Dim) *Value {
	p := Param{Name: name, Type: Type{F32, dims}, Init: init, Decay: len(dims) > 1 || b.s.Train.Optimizer.DecayOn == "all"}
	if len(name) > 7 && name[:7] == "layers." {
		p.Name, p.Axis, p.From, p.To = b.family(name), "layers", b.group.from, b.group.to
	}
	return b.param(p)
}

// initOf turns a rule into a distribution for a matrix [out, in]; Xavier is Glorot and Bengio's (AISTATS 2010).
func initOf(r spec.InitRule, out, in int) Init {
	fan := float64(out + in)
	switch r.Kind {
	case "normal":
		return Init{"normal", r.Std}
	case "uniform":
		return Init{"uniform", r.Limit}
	case "xavier_normal":
		return Init{"normal", math.Sqrt(2 / fan)}
	case "xavier_uniform":
		return Init{"uniform", math.Sqrt(6 / fan)}
	}
	return Init{"constant", 0}
}
