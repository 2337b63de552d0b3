package ir_test

import (
	"math"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

const plannedSpec = `
model: {preset: gpt2, vocab_size: 11, hidden_size: 8, num_layers: 3, num_heads: 2, max_position_embeddings: 6, dropout: 0.1}
tokenizer: tokenizer.json
train: {batch: 4, micro_batch: 2, context: 5}
`

// planned returns the train function with a plan of its own.
func planned(t *testing.T) *ir.Func {
	t.Helper()
	s, err := parser.Parse("planned.yaml", []byte(plannedSpec))
	if err != nil {
		t.Fatal(err)
	}
	o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
	o.Checkpointing = spec.Checkpointing{Kind: "every", N: 2}
	f := ir.Build(s, "train")
	if err := passes.Run(f, o, "", nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// runPlanned reports whether f computes in its arena what it computes without, with no word of a clash.
func runPlanned(t *testing.T, f *ir.Func) bool {
	t.Helper()
	in := map[string]*ir.Tensor{}
	for _, v := range f.Inputs {
		shape := v.Type.Shape()
		if v.Axis != "" {
			shape = append([]int{f.Symbol("A")}, shape...)
		}
		x := ir.NewTensor(shape...)
		for i := range x.Data {
			x.Data[i] = float64(1 + i%4)
		}
		in[v.Name] = x
	}
	states := [2]*ir.State{ir.NewState(), ir.NewState()}
	for _, s := range states {
		for _, p := range f.Params {
			for i := range p.Members() {
				w := ir.NewTensor(p.Type.Shape()...)
				for k := range w.Data {
					w.Data[k] = math.Sin(float64(7*k + len(p.Name) + i))
				}
				s.Weights[p.Member(p.From+i)] = w
			}
		}
	}
	want, err := ir.Eval(f, in, states[0])
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := ir.EvalPlanned(f, in, states[1])
	if err != nil {
		return false
	}
	for i := range want {
		if want[i].Data[0] != got[i].Data[0] { // also where one is NaN
			return false
		}
	}
	for name, w := range states[0].Weights {
		for i, x := range w.Data {
			if x != states[1].Weights[name].Data[i] {
				return false
			}
		}
	}
	return true
}

// TestEvalPlannedFindsWrongPlans breaks a plan in every way that must show: two operands, or an operand and a result, of
// one op put in one place; a buffer with a slot less than it has.
func TestEvalPlannedFindsWrongPlans(t *testing.T) {
	f := planned(t)
	if !runPlanned(t, f) {
		t.Fatal("the plan itself is wrong")
	}
	tried := map[[2]*ir.Buffer]bool{}
	f.Walk(func(op *ir.Op) {
		if op.Loop != nil {
			return
		}
		var live []*ir.Value
		for _, v := range append(append([]*ir.Value(nil), op.Args...), op.Results...) {
			if v == nil {
				continue
			}
			if _, ok := f.Plan.Places[v]; ok {
				live = append(live, v)
			}
		}
		for i, v := range live {
			for _, w := range live[:i] {
				a, b := f.Plan.Places[v].Buffer, f.Plan.Places[w].Buffer
				if a == b || tried[[2]*ir.Buffer{a, b}] || tried[[2]*ir.Buffer{b, a}] {
					continue
				}
				tried[[2]*ir.Buffer{a, b}] = true
				was, size := a.Offset, f.Plan.Bytes
				a.Offset = b.Offset
				f.Plan.Bytes = max(size, a.Offset+a.Bytes())
				if runPlanned(t, f) {
					t.Errorf("%s: %v in the place of %v goes unnoticed", ir.PrintOp(op), v, w)
				}
				a.Offset, f.Plan.Bytes = was, size
			}
		}
	})
	if len(tried) < 30 {
		t.Errorf("only %d pairs tried", len(tried))
	}
	rings := 0
	for _, b := range f.Plan.Buffers {
		if b.Slots > 1 {
			rings++
			b.Slots--
			if runPlanned(t, f) {
				t.Errorf("%s with %d slots instead of %d goes unnoticed", b.Name, b.Slots, b.Slots+1)
			}
			b.Slots++
		}
	}
	if rings < 5 {
		t.Errorf("only %d buffers have slots", rings)
	}
}

func TestEvalPlannedNeedsAPlan(t *testing.T) {
	f := planned(t)
	f.Plan = nil
	if _, _, err := ir.EvalPlanned(f, nil, ir.NewState()); err == nil || !strings.Contains(err.Error(), "no plan") {
		t.Errorf("got %v", err)
	}
}

// TestCloneSharesNothingThatChanges changes a copy in every op, and expects the original as it was.
func TestCloneSharesNothingThatChanges(t *testing.T) {
	f := planned(t)
	text := ir.Print(f)
	g := f.Clone()
	if err := ir.Verify(g); err != nil {
		t.Fatal(err)
	}
	if got := ir.Print(g); got != text {
		t.Fatalf("the copy prints as\n%s\nwant\n%s", got, text)
	}
	g.Walk(func(op *ir.Op) {
		op.Attrs["kernel"], op.By = "changed", "changed"
		for i := range op.Args {
			op.Args[i] = nil
		}
		for _, r := range op.Results {
			r.Name += "_changed"
		}
		if l := op.Loop; l != nil {
			l.From++
			for i, c := range l.Carries {
				c.Name += "_changed"
				l.Yield[i] = nil
			}
		}
	})
	g.Body.Ops = nil
	if got := ir.Print(f); got != text {
		t.Errorf("changing the copy changed the original to\n%s", got)
	}
}
