package passes_test

import (
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

func TestMemoryAddsUp(t *testing.T) {
	for name := range models {
		s := model(t, name)
		for _, job := range ir.Jobs {
			for _, kind := range []string{"none", "full"} {
				f := compile(t, s, job, spec.Checkpointing{Kind: kind}, "")
				sum := 0
				by := map[string]int{}
				for _, c := range passes.Memory(f) {
					if c.Bytes < 0 {
						t.Errorf("%s, %s: %s has %d bytes", name, job, c.Name, c.Bytes)
					}
					by[c.Name] = c.Bytes
					sum += c.Bytes
				}
				if sum != peak(f) {
					t.Errorf("%s, %s: categories add up to %d bytes, the run takes %d", name, job, sum, peak(f))
				}
				weights := 0
				for _, p := range f.Params {
					if len(p.Parts) == 0 && !p.Cache {
						weights += 4 * p.Type.Elems() * p.Members()
					}
				}
				if by["weights"] != weights || job == "train" && (by["gradients"] != weights || by["moments"] != 2*weights) {
					t.Errorf("%s, %s: %v for %d bytes of weights", name, job, by, weights)
				}
				if (by["caches"] > 0) != (job == "prefill" || job == "decode") {
					t.Errorf("%s, %s: %d bytes of caches", name, job, by["caches"])
				}
				if job == "train" && by["activations kept for backward"] < s.Model.NumLayers*4*2*6*16 {
					t.Errorf("%s: %d bytes are kept for the backward pass, less than the stream", name, by["activations kept for backward"])
				}
			}
		}
	}
}
