package compile

import (
	"slices"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/spec"
)

// CUDA compiles s for GPUs, with some passes off. Passes look at the first architecture that the spec lists; kernels run on
// all of them.
func CUDA(s *spec.Spec, off map[string]bool, fatbin Fatbin) (*gogen.CUDA, error) {
	o := passes.OptionsFor(s, ir.TargetNamed(s.Target.Arch[0]))
	o.Off = off
	funcs := map[string]*ir.Func{}
	for _, job := range ir.Jobs {
		f, err := Func(s, job, o, "", nil)
		if err != nil {
			return nil, err
		}
		funcs[job] = f
	}
	code, err := lowered(s, funcs)
	if err != nil {
		return nil, err
	}
	sources := code.Sources
	if fatbin != nil {
		made, err := fatbin(sources, s.Target.Arch)
		if err != nil {
			return nil, err
		}
		sources = append(slices.Clone(sources), made...)
	}
	c := &gogen.CUDA{Funcs: funcs, Kernels: code.Kernels, Launches: code.Launches, Pick: code.Pick, Scratch: code.Scratch, Rivals: code.Rivals, Tables: code.Tables, Element: code.Element}
	for _, f := range sources {
		c.Files = append(c.Files, gogen.File{Path: f.Name, Data: f.Data})
	}
	return c, nil
}

// lowered is the CUDA side of a program whose functions have all passes behind them.
func lowered(s *spec.Spec, funcs map[string]*ir.Func) (*cudagen.Code, error) {
	floats, decayed := ir.WeightFloats(ir.WeightTable(s, funcs["train"]))
	return cudagen.Generate(cudagen.Program{Spec: s.Source.File, Jobs: ir.Jobs, Funcs: funcs, Archs: s.Target.Arch, WeightFloats: floats, DecayedFloats: decayed, Picks: true})
}

// footprintOf is what the memory of a program depends on.
func footprintOf(s *spec.Spec, funcs map[string]*ir.Func, code *cudagen.Code) footprint.Program {
	job := func(name string) footprint.Job {
		f := funcs[name]
		_, scalars := ir.Scalars(f)
		return footprint.Job{Arena: f.Plan.Bytes, Scratch: code.Scratch[name], Scalars: scalars}
	}
	floats, _ := ir.WeightFloats(ir.WeightTable(s, funcs["train"]))
	p := footprint.Program{
		WeightFloats: floats, Element: code.Element.Bytes(), MicroBatches: ir.MicroBatches(s), MicroBatch: ir.MicroBatch(s), Context: s.Train.Context,
		MaxPositions: s.Model.MaxPositionEmbeddings, MaxDecode: funcs["decode"].Symbol("N"), CacheWidths: gogen.CacheWidths(s, funcs["decode"]),
		Train: job("train"), Eval: job("eval"), Prefill: job("prefill"), Decode: job("decode"), Logits: job("logits"),
		Pick: footprint.Job{Scratch: code.Scratch["pick"]}, Histories: ir.Histories(funcs["train"]),
	}
	for _, t := range code.Tables {
		p.RotaryTables = append(p.RotaryTables, t.Max*len(t.Freqs))
	}
	return p
}

// holding is what a trainer of s on a GPU holds beside what the train function computes on the way. The workspace of kernels
// is known once the function is lowered, so it is found by lowering: first what keeps everything, then what fits the budget
// beside that, until it needs no more than was reckoned with.
func holding(s *spec.Spec, o passes.Options) (passes.Holding, error) {
	funcs := map[string]*ir.Func{}
	for _, job := range ir.Jobs {
		kept := o
		kept.Checkpointing = spec.Checkpointing{Kind: "none"}
		f, err := Func(s, job, kept, "", nil)
		if err != nil {
			return passes.Holding{}, err
		}
		funcs[job] = f
	}
	var held passes.Holding
	for {
		code, err := lowered(s, funcs)
		if err != nil {
			return held, err
		}
		needed := passes.Holding{Arena: funcs["eval"].Plan.Bytes, Align: footprint.Align}
		more := false
		for _, b := range footprint.Training(footprintOf(s, funcs, code)) {
			if b.Name == footprint.Arena {
				continue
			}
			c := passes.Category{Name: b.Name, Bytes: footprint.Round(b.Bytes)}
			i := len(needed.Parts)
			if more = more || held.Parts == nil || c.Bytes > held.Parts[i].Bytes; held.Parts != nil {
				c.Bytes = max(c.Bytes, held.Parts[i].Bytes)
			}
			needed.Parts = append(needed.Parts, c)
		}
		if !more {
			return held, nil
		}
		held = needed
		again := o
		again.Holding = func() (passes.Holding, error) { return held, nil }
		if funcs["train"], err = Func(s, "train", again, "", nil); err != nil {
			return held, err
		}
	}
}
