package gogen

import (
	"fmt"
	"path"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// model writes the package's API: a Model over lm.Model, and the config that tells lm what was compiled.
func (g *generator) model() *jen.File {
	f := g.file()
	s := g.Spec
	f.PackageComment(fmt.Sprintf("Package %s is a transformer language model of %s parameters: it trains, evaluates, generates and saves.", s.Name, count(s.Model.Parameters())))
	f.PackageComment("")
	f.PackageComment(fmt.Sprintf("To follow a token through the model, start at train in cpu_train.go: every statement names the line of %s it comes from.", path.Base(s.Source.File)))
	lm := func(name string) *jen.Statement { return jen.Qual(lmPath, name) }

	f.Comment("Model is one model: its weights and its tokenizer. See lm.Model for its methods: Train, Evaluate, Generate, Stream, Save.")
	f.Type().Id("Model").Struct(jen.Op("*").Add(lm("Model")))
	f.Line()
	f.Comment("The options of the methods.")
	f.Type().Defs(
		jen.Id("TrainOptions").Op("=").Add(lm("TrainOptions")),
		jen.Id("EvalOptions").Op("=").Add(lm("EvalOptions")),
		jen.Id("GenerateOptions").Op("=").Add(lm("GenerateOptions")),
	)
	f.Line()
	f.Comment("New returns a fresh model, its weights drawn from the seed.")
	f.Func().Id("New").Params(raw("seed uint64")).Params(jen.Op("*").Id("Model"), jen.Error()).Block(
		jen.Id("m").Op(",").Err().Op(":=").Add(lm("New")).Call(raw("config"), raw("seed")), returnModel())
	f.Line()
	f.Comment("Open returns a trained model: the newest save of a run's folder, or a Hugging Face model folder.")
	f.Func().Id("Open").Params(raw("dir string")).Params(jen.Op("*").Id("Model"), jen.Error()).Block(
		jen.Id("m").Op(",").Err().Op(":=").Add(lm("Open")).Call(raw("config"), raw("dir")), returnModel())
	f.Line()
	f.Comment("Main runs the package's command line: train, eval, generate. It ends the process.")
	f.Func().Id("Main").Params().Block(lm("Main").Call(raw("config")))
	f.Line()
	f.Comment("NewTrainer returns the training code over a weight buffer, for callers with a loop of their own; 0 workers means one a processor.")
	f.Func().Id("NewTrainer").Params(raw("weight []float32"), raw("workers int")).Add(lm("Trainer")).Block(jen.Return(raw("newTrainer(weight, workers)")))
	f.Line()
	f.Comment("NewGenerator returns the generation code over a weight buffer, for so many sequences at once.")
	f.Func().Id("NewGenerator").Params(raw("weight []float32"), raw("slots, workers int")).Add(lm("Generator")).Block(jen.Return(raw("newGenerator(weight, slots, workers)")))
	f.Line()
	if g.CUDA != nil {
		f.Comment("CUDA is the model's code for GPUs, for callers with a loop of their own.")
		f.Func().Id("CUDA").Params().Add(lm("Backend")).Block(jen.Return(gpu("Backend").Call(raw("cudaProgram"))))
		f.Line()
	}
	f.Comment("Weights says where every weight lives in the buffer.")
	f.Func().Id("Weights").Params().Index().Qual(weightsPath, "Info").Block(jen.Return(raw("weightTable")))
	f.Line()
	f.Comment("configJSON is config.json of a saved model, as Hugging Face's libraries read it.")
	f.Comment("//")
	f.Comment("//go:embed config.json")
	f.Var().Id("configJSON").String()
	f.Line()
	f.Comment(fmt.Sprintf("config is what %s says.", path.Base(s.Source.File)))
	f.Var().Id("config").Op("=").Add(lm("Config")).Values(g.config(lm))
	f.Anon("embed")
	return f
}

func returnModel() jen.Code {
	return jen.If(raw("err != nil")).Block(jen.Return(jen.Nil(), jen.Err())).Line().Return(raw("&Model{m}"), jen.Nil())
}

// count writes a number of parameters as people say it: 30.5M.
func count(n int) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "B"}, {1e6, "M"}, {1e3, "K"}} {
		if x := float64(n) / u.size; x >= 1 {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0") + u.name
		}
	}
	return fmt.Sprint(n)
}

// config is lm's view of the spec.
func (g *generator) config(lm func(string) *jen.Statement) jen.Code {
	s := g.Spec
	lines := &fields{}
	lines.add("Name", jen.Lit(s.Name))
	lines.add("SpecHash", jen.Lit(hash([]byte(fmt.Sprint(Settings(s))))))
	lines.add("VocabSize", raw("VocabSize"))
	lines.add("Context", raw("MaxPositions"))
	if n := ir.LossFrom(s); n > 0 {
		lines.add("LossFrom", jen.Lit(n))
	}
	lines.add("Weights", raw("weightTable"))
	lines.add("WeightFloats", raw("WeightFloats"))
	lines.add("HFConfig", raw("configJSON"))

	tok := &fields{}
	if s.Tokenizer.File != "" {
		tok.add("File", jen.Lit(s.Tokenizer.File))
	}
	lines.add("Tokenizer", lm("Tokenizer").Values(tok.list()...))

	data := &fields{}
	if s.Data.Train.Kind == "stories" {
		data.add("Stories", lm("Stories").Values(jen.Id("Count").Op(":").Lit(s.Data.Train.Count), jen.Id("Seed").Op(":").Lit(int(s.Data.Train.Seed))))
	} else {
		data.add("Files", texts(s.Data.Train.Files))
	}
	if len(s.Data.Eval.Files) > 0 {
		data.add("EvalFiles", texts(s.Data.Eval.Files))
	} else {
		data.add("EvalShare", num(s.Data.Eval.Share))
	}
	lines.add("Data", lm("Data").Values(data.list()...))

	t := s.Train
	train := &fields{}
	if t.Epochs > 0 {
		train.add("Epochs", num(t.Epochs))
	} else {
		train.add("Steps", jen.Lit(t.Steps))
	}
	train.add("Batch", raw("MicroBatches * MicroBatch"))
	train.add("MicroBatch", raw("MicroBatch"))
	train.add("Context", raw("Context"))
	train.add("LR", num(t.Optimizer.LR))
	train.add("Schedule", jen.Index().Add(lm("Phase")).ValuesFunc(func(v *jen.Group) {
		for _, p := range t.Schedule {
			v.Values(phase(p)...)
		}
	}))
	train.add("Save", lm("Save").Values(jen.Id("Every").Op(":").Lit(t.Save.Every), jen.Id("Keep").Op(":").Lit(t.Save.Keep), jen.Id("Best").Op(":").Lit(t.Save.Best == "eval_loss")))
	train.add("Eval", lm("Eval").Values(jen.Id("Every").Op(":").Lit(t.Eval.Every), jen.Id("Batches").Op(":").Lit(t.Eval.Batches)))
	train.add("LogEvery", jen.Lit(t.LogEvery))
	train.add("Seed", raw("%d", t.Seed))
	lines.add("Train", lm("Train").Values(train.list()...))

	o := &fields{}
	o.add("MaxNewTokens", jen.Lit(s.Generate.MaxNewTokens))
	o.add("Temperature", num(s.Generate.Temperature))
	if s.Generate.TopK > 0 {
		o.add("TopK", jen.Lit(s.Generate.TopK))
	}
	if s.Generate.TopP < 1 {
		o.add("TopP", num(s.Generate.TopP))
	}
	o.add("Seed", raw("%d", s.Generate.Seed))
	gen := &fields{}
	gen.add("Options", lm("GenerateOptions").Values(o.list()...))
	gen.add("Batch", raw("MaxDecode"))
	if t := g.narrowType(); t != "" {
		gen.add("Weights", jen.Lit(t))
	}
	if len(s.Generate.Prompts) > 0 {
		gen.add("Prompts", texts(s.Generate.Prompts))
	}
	lines.add("Generate", lm("Generate").Values(gen.list()...))
	narrow := ""
	if g.narrowType() != "" {
		narrow = " + NarrowBytes"
	}
	lines.add("Memory", lm("Memory").Values(
		jen.Id("Train").Op(":").Add(raw("4 * (4*WeightFloats + max(trainFloats, evalFloats))")),
		jen.Id("Generate").Op(":").Add(raw("4 * (WeightFloats + max(prefillFloats, decodeFloats) + %d)%s", g.cacheFloats(), narrow))))
	var rows []jen.Code
	for _, st := range Settings(s) {
		rows = append(rows, jen.Line(), jen.Values(jen.Id("Path").Op(":").Lit(st[0]), jen.Id("Value").Op(":").Lit(st[1])), jen.Op(","))
	}
	settings := jen.Index().Add(lm("Setting")).Values(jen.Add(append(rows, jen.Line())...))
	lines.add("Settings", settings)
	lines.add("NewTrainer", raw("newTrainer"))
	lines.add("NewGenerator", raw("newGenerator"))
	if g.CUDA != nil {
		lines.add("CUDA", gpu("Backend").Call(raw("cudaProgram")))
	}
	return jen.Add(lines.lines()...)
}

// cacheFloats is the size of the key-value cache for the spec's number of sequences.
func (g *generator) cacheFloats() int {
	n := 0
	for _, p := range g.Funcs["decode"].Params {
		if p.Cache {
			n += p.Type.Elems() * p.Members() * p.Type.DType.Bytes() / 4
		}
	}
	return n
}

func phase(p spec.Phase) []jen.Code {
	f := &fields{}
	f.add("Kind", jen.Lit(p.Kind))
	if p.Steps.Share > 0 {
		f.add("Share", num(p.Steps.Share))
	} else if p.Steps.N > 0 {
		f.add("Steps", jen.Lit(p.Steps.N))
	}
	if p.To != 0 {
		f.add("To", num(p.To))
	}
	return f.list()
}

// fields are the fields of a literal, in order.
type fields struct{ all []jen.Code }

func (f *fields) add(name string, v jen.Code) { f.all = append(f.all, jen.Id(name).Op(":").Add(v)) }

func (f *fields) list() []jen.Code { return f.all }

// lines puts each field on a line of its own.
func (f *fields) lines() []jen.Code {
	var out []jen.Code
	for _, c := range f.all {
		out = append(out, jen.Line(), c, jen.Op(","))
	}
	return append(out, jen.Line())
}

func texts(list []string) *jen.Statement {
	return jen.Index().String().ValuesFunc(func(v *jen.Group) {
		for _, s := range list {
			v.Lit(s)
		}
	})
}

// main writes the command.
func (g *generator) main() *jen.File {
	f := jen.NewFile("main")
	f.HeaderComment(fmt.Sprintf("Code generated by tfc from %s. DO NOT EDIT.", path.Base(g.Spec.Source.File)))
	f.PackageComment(fmt.Sprintf("Command %s trains, evaluates and generates with package %s.", g.Spec.Name, g.ImportPath))
	f.Func().Id("main").Params().Block(jen.Qual(g.ImportPath, "Main").Call())
	return f
}
