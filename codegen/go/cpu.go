package gogen

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// ropes lists the distinct rotary tables of the model, by their attributes without the heads.
func (g *generator) ropes() []*ir.Op {
	var list []*ir.Op
	seen := map[string]bool{}
	g.Funcs["logits"].Walk(func(op *ir.Op) {
		if op.Kind == "rope" && !seen[rotaryKey(op)] {
			seen[rotaryKey(op)] = true
			list = append(list, op)
		}
	})
	return list
}

func rotaryKey(op *ir.Op) string {
	freqs, scale := ir.Rotary(op)
	return fmt.Sprint(freqs, scale, op.Bool("interleaved"))
}

// rotary names the table of a rope op.
func (g *generator) rotary(op *ir.Op) string {
	ropes := g.ropes()
	for i, r := range ropes {
		if rotaryKey(r) == rotaryKey(op) {
			return ropeName(i, len(ropes))
		}
	}
	panic("gogen: no rotary table for " + ir.PrintOp(op))
}

func ropeName(i, n int) string {
	if n == 1 {
		return "ropeTable"
	}
	return fmt.Sprintf("ropeTable%d", i)
}

// slopes names the ALiBi slopes for a number of heads.
func (g *generator) slopes(heads int) string { return fmt.Sprintf("alibiSlopes%d", heads) }

// masks returns the attention patterns of the model.
func (g *generator) masks() []spec.Pattern {
	var masks []spec.Pattern
	g.Funcs["logits"].Walk(func(op *ir.Op) {
		if op.Kind == "attention" && masks == nil {
			masks = op.Patterns("mask")
		}
	})
	return masks
}

// maskExpr builds a pattern: mask.And(mask.Causal(), mask.Window(256)).
func maskExpr(p spec.Pattern) *jen.Statement {
	m := func(name string) *jen.Statement { return jen.Qual(maskPath, name) }
	switch p.Op {
	case "and", "or":
		var args []jen.Code
		for _, a := range p.Args {
			args = append(args, maskExpr(a))
		}
		return m(title(p.Op)).Call(args...)
	case "causal":
		return blocks(m("Causal").Call(), p)
	}
	return blocks(m(title(p.Op)).Call(jen.Lit(p.N)), p)
}

func blocks(s *jen.Statement, p spec.Pattern) *jen.Statement {
	if p.Block > 0 {
		return s.Dot("Blocks").Call(jen.Lit(p.Block))
	}
	return s
}

func floats(xs []float64) *jen.Statement {
	text := make([]string, len(xs))
	for i, x := range xs {
		text[i] = strconv.FormatFloat(x, 'g', -1, 32)
	}
	return jen.Index().Float32().Values(raw("%s", strings.Join(text, ", ")))
}

// cpu writes the constants of the model's kernels, and the trainer and generator that own their memory.
func (g *generator) cpu() *jen.File {
	f := g.file()
	f.Comment("attentionMasks say which keys a query sees, for layer l element l mod their number.")
	var masks []jen.Code
	for _, p := range g.masks() {
		masks = append(masks, jen.Line(), maskExpr(p).Op(",").Comment(p.String()))
	}
	f.Var().Id("attentionMasks").Op("=").Index(jen.Op("...")).Qual(maskPath, "Mask").Values(jen.Add(append(masks, jen.Line())...))
	f.Line()
	ropes := g.ropes()
	for i, op := range ropes {
		freqs, scale := ir.Rotary(op)
		f.Comment(fmt.Sprintf("%s holds the rotary angles of every position: theta %v, %s.", ropeName(i, len(ropes)), op.Float("theta"), scaling(op)))
		f.Var().Id(ropeName(i, len(ropes))).Op("=").Qual("sync", "OnceValue").Call(jen.Func().Params().Op("*").Add(cpu("RopeTable")).Block(
			jen.Return(cpu("NewRopeTable").Call(floats(freqs), num(scale), raw("MaxPositions"), jen.Lit(op.Bool("interleaved"))))))
		f.Line()
	}
	heads := map[int]bool{}
	g.Funcs["logits"].Walk(func(op *ir.Op) {
		if h := op.Int("heads"); op.Bool("alibi") && !heads[h] {
			heads[h] = true
			f.Comment(fmt.Sprintf("%s are the ALiBi slopes of %d heads.", g.slopes(h), h))
			f.Var().Id(g.slopes(h)).Op("=").Add(floats(ir.AlibiSlopes(h)))
			f.Line()
		}
	})
	g.trainer(f)
	g.generator(f)
	return f
}

func scaling(op *ir.Op) string {
	if s := op.Str("scaling"); s != "" {
		return s + " scaling by " + strconv.FormatFloat(op.Float("factor"), 'g', -1, 64)
	}
	return "no scaling"
}

func (g *generator) trainer(f *jen.File) {
	f.Comment("trainer is the training code with its memory: weights and, in one allocation, gradients, moments and the arena.")
	f.Type().Id("trainer").Struct(
		jen.Id("pool").Op("*").Add(cpu("Pool")),
		jen.List(jen.Id("weight"), jen.Id("gradient"), jen.Id("first"), jen.Id("second")).Index().Float32().Comment("laid out as weightTable says"),
		jen.List(jen.Id("weights"), jen.Id("gradients")).Id("views"),
		jen.Id("trainValues").Comment("the places of what train computes"),
		jen.Id("evalValues"),
		jen.Id("positions").Index().Int32().Comment("of every token of a micro-batch"),
	)
	f.Line()
	f.Func().Id("newTrainer").Params(raw("weight []float32"), raw("workers int")).Qual(lmPath, "Trainer").Block(
		jen.Id("memory").Op(":=").Add(cpu("Floats")).Call(raw("3*WeightFloats+max(trainFloats, evalFloats)")),
		raw("arena := memory[3*WeightFloats:]"),
		jen.Id("t").Op(":=").Op("&").Id("trainer").Values(jen.Dict{
			jen.Id("pool"):        g.trainingPool(),
			jen.Id("weight"):      raw("weight"),
			jen.Id("gradient"):    raw("memory[:WeightFloats]"),
			jen.Id("first"):       raw("memory[WeightFloats:][:WeightFloats]"),
			jen.Id("second"):      raw("memory[2*WeightFloats:][:WeightFloats]"),
			jen.Id("trainValues"): raw("newTrainValues(arena)"),
			jen.Id("evalValues"):  raw("newEvalValues(arena)"),
			jen.Id("positions"):   raw("make([]int32, MicroBatch*Context)"),
		}),
		raw("t.weights, t.gradients = newViews(t.weight), newViews(t.gradient)"),
		jen.For(raw("i := range t.positions")).Block(raw("t.positions[i] = int32(i %% Context)")),
		jen.Return(raw("t")),
	)
	f.Line()
	method := func(doc, sig string, body ...jen.Code) {
		f.Comment(doc)
		f.Func().Params(raw("t *trainer")).Add(raw("%s", sig)).Block(body...)
		f.Line()
	}
	f.Comment("Step learns from one batch; lm.Trainer says how.")
	f.Func().Params(raw("t *trainer")).Id("Step").Params(raw("tokens, targets []int32"), jen.Id("p").Qual(lmPath, "StepParams")).Params(raw("loss, gradNorm float32, err error")).Block(
		raw("loss, gradNorm = t.train(tokens, targets, p.LR, p.Step, p.Seed)"), jen.Return(raw("loss, gradNorm, nil")))
	f.Line()
	method("Loss gives the summed loss of one micro-batch and the number of targets it counts.", "Loss(tokens, targets []int32) (sum float64, targetCount int, err error)",
		raw("s, n := t.eval(tokens, targets)"), jen.Return(raw("float64(s), int(n), nil")))
	method("Pool is where the kernels run, for bench to watch them.", "Pool() *cpu.Pool", jen.Return(raw("t.pool")))
	method("Weights is the live weight buffer.", "Weights() []float32", jen.Return(raw("t.weight")))
	method("Gradients is the live gradient buffer: that of the last step, before clipping.", "Gradients() []float32", jen.Return(raw("t.gradient")))
	method("Moments are the optimizer's live moments.", "Moments() (first, second []float32)", jen.Return(raw("t.first, t.second")))
	method("Pull has nothing to do: the buffers are live.", "Pull() error", jen.Return(jen.Nil()))
	method("Push has nothing to do: the buffers are live.", "Push() error", jen.Return(jen.Nil()))
	method("Close ends the workers.", "Close()", raw("t.pool.Close()"))
}

// when is code under a condition, otherwise nothing.
func when(yes bool, code jen.Code) jen.Code {
	if yes {
		return code
	}
	return jen.Null()
}

// trainingPool makes the pool of a trainer, all of whose products round their operands, or none (passes/precision.go).
func (g *generator) trainingPool() *jen.Statement {
	pool, bf16 := cpu("NewPool").Call(raw("workers")), false
	g.Funcs["train"].Walk(func(op *ir.Op) { bf16 = bf16 || op.Bool("bf16") })
	if bf16 {
		pool.Dot("InBF16").Call()
	}
	return pool
}

func (g *generator) generator(f *jen.File) {
	f.Comment("generator is the generation code with its memory: the key-value cache, and one arena for whichever job runs.")
	f.Type().Id("generator").Struct(
		jen.Id("pool").Op("*").Add(cpu("Pool")),
		jen.Id("weights").Id("views"),
		when(g.narrowType() != "", jen.Id("narrow").Id("narrow")),
		jen.Id("arena").Index().Float32(),
		jen.Id("cache").Index(raw("NumLayers")).Add(cpu("Cache")),
		jen.Id("slots").Int(),
		jen.List(jen.Id("positions"), jen.Id("slot")).Index().Int32().Comment("0, 1, … and the slot of every row of a prompt"),
		jen.Id("decoded").Index().Float32().Comment("logits of the last Decode"),
	)
	f.Line()
	var caches []jen.Code
	for _, p := range g.Funcs["decode"].Params {
		if !p.Cache || !strings.HasSuffix(p.Name, "k_cache") {
			continue
		}
		heads := expr(strings.TrimSuffix(p.Type.Last().Expr, "*E"))
		caches = append(caches, g.layers(p).Block(
			jen.Id("g.cache[l]").Op("=").Add(cpu("NewCache")).Call(raw("slots"), raw("MaxPositions"), raw("%s", heads), raw("HeadDim"), jen.Lit(p.Type.DType == ir.BF16))))
	}
	body := []jen.Code{
		jen.Id("g").Op(":=").Op("&").Id("generator").Values(jen.Dict{
			jen.Id("pool"): cpu("NewPool").Call(raw("workers")), jen.Id("weights"): raw("newViews(weight)"), jen.Id("slots"): raw("slots"),
			jen.Id("arena"):     raw("make([]float32, max(prefillFloats, decodeFloats))"),
			jen.Id("positions"): raw("make([]int32, MaxPositions)"),
			jen.Id("slot"):      raw("make([]int32, MaxPrefill)"),
			jen.Id("decoded"):   raw("make([]float32, slots*VocabSize)"),
		}),
		when(g.narrowType() != "", raw("g.narrow = newNarrow(g.pool, &g.weights)")),
		jen.For(raw("i := range g.positions")).Block(raw("g.positions[i] = int32(i)")),
	}
	f.Func().Id("newGenerator").Params(raw("weight []float32"), raw("slots, workers int")).Qual(lmPath, "Generator").Block(
		append(append(body, caches...), jen.Return(raw("g")))...)
	f.Line()
	method := func(doc, sig string, body ...jen.Code) {
		f.Comment(doc)
		f.Func().Params(raw("g *generator")).Add(raw("%s", sig)).Block(body...)
		f.Line()
	}
	method("Prefill appends up to MaxPrefill tokens to a slot and gives the logits after the last.", "Prefill(tokens []int32, start, slot int) ([]float32, error)",
		raw("rows := g.slot[:len(tokens)]"),
		jen.For(raw("i := range rows")).Block(raw("rows[i] = int32(slot)")),
		jen.Return(raw("g.prefill(tokens, g.positions[start:][:len(tokens)], rows), nil")))
	method("Decode appends one token to each of some slots, MaxDecode at once, and gives their logits.", "Decode(tokens, positions, slots []int32) ([]float32, error)",
		jen.For(raw("i := 0"), raw("i < len(tokens)"), raw("i += MaxDecode")).Block(
			raw("j := min(i+MaxDecode, len(tokens))"),
			raw("copy(g.decoded[i*VocabSize:], g.decode(tokens[i:j], positions[i:j], slots[i:j]))")),
		jen.Return(raw("g.decoded[:len(tokens)*VocabSize], nil")))
	f.Comment("ProfileDecode takes a step several times and tells what its kernels took; lm.ProfiledGenerator says how.")
	f.Func().Params(raw("g *generator")).Id("ProfileDecode").Params(raw("tokens, positions, slots []int32"), raw("times int")).Params(jen.Op("*").Qual(lmPath, "Profile"), jen.Error()).Block(
		jen.Return(jen.Qual(lmPath, "ProfileKernels").Call(raw("g.pool"), raw("times"), raw("func() { g.Decode(tokens, positions, slots) }"))))
	f.Line()
	method("Logits gives the logits of every position of one sequence; its memory grows with the longest asked for.", "Logits(tokens []int32) ([]float32, error)",
		jen.If(raw("len(g.arena) < logitsFloats")).Block(raw("g.arena = make([]float32, logitsFloats)")),
		jen.Return(raw("g.logits(tokens), nil")))
	method("MaxPrefill is the most tokens that Prefill takes at once.", "MaxPrefill() int", jen.Return(raw("MaxPrefill")))
	method("Slots is the number of sequences that the cache holds.", "Slots() int", jen.Return(raw("g.slots")))
	method("Close ends the workers.", "Close()", raw("g.pool.Close()"))
}
