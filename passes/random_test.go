package passes_test

import (
	"flag"
	"fmt"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
	"github.com/tfc-dev/tfc/spec/spectest"
)

var (
	randomSpecs = flag.Int("specs", 30, "random specs to take through the passes")
	firstSpec   = flag.Uint64("first", 0, "seed of the first")
)

// TestPassesKeepMeaning takes random specs through the pipeline: after every pass, with a pass switched off, and with
// all optional ones off, a function computes what it did as built; and its printed form is read back. From quantize on, which
// means to change numbers, it computes what it does after that pass alone.
func TestPassesKeepMeaning(t *testing.T) {
	for n := range *randomSpecs {
		seed := *firstSpec + uint64(n)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			text := spectest.Random(seed)
			s, err := parser.Parse("random.yaml", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := tighten(s); err != nil {
				t.Fatal(err)
			}
			for _, job := range ir.Jobs {
				if err := keepsMeaning(s, job, seed); err != nil {
					t.Fatalf("%s: %v\n%s", job, err, text)
				}
			}
		})
	}
}

// tighten gives a spec that checkpoints within a budget one between what it takes with all kept and with little kept.
func tighten(s *spec.Spec) error {
	c := s.Train.Checkpointing
	if c.Kind != "auto" {
		return nil
	}
	total := 0
	for _, kind := range []string{"none", "full"} {
		s.Train.Checkpointing.Kind = kind
		f := ir.Build(s, "train")
		if err := passes.Run(f, passes.OptionsFor(s, ir.TargetNamed("cpu")), "plan-memory", nil); err != nil {
			return err
		}
		total += passes.FixedBytes(f) + f.Plan.Bytes
	}
	c.Budget = spec.Bytes(total / 2)
	s.Train.Checkpointing = c
	return nil
}

const tolerance = 1e-9

// outcome is what a run gave and left.
type outcome struct {
	results []*ir.Tensor
	state   *ir.State
}

func run(f *ir.Func, seed uint64) (o outcome, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, ir.Print(f))
		}
	}()
	in, state := irtest.Draw(f, seed)
	o.results, err = ir.Eval(f, in, state)
	o.state = state
	return o, err
}

func keepsMeaning(s *spec.Spec, job string, seed uint64) error {
	cpu := ir.TargetNamed("cpu")
	options := passes.OptionsFor(s, cpu)
	built, err := run(ir.Build(s, job), seed)
	if err != nil {
		return err
	}

	// The reference: the required passes alone. Before grad stands what Build wrote.
	plain := passes.OptionsFor(s, cpu)
	plain.Off = map[string]bool{}
	for _, p := range passes.Pipeline {
		plain.Off[p.Name] = true
	}
	f := ir.Build(s, job)
	if err := passes.Run(f, plain, "", nil); err != nil {
		return err
	}
	want, err := run(f, seed)
	if err != nil {
		return err
	}
	if err := irtest.Near(want.results, built.results, tolerance); err != nil {
		return fmt.Errorf("required passes alone: %w", err)
	}
	exact := want
	plain.Off["quantize"] = false
	f = ir.Build(s, job)
	if err := passes.Run(f, plain, "", nil); err != nil {
		return err
	}
	if want, err = run(f, seed); err != nil {
		return err
	}

	differentiated, quantized := job != "train", false
	var failed error
	f = ir.Build(s, job)
	err = passes.Run(f, options, "", func(p *passes.Pass, f *ir.Func, rewrites int) {
		differentiated = differentiated || p.Name == "grad"
		if failed != nil || rewrites == 0 {
			return
		}
		quantized = quantized || p.Name == "quantize"
		got, err := run(f, seed)
		switch {
		case err != nil:
		case quantized:
			err = same(got, want)
		case differentiated:
			err = same(got, exact)
		default:
			err = irtest.Near(got.results, built.results, tolerance)
		}
		if err != nil {
			failed = fmt.Errorf("after %s: %w\n%s", p.Name, err, ir.Print(f))
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	if err := roundTrip(f); err != nil {
		return err
	}
	in, state := irtest.Draw(f, seed)
	if planned, _, err := ir.EvalPlanned(f, in, state); err != nil {
		return fmt.Errorf("in its arena: %w", err)
	} else if err := same(outcome{planned, state}, want); err != nil {
		return fmt.Errorf("in its arena: %w", err)
	}

	// One pass off; which one goes round with the seed.
	optional := optionalPasses()
	off := optional[seed%uint64(len(optional))]
	options.Off = map[string]bool{off: true}
	f = ir.Build(s, job)
	if err := passes.Run(f, options, "", nil); err != nil {
		return fmt.Errorf("without %s: %w", off, err)
	}
	if off == "quantize" {
		want = exact
	}
	got, err := run(f, seed)
	if err == nil {
		err = same(got, want)
	}
	if err != nil {
		return fmt.Errorf("without %s: %w", off, err)
	}
	return nil
}

func same(got, want outcome) error {
	if len(got.results) != len(want.results) {
		return fmt.Errorf("%d results, want %d", len(got.results), len(want.results))
	}
	if err := irtest.Near(got.results, want.results, tolerance); err != nil {
		return err
	}
	return irtest.NearState(got.state, want.state, tolerance)
}

func optionalPasses() (names []string) {
	for _, p := range passes.Pipeline {
		if !p.Required {
			names = append(names, p.Name)
		}
	}
	return names
}

// roundTrip checks that f's text reads back as the same text.
func roundTrip(f *ir.Func) error {
	text := ir.Print(f)
	g, err := parser.IR("printed", text)
	if err != nil {
		return err
	}
	if again := ir.Print(g); again != text {
		return fmt.Errorf("print ∘ parse changes the text to\n%s", again)
	}
	return nil
}
