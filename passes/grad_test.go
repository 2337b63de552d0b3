package passes_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
	"github.com/tfc-dev/tfc/spec/spectest"
)

// TestGradientsOfModels compares the gradients that the whole pipeline leaves, of elements of every weight, with central
// differences of the loss as built.
func TestGradientsOfModels(t *testing.T) {
	specs := map[string]*spec.Spec{}
	for name := range models {
		specs[name] = model(t, name)
	}
	for seed := range uint64(16) {
		s, err := parser.Parse("random.yaml", []byte(spectest.Random(5000+seed)))
		if err != nil {
			t.Fatal(err)
		}
		s.Train.Checkpointing.Kind = []string{"none", "full"}[seed%2]
		specs[fmt.Sprint("random ", seed)] = s
	}
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
			o.Optimizer.WeightDecay = 0
			f := ir.Build(s, "train")
			if err := passes.Run(f, o, "", nil); err != nil {
				t.Fatal(err)
			}
			in, trained := irtest.Draw(f, 21)
			in["lr"].Data[0] = 0
			if _, err := ir.Eval(f, in, trained); err != nil {
				t.Fatal(err)
			}

			plain := ir.Build(s, "train")
			_, state := irtest.Draw(plain, 21)
			loss := func() float64 {
				out, err := ir.Eval(plain, in, state)
				if err != nil {
					t.Fatal(err)
				}
				return out[0].Data[0]
			}
			r := rand.New(rand.NewPCG(22, 23))
			for _, p := range plain.Params {
				member := p.Member(p.From + r.IntN(p.Members()))
				x, g := state.Weights[member], trained.Grads[member]
				if g == nil {
					t.Errorf("%s has no gradient", member)
					continue
				}
				// One element drawn from all, and the one of the largest gradient: most rows of an embedding have none.
				largest := slices.IndexFunc(g.Data, func(v float64) bool { return math.Abs(v) == largestOf(g.Data) })
				for _, k := range []int{r.IntN(len(x.Data)), largest} {
					const h = 1e-5
					old := x.Data[k]
					x.Data[k] = old + h
					up := loss()
					x.Data[k] = old - h
					down := loss()
					x.Data[k] = old
					if want := (up - down) / (2 * h); math.Abs(g.Data[k]-want) > 1e-5*math.Abs(want)+2e-9 {
						t.Errorf("the gradient of %s[%d] is %g, differences give %g", member, k, g.Data[k], want)
					}
				}
			}
		})
	}
}

func largestOf(x []float64) float64 {
	m := 0.0
	for _, v := range x {
		m = max(m, math.Abs(v))
	}
	return m
}
