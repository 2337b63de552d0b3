package compile

import (
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// Report is what the passes did to one job of a spec, and the memory it was given.
type Report struct {
	Name   string `json:"name"` // of the spec
	Job    string `json:"job"`
	Target string `json:"target"`
	Built  Cost   `json:"built"`  // before the first pass
	Passes []Step `json:"passes"` // in order, without those switched off
	Final  Cost   `json:"final"`
	Memory Memory `json:"memory"`
}

// Step is one pass.
type Step struct {
	Pass     string `json:"pass"`
	Rewrites int    `json:"rewrites"`
	Change   Cost   `json:"change"` // after the pass, less before
}

// Explain compiles one job of s and reports on it. Where the target has no kernels yet it stops once memory is planned.
func Explain(s *spec.Spec, job string, o passes.Options) (*Report, error) {
	r := &Report{Name: s.Name, Job: job, Target: o.Target.Name}
	last := ""
	if o.Target.CUDA {
		last = "plan-memory"
	}
	f, err := Func(s, job, o, last, func(p *passes.Pass, f *ir.Func, rewrites int) {
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
	r.Memory = memoryOf(s, f)
	return r, nil
}
