package passes_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
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

// checkPlan runs f with and without its plan: both must give the same bits, in as many bytes as the plan says. It
// returns what they give and leave.
func checkPlan(f *ir.Func) (want []*ir.Tensor, plain *ir.State, err error) {
	in, planned := inputs(f)
	_, plain = inputs(f)
	if want, err = ir.Eval(f, in, plain); err != nil {
		return nil, nil, err
	}
	got, bytes, err := ir.EvalPlanned(f, in, planned)
	if err == nil {
		err = sameTensors(want, got)
	}
	if err == nil {
		err = sameStates(plain, planned)
	}
	if err == nil && bytes != f.Plan.Bytes {
		err = fmt.Errorf("the plan has %d bytes, the run touched %d", f.Plan.Bytes, bytes)
	}
	return want, plain, err
}

func TestPlannedRunsEqualPlainOnes(t *testing.T) {
	for name := range models {
		s := model(t, name)
		for _, job := range ir.Jobs {
			f := compile(t, s, job, spec.Checkpointing{Kind: "none"}, "")
			if _, _, err := checkPlan(f); err != nil {
				t.Errorf("%s, %s: %v\n%s", name, job, err, ir.Print(f))
			}
		}
	}
}

// programs are functions whose values look free to be written over and are not.
var programs = map[string]string{
	"a view of what is read later": `
    %a f32[N,2], %b f32[N,D] = split(%x) {parts: ["2", "D=4"]}
    %c f32[N,2] = scale(%a) {by: 2.0}
    %d f32[N,D] = scale(%b) {by: 3.0}
    %y f32[N,D+2] = concat(%c, %d)
    %z f32[N,D+2] = add(%y, %x)
    return %z`,
	"a loop's start that its body reads": `
    %s f32[N,D+2] = for l in layers 0..3 carry %h f32[N,D+2] = %x {
      %i f32[N,D+2] = scale(%h) {by: 0.5}
      %j f32[N,D+2] = add(%i, %x)
      yield %j
    }
    return %s`,
	"a loop's start that is read after it": `
    %s f32[N,D+2] = for l in layers 0..3 carry %h f32[N,D+2] = %x {
      %i f32[N,D+2] = scale(%h) {by: 0.5}
      yield %i
    }
    %t f32[N,D+2] = add(%s, %x)
    return %t`,
	"two carries that change places": `
    %u f32[N,D+2] = scale(%x) {by: 2.0}
    %s f32[N,D+2], %t f32[N,D+2] = for l in layers 0..3 carry %g f32[N,D+2] = %x, %h f32[N,D+2] = %u {
      %i f32[N,D+2] = scale(%g) {by: 0.5}
      yield %h, %i
    }
    %v f32[N,D+2] = add(%s, %t) {by: 5.0}
    return %v`,
	"two carries, one of them handed on": `
    %u f32[N,D+2] = scale(%x) {by: 2.0}
    %s f32[N,D+2], %t f32[N,D+2] = for l in layers 0..3 carry %g f32[N,D+2] = %x, %h f32[N,D+2] = %u {
      %i f32[N,D+2] = add(%g, %h)
      yield %i, %g
    }
    %v f32[N,D+2] = add(%s, %t) {by: 5.0}
    return %v`,
}

func TestPlansOfAwkwardPrograms(t *testing.T) {
	for name, body := range programs {
		text := `dims N=3 D=4 V=19
param @w f32[V,D+2] {decay: true, init: "normal", scale: 1.0}
func logits(%tokens i32[N]) {
    %x f32[N,D+2] = embed(%tokens, @w) {scale: 1.0}` + body + "\n}\n"
		f, err := parser.IR("logits", text)
		if err == nil {
			err = ir.Verify(f)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := passes.Named("plan-memory").Run(f, passes.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := checkPlan(f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
