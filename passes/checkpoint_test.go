package passes_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// train compiles the train function under c, and fails where its run differs from want's in a bit or its plan is wrong.
func checkTrain(s *spec.Spec, c spec.Checkpointing, want []*ir.Tensor, after *ir.State) (*ir.Func, error) {
	f, err := tryCompile(s, "train", c, "")
	if err != nil {
		return nil, err
	}
	if err := checkPlan(f); err != nil {
		return nil, err
	}
	in, state := inputs(f)
	got, err := ir.Eval(f, in, state)
	if err == nil {
		err = sameTensors(want, got)
	}
	if err == nil {
		err = sameStates(after, state)
	}
	return f, err
}

func peak(f *ir.Func) int { return passes.FixedBytes(f) + f.Plan.Bytes }

func TestCheckpointingKeepsEveryBit(t *testing.T) {
	for name := range models {
		t.Run(name, func(t *testing.T) {
			s := model(t, name)
			none := compile(t, s, "train", spec.Checkpointing{Kind: "none"}, "")
			in, after := inputs(none)
			want, err := ir.Eval(none, in, after)
			if err != nil {
				t.Fatal(err)
			}
			settings := []spec.Checkpointing{{Kind: "none"}, {Kind: "full"}}
			for n := 1; n <= s.Model.NumLayers; n++ {
				settings = append(settings, spec.Checkpointing{Kind: "every", N: n})
			}
			_, err = tryCompile(s, "train", spec.Checkpointing{Kind: "auto", Budget: 1}, "")
			var small *passes.BudgetError
			if !errors.As(err, &small) {
				t.Fatalf("a budget of a byte gives %v", err)
			}
			for i := range 10 {
				b := small.Smallest + (peak(none)-small.Smallest)*i/9
				settings = append(settings, spec.Checkpointing{Kind: "auto", Budget: spec.Bytes(b)})
			}
			sizes := map[string]int{}
			for _, c := range settings {
				f, err := checkTrain(s, c, want, after)
				if err != nil {
					t.Errorf("%+v: %v", c, err)
					if f != nil {
						t.Log(ir.Print(f))
					}
					continue
				}
				if c.Kind == "auto" && peak(f) > int(c.Budget) {
					t.Errorf("%+v needs %d bytes", c, peak(f))
				}
				sizes[fmt.Sprint(c.Kind, c.N)] = f.Plan.Bytes
				if testing.Verbose() {
					t.Log(c, f.Plan.Bytes)
				}
			}
		})
	}
}
