package passes_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// sameTensors says where two lists of tensors differ in a bit.
func sameTensors(a, b []*ir.Tensor) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d and %d results", len(a), len(b))
	}
	for i := range a {
		if len(a[i].Data) != len(b[i].Data) {
			return fmt.Errorf("result %d has %d and %d elements", i, len(a[i].Data), len(b[i].Data))
		}
		for k, x := range a[i].Data {
			if math.Float64bits(x) != math.Float64bits(b[i].Data[k]) {
				return fmt.Errorf("result %d, element %d: %v and %v", i, k, x, b[i].Data[k])
			}
		}
	}
	return nil
}

// sameStates says where two states differ in a bit.
func sameStates(a, b *ir.State) error {
	for _, s := range []struct {
		name string
		a, b map[string]*ir.Tensor
	}{{"weight", a.Weights, b.Weights}, {"gradient", a.Grads, b.Grads}, {"first moment", a.First, b.First}, {"second moment", a.Second, b.Second}, {"cache", a.Caches, b.Caches}} {
		if len(s.a) != len(s.b) {
			return fmt.Errorf("%d and %d tensors of %ss", len(s.a), len(s.b), s.name)
		}
		for name, x := range s.a {
			if err := sameTensors([]*ir.Tensor{x}, []*ir.Tensor{s.b[name]}); err != nil {
				return fmt.Errorf("%s %s: %w", s.name, name, err)
			}
		}
	}
	return nil
}

// checkPlan runs f with and without its plan: both must give the same bits, in as many bytes as the plan says.
func checkPlan(f *ir.Func) error {
	in, planned := inputs(f)
	_, plain := inputs(f)
	want, err := ir.Eval(f, in, plain)
	if err != nil {
		return err
	}
	got, bytes, err := ir.EvalPlanned(f, in, planned)
	if err != nil {
		return err
	}
	if err := sameTensors(want, got); err != nil {
		return err
	}
	if err := sameStates(plain, planned); err != nil {
		return err
	}
	if bytes != f.Plan.Bytes {
		return fmt.Errorf("the plan has %d bytes, the run touched %d", f.Plan.Bytes, bytes)
	}
	return nil
}

func TestPlannedRunsEqualPlainOnes(t *testing.T) {
	for name := range models {
		s := model(t, name)
		for _, job := range ir.Jobs {
			f := compile(t, s, job, spec.Checkpointing{Kind: "none"}, "")
			if err := checkPlan(f); err != nil {
				t.Errorf("%s, %s: %v\n%s", name, job, err, ir.Print(f))
			}
		}
	}
}
