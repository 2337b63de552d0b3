package gogen_test

import (
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// cudaFeatures are the features whose CUDA programs run in the simulator, which is slow: together they have every op.
var cudaFeatures = []string{"llama", "gpt2", "masks", "both", "qknorm", "groups", "every"}

// TestCUDAProgramsAgreeWithEval runs the CUDA code of packages in the simulator beside the reference.
func TestCUDAProgramsAgreeWithEval(t *testing.T) {
	libraries := cudatest.Build(t)
	var ps []gotest.Program
	for i, f := range features {
		for _, name := range cudaFeatures {
			if f.name == name {
				s, text := featureSpec(t, f.model, f.train)
				p := gotest.Program{Compiled: gotest.Compile(t, s, text, nil), Job: randomJob(s, uint64(i), 2)}
				gotest.CUDA(t, &p.Compiled, nil)
				p.Job.CUDA = true
				ps = append(ps, p)
			}
		}
	}
	for i, got := range gotest.Run(t, ps, libraries.Environ()...) {
		t.Run(cudaFeatures[i], func(t *testing.T) { check(t, ps[i].Compiled.Spec, ps[i].Job, got) })
	}
}
