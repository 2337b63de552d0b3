package compile

import (
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// Report is what the passes did to one job of a spec, the memory it was given, and on a GPU what it launches.
type Report struct {
	Name     string   `json:"name"` // of the spec
	Job      string   `json:"job"`
	Target   string   `json:"target"`
	Built    Cost     `json:"built"`  // before the first pass
	Passes   []Step   `json:"passes"` // in order, without those switched off
	Final    Cost     `json:"final"`
	Left     []string `json:"left,omitempty"` // products that are not in the 8 bits that the spec asks for, and why
	Memory   Memory   `json:"memory"`
	Launches []Launch `json:"launches,omitempty"` // in the order of the program
}

// Step is one pass.
type Step struct {
	Pass     string `json:"pass"`
	Rewrites int    `json:"rewrites"`
	Change   Cost   `json:"change"` // after the pass, less before
}

// Explain compiles one job of s and reports on it.
func Explain(s *spec.Spec, job string, o passes.Options) (*Report, error) {
	r := &Report{Name: s.Name, Job: job, Target: o.Target.Name}
	f, err := Func(s, job, o, "", func(p *passes.Pass, f *ir.Func, rewrites int) {
		c := CostOf(f, o.Target)
		if p == nil {
			r.Built = c
		} else {
			r.Passes = append(r.Passes, Step{p.Name, rewrites, c.Minus(r.Final)})
		}
		r.Final = c
	})
	if err != nil {
		return nil, err
	}
	r.Left = passes.FP8Left(f, o)
	r.Memory = memoryOf(s, f)
	if !o.Target.CUDA {
		return r, nil
	}
	funcs := map[string]*ir.Func{job: f} // the others are in the same memory
	for _, name := range ir.Jobs {
		if name == job {
			continue
		}
		if funcs[name], err = Func(s, name, o, "", nil); err != nil {
			return nil, err
		}
	}
	code, err := lowered(s, funcs)
	if err != nil {
		return nil, err
	}
	r.Memory.onGPU(job, footprintOf(s, funcs, code), s.Generate.Batch)
	r.Launches = launchesOf(f, code, o.Target.Name)
	return r, nil
}
