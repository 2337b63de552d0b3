package passes_test

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// checkTrain compiles the train function under c, and fails where its run differs from want's in a bit or its plan is wrong.
func checkTrain(s *spec.Spec, c spec.Checkpointing, want []*ir.Tensor, after *ir.State) (*ir.Func, error) {
	f, err := tryCompile(s, "train", c, "")
	if err != nil {
		return nil, err
	}
	got, state, err := checkPlan(f)
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
			want, after, err := checkPlan(none)
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
					continue
				}
				if c.Kind == "auto" && peak(f) > int(c.Budget) {
					t.Errorf("%+v needs %d bytes", c, peak(f))
				}
				sizes[fmt.Sprint(c.Kind, c.N)] = f.Plan.Bytes
			}
			if sizes["full0"] >= sizes["none0"] || sizes["every1"] > sizes["full0"] {
				t.Errorf("none, full and every(1) take %d, %d and %d bytes", sizes["none0"], sizes["full0"], sizes["every1"])
			}
		})
	}
}

// TestBudgetError checks that the error says what would do, and that it does.
func TestBudgetError(t *testing.T) {
	s := model(t, "llama")
	_, err := tryCompile(s, "train", spec.Checkpointing{Kind: "auto", Budget: 100 << 10}, "")
	var small *passes.BudgetError
	if !errors.As(err, &small) {
		t.Fatalf("got %v", err)
	}
	want := fmt.Sprintf(`^checkpoint: checkpointing: auto\(100KiB\) cannot fit: the smallest plan needs 1\d\d\.\dKiB \(%d bytes\): `+
		`weights 25\.4KiB, gradients 25\.4KiB, moments 50\.7KiB, arena 1\d\.\dKiB$`, small.Smallest)
	if !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	sum := 0
	for _, p := range small.Parts {
		sum += p.Bytes
	}
	if sum != small.Smallest {
		t.Errorf("the parts %v add up to %d, want %d", small.Parts, sum, small.Smallest)
	}
	if _, err := tryCompile(s, "train", spec.Checkpointing{Kind: "auto", Budget: spec.Bytes(small.Smallest - 1)}, ""); err == nil {
		t.Error("a byte less than the smallest fits")
	}
}

func TestFullKeepsTheStreamAlone(t *testing.T) {
	for name := range models {
		s := model(t, name)
		f := compile(t, s, "train", spec.Checkpointing{Kind: "full"}, "")
		f.Walk(func(op *ir.Op) {
			for _, a := range op.Args {
				if a != nil && a.Block != nil && !a.Block.Encloses(op.Block) && a.Op != nil {
					t.Errorf("%s: %v is kept", name, a)
				}
			}
		})
	}
}

func TestSegmentsKeepTheStreamAtTheirStart(t *testing.T) {
	f := compile(t, model(t, "gpt2"), "train", spec.Checkpointing{Kind: "every", N: 2}, "")
	kept := 0
	f.Walk(func(op *ir.Op) {
		for _, a := range op.Args {
			if a == nil || a.Block == nil || a.Block.Encloses(op.Block) {
				continue
			}
			l := a.Block.Loop.Loop
			switch {
			case l.Within == "" && (a.Op != nil || l.Step != 2):
				t.Errorf("%v is kept for every layer", a)
			case l.Within == "":
				kept++
			case a.Block.Loop.By != "checkpoint":
				t.Errorf("%v is kept of the forward pass", a)
			}
		}
	})
	if kept != 1 {
		t.Errorf("%d reads of the kept stream, want 1", kept)
	}
}
