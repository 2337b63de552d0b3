package gogen

import (
	"fmt"
	"strconv"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
)

// emitters writes the kernel call of each op, as in
//
//	// attn_in = layernorm(x, layers.attn_norm.weight[l])  [tiny.yaml:9]
//	cpu.LayerNorm(pool, v.attnIn[l], v.attnInStats[l], v.x[l], w.attnNorm[l], nil, cpu.LN{Eps: 1e-05})
var emitters map[string]func(e *emitter, b *jen.Group, op *ir.Op)

func init() { // not a literal: emitters write loops, which look up emitters
	emitters = map[string]func(e *emitter, b *jen.Group, op *ir.Op){
		"embed": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Embed", op, e.out(op, 0), e.table(op, 1), e.arg(op, 0), num(op.Float("scale"))))
		},
		"embed_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("EmbedGrad", op, e.into(op, 0), e.arg(op, 0), e.arg(op, 1), num(op.Float("scale"))))
		},
		"add_positions": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AddPositions", op, e.out(op, 0), e.arg(op, 0), e.weight(op, 1), e.arg(op, 2)))
		},
		"positions_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("PositionsGrad", op, e.into(op, 0), e.arg(op, 0), e.arg(op, 1)))
		},
		"layernorm": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("LayerNorm", op, e.out(op, 0), e.out(op, 1), e.arg(op, 0), e.weight(op, 1), e.weight(op, 2), normOptions(op)))
		},
		"rmsnorm": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("RMSNorm", op, e.out(op, 0), e.out(op, 1), e.arg(op, 0), e.weight(op, 1), normOptions(op)))
		},
		"add_layernorm": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AddLayerNorm", op, e.out(op, 0), e.out(op, 1), e.out(op, 2), e.arg(op, 0), e.arg(op, 1), e.weight(op, 2), e.weight(op, 3), normOptions(op)))
		},
		"add_rmsnorm": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AddRMSNorm", op, e.out(op, 0), e.out(op, 1), e.out(op, 2), e.arg(op, 0), e.arg(op, 1), e.weight(op, 2), normOptions(op)))
		},
		"layernorm_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("LayerNormGrad", op, e.out(op, 0), e.into(op, 0), e.into(op, 1), e.arg(op, 0), e.arg(op, 1), e.weight(op, 2), e.arg(op, 3), e.mat(op, 4), normOptions(op)))
		},
		"rmsnorm_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("RMSNormGrad", op, e.out(op, 0), e.into(op, 0), e.arg(op, 0), e.arg(op, 1), e.weight(op, 2), e.arg(op, 3), e.mat(op, 4), normOptions(op)))
		},
		"linear": func(e *emitter, b *jen.Group, op *ir.Op) {
			fields := []jen.Code{}
			if op.Args[2] != nil {
				fields = append(fields, jen.Id("Bias").Op(":").Add(e.weight(op, 2)))
			}
			if fn := op.Str("act"); fn != "" {
				fields = append(fields, jen.Id("Act").Op(":").Add(activation(fn)))
				if pre := e.mem.ref(op.Results[1], op.Block); pre != "" {
					fields = append(fields, jen.Id("Pre").Op(":").Add(raw("%s", pre)))
				}
			}
			if op.Args[3] != nil {
				fields = append(fields, jen.Id("Residual").Op(":").Add(e.arg(op, 3)))
			}
			b.Add(e.kernel("Linear", op, e.out(op, 0), e.arg(op, 0), e.table(op, 1), cpu("Epilogue").Values(fields...)))
		},
		"linear_dx": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("LinearInputGrad", op, e.out(op, 0), e.arg(op, 0), e.weight(op, 1), e.mat(op, 2)))
			if len(op.Into) > 0 {
				b.Add(e.kernel("BiasGrad", op, e.into(op, 0), e.out(op, 0)))
			}
		},
		"linear_dw": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("LinearWeightGrad", op, e.into(op, 0), e.arg(op, 0), e.arg(op, 1), jen.Lit(!ir.Overwritten(e.f)[op.Into[0].Param])))
		},
		"bias": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AddBias", op, e.out(op, 0), e.arg(op, 0), e.weight(op, 1)))
		},
		"bias_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("BiasGrad", op, e.into(op, 0), e.arg(op, 0)))
		},
		"act": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Activate", op, e.out(op, 0), e.arg(op, 0), activation(op.Str("fn"))))
		},
		"act_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("ActivateGrad", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), activation(op.Str("fn"))))
		},
		"glu": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("GLU", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), activation(op.Str("fn"))))
		},
		"glu_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("GLUGrad", op, e.out(op, 0), e.out(op, 1), e.arg(op, 0), e.arg(op, 1), e.arg(op, 2), activation(op.Str("fn"))))
		},
		"add": func(e *emitter, b *jen.Group, op *ir.Op) {
			switch by := op.Float("by"); {
			case len(op.Result().Type.Dims) == 0:
				b.Id(e.scalar(op.Result())).Op(":=").Add(raw("%s + %s", e.scalar(op.Args[0]), e.scalar(op.Args[1])))
			case by != 0:
				b.Add(e.kernel("AddScaled", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), num(by)))
			default:
				b.Add(e.kernel("Add", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1)))
			}
		},
		"scale": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Scale", op, e.out(op, 0), e.arg(op, 0), num(op.Float("by"))))
		},
		"softcap": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Softcap", op, e.out(op, 0), e.arg(op, 0), num(op.Float("cap"))))
		},
		"softcap_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("SoftcapGrad", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), num(op.Float("cap"))))
		},
		"dropout": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Dropout", op, e.out(op, 0), e.arg(op, 0), num(op.Float("p")), key(op)))
		},
		"rope": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("RoPE", op, e.out(op, 0), e.arg(op, 0), raw("%s()", e.g.rotary(op)), e.arg(op, 1),
				raw("%s", e.heads(op, "heads")), raw("HeadDim"), jen.Lit(op.Bool("inverse"))))
		},
		"split": func(e *emitter, b *jen.Group, op *ir.Op) {}, // views
		"concat": func(e *emitter, b *jen.Group, op *ir.Op) {
			whole := e.f.Plan.Places[op.Result()]
			at := 0
			for _, a := range op.Args {
				if p := e.f.Plan.Places[a]; p.Buffer != whole.Buffer || p.Column != whole.Column+at || p.Shift != whole.Shift {
					b.Add(cpu("Copy").Call(jen.Id("pool"), raw("%s.Columns(%d, %d)", e.mem.ref(op.Result(), op.Block), at, at+a.Type.Cols()), raw("%s", e.mem.ref(a, op.Block))))
				}
				at += a.Type.Cols()
			}
		},
		"last": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Copy", op, e.out(op, 0), raw("%s.RowRange(n-1, n)", e.mem.ref(op.Args[0], op.Block))))
		},
		"cast": func(e *emitter, b *jen.Group, op *ir.Op) {},
		"attention": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("Attention", op, e.out(op, 0), e.out(op, 1), e.arg(op, 0), e.arg(op, 1), e.arg(op, 2), e.attention(op)))
		},
		"attention_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AttentionGrad", op, e.out(op, 0), e.out(op, 1), e.out(op, 2),
				e.arg(op, 0), e.arg(op, 1), e.arg(op, 2), e.arg(op, 3), e.arg(op, 4), e.arg(op, 5), e.attention(op)))
		},
		"attention_cached": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("AttentionCached", op, e.out(op, 0), e.arg(op, 0), e.arg(op, 1), e.arg(op, 2), raw("&g.cache[l]"), e.arg(op, 5), e.arg(op, 6), e.attention(op)))
		},
		"count": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Id(e.scalar(op.Result())).Op(":=").Add(cpu("Count").Call(e.arg(op, 0)))
		},
		"zero": func(e *emitter, b *jen.Group, op *ir.Op) {},
		"cross_entropy": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("CrossEntropy", op, e.out(op, 1), e.arg(op, 0), e.arg(op, 1)))
			e.loss(b, op, 1, op.Args[2])
		},
		"cross_entropy_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("CrossEntropyGrad", op, e.out(op, 1), e.out(op, 0), e.arg(op, 0), e.arg(op, 1), e.share(op.Args[2])))
		},
		"head_loss": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("HeadLoss", op, e.out(op, 1), jen.Nil(), e.out(op, 2), e.arg(op, 0), e.weight(op, 1), e.weight(op, 2), e.arg(op, 3), head(op)))
			e.loss(b, op, 1, op.Args[4])
		},
		"head_loss_grad": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Add(e.kernel("HeadLossGrad", op, e.out(op, 2), e.out(op, 3), e.out(op, 1), e.into(op, 0), e.into(op, 1), e.arg(op, 0), e.weight(op, 1), e.weight(op, 2), e.arg(op, 3), head(op), e.share(op.Args[4])))
			e.loss(b, op, 2, op.Args[4])
		},
		"zero_grads": func(e *emitter, b *jen.Group, op *ir.Op) {
			for _, s := range ir.SpansWithout(e.f, ir.Overwritten(e.f)) {
				b.Add(cpu("Zero").Call(raw("pool"), raw("t.gradient[%d:%d]", s.From, s.To)))
			}
		},
		"grad_norm": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.Id(e.scalar(op.Result())).Op(":=").Add(cpu("GradNorm").Call(raw("pool"), raw("t.gradient")))
		},
		"adamw": func(e *emitter, b *jen.Group, op *ir.Op) {
			b.If(jen.Op("!").Add(cpu("Finite").Call(e.returned()...))).Block(
				jen.Return(e.returned()...).Comment("a diverged step leaves no trace"))
			scale := jen.Lit(1)
			if clip := op.Float("clip"); clip > 0 {
				scale = cpu("ClipFactor").Call(e.arg(op, 0), num(clip))
			}
			b.Id("update").Op(":=").Add(cpu("AdamWStep")).Values(jen.Id("LR").Op(":").Id("lr"), jen.Id("Beta1").Op(":").Add(num(op.Float("beta1"))),
				jen.Id("Beta2").Op(":").Add(num(op.Float("beta2"))), jen.Id("Eps").Op(":").Add(num(op.Float("eps"))),
				jen.Id("WeightDecay").Op(":").Add(num(op.Float("weight_decay"))), jen.Id("GradScale").Op(":").Add(scale), jen.Id("Step").Op(":").Id("step"))
			part := func(r string) *jen.Statement {
				return cpu("AdamW").Call(raw("pool"), raw("t.weight[%s]", r), raw("t.gradient[%s]", r), raw("t.first[%s]", r), raw("t.second[%s]", r), raw("update"))
			}
			b.Add(part(":DecayedFloats"))
			b.Id("update.WeightDecay").Op("=").Lit(0)
			b.Add(part("DecayedFloats:"))
		},
	}
}

// kernel is a call of a CPU kernel.
func (e *emitter) kernel(name string, op *ir.Op, args ...jen.Code) *jen.Statement {
	if op.Str("weights") != "" {
		name += "Narrow"
	}
	return cpu(name).Call(append([]jen.Code{jen.Id("pool")}, args...)...)
}

// out is result i, where the kernel writes it; a zero matrix or nil where nobody reads it.
func (e *emitter) out(op *ir.Op, i int) *jen.Statement {
	if i >= len(op.Results) {
		return jen.Nil()
	}
	r := op.Results[i]
	if s := e.mem.ref(r, op.Block); s != "" {
		return raw("%s", s)
	}
	if isVector(r) {
		return jen.Nil()
	}
	return cpu("Mat").Values()
}

// arg is argument i.
func (e *emitter) arg(op *ir.Op, i int) *jen.Statement {
	v := op.Args[i]
	if len(v.Type.Dims) == 0 {
		return raw("%s", e.scalar(v))
	}
	if v.Block == nil && v.Param == nil { // an input, cut to the micro-batch inside its loop
		return raw("%s", v.Name)
	}
	return raw("%s", e.mem.ref(v, op.Block))
}

// mat is an optional matrix argument.
func (e *emitter) mat(op *ir.Op, i int) *jen.Statement {
	if op.Args[i] == nil {
		return cpu("Mat").Values()
	}
	return e.arg(op, i)
}

// weight is parameter argument i, nil where it is absent.
func (e *emitter) weight(op *ir.Op, i int) *jen.Statement { return e.param("w", op, op.Args[i]) }

// into is the gradient that op adds to.
func (e *emitter) into(op *ir.Op, i int) *jen.Statement {
	if i >= len(op.Into) {
		return jen.Nil()
	}
	return e.param("d", op, op.Into[i])
}

func (e *emitter) param(views string, op *ir.Op, v *ir.Value) *jen.Statement {
	if v == nil {
		return jen.Nil()
	}
	s := views + "." + goName(v.Name)
	if l := ir.RefLoop(v, op.Block); l != nil {
		s += "[" + l.Var + "]"
	}
	return raw("%s", s)
}

// num is a constant, as short as its float32 allows.
func num(x float64) *jen.Statement {
	return raw("%s", strconv.FormatFloat(x, 'g', -1, 64))
}

func activation(fn string) *jen.Statement {
	return cpu(map[string]string{"gelu": "GELU", "gelu_tanh": "GELUTanh", "relu": "ReLU", "relu2": "ReLU2", "silu": "SiLU"}[fn])
}

// normOptions are the constants of a norm: cpu.LN or cpu.RMS.
func normOptions(op *ir.Op) *jen.Statement {
	fields := []jen.Code{jen.Id("Eps").Op(":").Add(num(op.Float("eps")))}
	if x := op.Float("offset"); x != 0 {
		fields = append(fields, jen.Id("Offset").Op(":").Add(num(x)))
	}
	if n := op.Int("group"); n != 0 {
		fields = append(fields, jen.Id("Group").Op(":").Id("HeadDim"))
	}
	kind := "RMS"
	switch op.Kind {
	case "layernorm", "add_layernorm", "layernorm_grad":
		kind = "LN"
	}
	return cpu(kind).Values(fields...)
}

func head(op *ir.Op) *jen.Statement {
	var fields []jen.Code
	if x := op.Float("scale"); x != 0 {
		fields = append(fields, jen.Id("Scale").Op(":").Add(num(x)))
	}
	if x := op.Float("softcap"); x != 0 {
		fields = append(fields, jen.Id("Softcap").Op(":").Add(num(x)))
	}
	return cpu("Head").Values(fields...)
}

// share is what one target's loss counts for: 1/n, or 1 in a plain sum.
func (e *emitter) share(n *ir.Value) *jen.Statement {
	if n == nil {
		return jen.Lit(1)
	}
	return raw("1/max(%s, 1)", e.scalar(n))
}

// loss sums the losses by row in result i into the op's scalar.
func (e *emitter) loss(b *jen.Group, op *ir.Op, i int, n *ir.Value) {
	r := op.Results[0]
	if r.Op.Kind == "cross_entropy_grad" {
		return
	}
	sum := cpu("SumLosses").Call(e.out(op, i))
	if n != nil {
		sum = sum.Op("/").Add(raw("max(%s, 1)", e.scalar(n)))
	}
	b.Id(e.scalar(r)).Op(":=").Add(sum)
}

// loopVar is the variable of the innermost loop over an axis that op stands in, 0 outside of one.
func loopVar(op *ir.Op, axis string) string {
	for b := op.Block; b != nil; b = b.Parent() {
		if b.Loop != nil && b.Loop.Loop.Axis == axis {
			return b.Loop.Loop.Var
		}
	}
	return ""
}

// key is the random stream of an op.
func key(op *ir.Op) *jen.Statement {
	fields := []jen.Code{jen.Id("Seed").Op(":").Id("seed"), jen.Id("Step").Op(":").Uint32().Call(jen.Id("step")), jen.Id("Stream").Op(":").Lit(op.Int("stream"))}
	if m := loopVar(op, "micro"); m != "" {
		fields = append(fields, jen.Id("Micro").Op(":").Uint16().Call(jen.Id(m)))
	}
	if l := loopVar(op, "layers"); l != "" {
		fields = append(fields, jen.Id("Layer").Op(":").Uint16().Call(jen.Id(l)))
	}
	return jen.Qual(rngPath, "Key").Values(fields...)
}

// heads is the constant of an attribute that counts heads: NumHeads or NumKVHeads, of the first layers that have as many.
func (e *emitter) heads(op *ir.Op, attr string) string {
	letters := "HG"
	if attr == "kv_heads" {
		letters = "G"
	}
	for _, letter := range letters {
		for _, s := range e.f.Symbols {
			if rune(s.Name[0]) == letter && s.Size == op.Int(attr) {
				return symbol(s.Name)
			}
		}
	}
	return fmt.Sprint(op.Int(attr))
}

// attention is the parameters of an attention op.
func (e *emitter) attention(op *ir.Op) *jen.Statement {
	var fields []jen.Code
	add := func(name string, v jen.Code) { fields = append(fields, jen.Id(name).Op(":").Add(v)) }
	if op.Kind != "attention_cached" {
		q := op.Args[0].Type
		batch, t := "1", expr(q.Dims[len(q.Dims)-2].Expr)
		if len(q.Dims) == 3 {
			batch = expr(q.Dims[0].Expr)
		}
		add("Batch", raw("%s", batch))
		add("T", raw("%s", t))
	}
	add("Heads", raw("%s", e.heads(op, "heads")))
	add("KVHeads", raw("%s", e.heads(op, "kv_heads")))
	add("HeadDim", raw("HeadDim"))
	add("Scale", num(op.Float("scale")))
	if x := op.Float("softcap"); x != 0 {
		add("Softcap", num(x))
	}
	if op.Bool("alibi") {
		add("Slopes", raw("%s", e.g.slopes(op.Int("heads"))))
	}
	masks := op.Patterns("mask")
	if len(masks) == 1 {
		add("Mask", raw("attentionMasks[0]"))
	} else {
		l := loopVar(op, "layers")
		if n := len(masks); n < e.g.Spec.Model.NumLayers {
			l += fmt.Sprintf("%%%d", n)
		}
		add("Mask", raw("attentionMasks[%s]", l))
	}
	if p := op.Float("dropout"); p > 0 {
		add("Dropout", num(p))
		add("Key", key(op))
	}
	return jen.Op("&").Add(cpu("AttentionParams")).Values(fields...)
}
