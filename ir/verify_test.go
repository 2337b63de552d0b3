package ir_test

import (
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

// sound is a function that verifies; each case of TestVerifyRejects breaks one thing.
const sound = `dims A=2 B=2 T=3 D=4 V=7
param @wte f32[V,D] {decay: true, init: "normal", scale: 0.02}
param @layers.w.weight f32[D,D] per layers 0..4 {decay: true, init: "normal", scale: 0.02}
param @layers.v.weight f32[D,D] per layers 0..4 {decay: true, init: "normal", scale: 0.02}
param @layers.b f32[D] per layers 0..4 {init: "constant", scale: 0.0}
param @layers.wv.weight f32[2*D,D] per layers 0..4 = rows(@layers.w.weight, @layers.v.weight)
func train(%tokens i32[B,T] per micro, %targets i32[B,T] per micro, %n f32[], %positions i32[B,T]) {
  %zero f32[] = zero()
  %loss f32[] = for m in micro 0..2 carry %sum f32[] = %zero {
    %x f32[B,T,D] = embed(%tokens[m], @wte) {scale: 1.0}
    %y f32[B,T,D] = for l in layers 0..4 carry %h f32[B,T,D] = %x {
      %p f32[B,T,D] = linear(%h, @layers.w.weight[l], _, _)
      %q f32[B,T,D] = bias(%p, @layers.b[l])
      %g f32[B,T,D] = act(%q) {fn: "silu"}
      %k f32[B,T,D] = add(%h, %g)
      yield %k
    }
    %part f32[], %rows f32[B,T], %tile f32[6,V] = head_loss(%y, @wte, _, %targets[m], %n)
    %e f32[B,T,D] = for l in layers 4..0 carry %d f32[B,T,D] = %y {
      %f f32[B,T,D] = act_grad(%d, %q[l]) {fn: "silu"}
      linear_dw(%f, %h[l]) into @layers.w.weight[l]
      yield %f
    }
    %next f32[] = add(%sum, %part)
    yield %next
  }
  return %loss
}
`

func TestVerifyRejects(t *testing.T) {
	if _, err := parser.IR("sound", sound); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"param @wte f32[V,D]", "param @wte f32[V,D]\nparam @wte f32[V,D]", "parameter @wte is there twice"},
		{"@layers.v.weight f32[D,D] per layers 0..4 {decay: true, ", "@layers.v.weight f32[D,D] per layers 0..4 {", "@layers.wv.weight cannot be packed from @layers.w.weight"},
		{"@layers.v.weight f32[D,D] per layers 0..4", "@layers.v.weight f32[D,D] per layers 0..3", "cannot be packed from @layers.v.weight"},
		{"@layers.wv.weight f32[2*D,D]", "@layers.wv.weight f32[D,D]", "@layers.wv.weight has 16 elements, its parts 32"},
		{"%n f32[],", "%n f32[], %n f32[],", "%n is defined twice"},
		{"%g f32[B,T,D] = act", "%x f32[B,T,D] = act", "%x is defined twice"},
		{"return %loss", "return _", "train: returns _"},
		{"return %loss", "return %x", "return: %x is read outside of a loop over its own micro"},
		{"0..4 carry %h", "0..5 carry %h", "@layers.w.weight is read outside of a loop over layers 0..4"},
		{"linear_dw(%f, %h[l]) into @layers.w.weight[l]", "linear_dw(%f, %h[l]) into @layers.w.weight[l]\n linear_dw(%g[l], %h[l]) into %h[l]", "%h is no parameter to add a gradient to"},
		{"layers 4..0 carry", "heads 4..0 carry", "%q is read outside of a loop over its own layers"},
		{"0..4 carry %h", "1..4 carry %h", "%q is read by a loop over 0..4, but lives in 1..4"},
		{"act(%q) {fn: \"silu\"}", "activate(%q)", "no such op"},
		{"bias(%p, @layers.b[l])", "bias(%p, @layers.b[l], %p)", "has 3 arguments, want 2"},
		{"bias(%p, @layers.b[l])", "bias(%p)", "lacks b"},
		{"bias(%p, @layers.b[l])", "bias(_, @layers.b[l])", "lacks x"},
		{"linear(%h, @layers.w.weight[l], _, _)", "linear(%h, @layers.w.weight[l])", "has 2 arguments, want 4, _ for those absent"},
		{"= zero()", "= concat()", "has 0 arguments, want at least 1"},
		{" into @layers.w.weight[l]", "", "lacks w"},
		{"act(%q) {fn: \"silu\"}", "act(%q)", "lacks the attribute fn"},
		{"act(%q) {fn: \"silu\"}", "act(%q) {fn: 3}", "attribute fn is 3, want string"},
		{"act(%q) {fn: \"silu\"}", "act(%q) {fn: \"sine\"}", "unknown activation \"sine\""},
		{"act(%q) {fn: \"silu\"}", "act(%q) {by: 2.0, fn: \"silu\"}", "takes no attribute by"},
		{"%q f32[B,T,D] = bias", "%q f32[B,T,V] = bias", "result %q is f32[B,T,V], want f32[B,T,D]"},
		{"%part f32[], %rows f32[B,T], %tile f32[6,V] =", "%part f32[] =", "has 1 results, want 3"},
		{"%k f32[B,T,D] = add(%h, %g)", "%k f32[B,T,D] = add(%h, %n)", "argument 1 is f32[], want the shape of f32[B,T,D]"},
		{"%k f32[B,T,D] = add(%h, %g)", "%k f32[] = linear(%n, @layers.w.weight[l], _, _)", "@layers.w.weight is f32[D,D], want [0, 1]"},
		{"%k f32[B,T,D] = add(%h, %g)", "%k f32[] = split(%n) {parts: [\"1\"]}", "operands of the wrong rank"},
		{"      yield %k\n", "", "starts 1, carries 1, yields 0 and returns 1 values"},
		{"yield %k", "yield @layers.w.weight[l]", "yields f32[D,D] for f32[B,T,D]"},
		{"carry %h f32[B,T,D] = %x", "carry %h f32[T,B,D] = %x", "carry %h is f32[T,B,D], starts as f32[B,T,D]"},
		{"for l in layers 0..4 carry %h", "for m in layers 0..4 carry %h", "its index m is that of the loop around it"},
		{"for l in layers 4..0", "for l in micro 2..0", "a loop around it runs over micro too"},
		{"for l in layers 4..0", "for l in layers s..s+2 below 4", "no loop over layers with the index s is around it"},
		{"embed(%tokens[m], @wte)", "embed(%n, @wte)", "tokens %n are f32[], want i32"},
		{"bias(%p, @layers.b[l])", "bias(%p, @wte)", "@wte is f32[V,D], want 4 elements"},
		{"head_loss(%y, @wte, _, %targets[m], %n)", "head_loss(%y, @wte, _, %rows, %n)", "%rows"},
		{"head_loss(%y, @wte, _, %targets[m], %n)", "head_loss(%y, @wte, _, %positions, %y)", "%y is f32[B,T,D], want a scalar"},
		{"linear_dw(%f, %h[l])", "linear_dw(%n, %h[l])", "differ in rows"},
		{"embed(%tokens[m], @wte) {", "embed(%tokens[m], @wte) {tf32: true, ", "takes no attribute tf32"},
		{"%f f32[B,T,D] = act_grad(%d, %q[l]) {fn: \"silu\"}\n      linear_dw(%f, %h[l]) into @layers.w.weight[l]",
			"%f bf16[B,T,D] = act_grad(%d, %q[l]) {fn: \"silu\"}\n      linear_dw(%f, %h[l]) into @layers.w.weight[l] {tf32: true}", "multiplies bf16 in tf32, which is for f32"},
	} {
		if strings.Count(sound, c.old) != 1 {
			t.Errorf("%q is in the function %d times", c.old, strings.Count(sound, c.old))
		}
		_, err := parser.IR("broken", fixIndices(strings.Replace(sound, c.old, c.new, 1), c.new))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\nfor %s:\ngot  %v\nwant %s", c.new, c.old, err, c.want)
		}
	}
}

// fixIndices renames the indices that a broken loop no longer gives, so that the function reaches Verify.
func fixIndices(text, broken string) string {
	switch {
	case strings.HasPrefix(broken, "for m in layers 0..4"):
		return strings.NewReplacer("linear(%h, @layers.w.weight[l]", "linear(%h, @layers.w.weight[m]", "bias(%p, @layers.b[l]", "bias(%p, @layers.b[m]").Replace(text)
	case strings.HasPrefix(broken, "for l in micro"), strings.HasPrefix(broken, "heads"):
		return strings.Replace(text, "into @layers.w.weight[l]", "into @layers.w.weight", 1)
	}
	return text
}

// TestVerifyRejectsBrokenLinks breaks what text cannot say.
func TestVerifyRejectsBrokenLinks(t *testing.T) {
	for _, c := range []struct {
		want  string
		smash func(f *ir.Func, loop, op *ir.Op)
	}{
		{"is not in the block that holds it", func(f *ir.Func, loop, op *ir.Op) { op.Block = f.Body }},
		{"result %q does not point back", func(f *ir.Func, loop, op *ir.Op) { op.Result().Op = loop }},
		{"the body does not point back", func(f *ir.Func, loop, op *ir.Op) { loop.Loop.Body.Loop = loop.Block.Loop }},
		{"is not a parameter of the function", func(f *ir.Func, loop, op *ir.Op) {
			op.Args[1] = &ir.Value{Name: "b", Type: op.Args[1].Type, Param: &ir.Param{Name: "b"}}
		}},
		{"%other is read before it is written", func(f *ir.Func, loop, op *ir.Op) {
			op.Args[0] = &ir.Value{Name: "other", Type: op.Args[0].Type, Block: op.Block}
		}},
		{"%k is read before it is written", func(f *ir.Func, loop, op *ir.Op) { op.Args[0] = loop.Loop.Yield[0] }},
		{"runs over 0..4 by 0", func(f *ir.Func, loop, op *ir.Op) { loop.Loop.Step = 0 }},
		{"runs over 4..0 by 1", func(f *ir.Func, loop, op *ir.Op) { loop.Loop.From, loop.Loop.To = 4, 0 }},
	} {
		f, err := parser.IR("sound", sound)
		if err != nil {
			t.Fatal(err)
		}
		var loop, op *ir.Op
		f.Walk(func(o *ir.Op) {
			if o.Kind == "bias" {
				loop, op = o.Block.Loop, o
			}
		})
		c.smash(f, loop, op)
		if err := ir.Verify(f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
