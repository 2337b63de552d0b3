package ir_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/parser"
)

// gradientCases are ops to differentiate: parameters, inputs, and the op. Every op with a gradient has at least one.
var gradientCases = []struct{ name, params, inputs, op string }{
	{"embed", "param @w f32[V,4] {init: \"normal\", scale: 1.0}", "%tokens i32[2,3]", "%y f32[2,3,4] = embed(%tokens, @w) {scale: 1.5}"},
	{"add_positions", "param @w f32[5,4] {init: \"normal\", scale: 1.0}", "%x f32[2,3,4], %positions i32[2,3]", "%y f32[2,3,4] = add_positions(%x, @w, %positions)"},
	{"layernorm", "param @w f32[4] {init: \"normal\", scale: 1.0}\nparam @b f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,4]",
		"%y f32[3,4], %s f32[3,2] = layernorm(%x, @w, @b) {eps: 0.01}"},
	{"layernorm without bias", "param @w f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,4]", "%y f32[3,4], %s f32[3,2] = layernorm(%x, @w, _) {eps: 0.01}"},
	{"layernorm of heads", "param @w f32[4] {init: \"normal\", scale: 1.0}\nparam @b f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,8]",
		"%y f32[3,8], %s f32[3,4] = layernorm(%x, @w, @b) {eps: 0.01, group: 4}"},
	{"rmsnorm", "param @w f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,4]", "%y f32[3,4], %s f32[3,1] = rmsnorm(%x, @w) {eps: 0.01}"},
	{"rmsnorm offset, of heads", "param @w f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,8]",
		"%y f32[3,8], %s f32[3,2] = rmsnorm(%x, @w) {eps: 0.01, group: 4, offset: 1.0}"},
	{"linear", "param @w f32[5,4] {init: \"normal\", scale: 1.0}", "%x f32[2,3,4]", "%y f32[2,3,5] = linear(%x, @w, _, _)"},
	{"linear with bias and residual", "param @w f32[5,4] {init: \"normal\", scale: 1.0}\nparam @b f32[5] {init: \"normal\", scale: 1.0}", "%x f32[3,4], %r f32[3,5]",
		"%y f32[3,5] = linear(%x, @w, @b, %r)"},
	{"linear with activation", "param @w f32[5,4] {init: \"normal\", scale: 1.0}\nparam @b f32[5] {init: \"normal\", scale: 1.0}", "%x f32[3,4], %r f32[3,5]",
		"%y f32[3,5], %pre f32[3,5] = linear(%x, @w, @b, %r) {act: \"gelu_tanh\"}"},
	{"bias", "param @b f32[4] {init: \"normal\", scale: 1.0}", "%x f32[3,4]", "%y f32[3,4] = bias(%x, @b)"},
	{"act gelu", "", "%x f32[3,4]", "%y f32[3,4] = act(%x) {fn: \"gelu\"}"},
	{"act gelu_tanh", "", "%x f32[3,4]", "%y f32[3,4] = act(%x) {fn: \"gelu_tanh\"}"},
	{"act relu", "", "%x f32[3,4]", "%y f32[3,4] = act(%x) {fn: \"relu\"}"},
	{"act relu2", "", "%x f32[3,4]", "%y f32[3,4] = act(%x) {fn: \"relu2\"}"},
	{"act silu", "", "%x f32[3,4]", "%y f32[3,4] = act(%x) {fn: \"silu\"}"},
	{"glu gelu", "", "%g f32[3,4], %u f32[3,4]", "%y f32[3,4] = glu(%g, %u) {fn: \"gelu\"}"},
	{"glu gelu_tanh", "", "%g f32[3,4], %u f32[3,4]", "%y f32[3,4] = glu(%g, %u) {fn: \"gelu_tanh\"}"},
	{"glu relu", "", "%g f32[3,4], %u f32[3,4]", "%y f32[3,4] = glu(%g, %u) {fn: \"relu\"}"},
	{"glu relu2", "", "%g f32[3,4], %u f32[3,4]", "%y f32[3,4] = glu(%g, %u) {fn: \"relu2\"}"},
	{"glu silu", "", "%g f32[3,4], %u f32[3,4]", "%y f32[3,4] = glu(%g, %u) {fn: \"silu\"}"},
	{"add", "", "%a f32[3,4], %b f32[3,4]", "%y f32[3,4] = add(%a, %b)"},
	{"add by", "", "%a f32[3,4], %b f32[3,4]", "%y f32[3,4] = add(%a, %b) {by: -0.7}"},
	{"scale", "", "%x f32[3,4]", "%y f32[3,4] = scale(%x) {by: 1.7}"},
	{"softcap", "", "%x f32[3,4]", "%y f32[3,4] = softcap(%x) {cap: 0.8}"},
	{"dropout", "", "%x f32[6,4], %seed u64[], %step i32[]", "%y f32[6,4] = dropout(%x, %seed, %step) {p: 0.4, stream: 2}"},
	{"rope", "", "%x f32[2,3,8], %positions i32[2,3]",
		"%y f32[2,3,8] = rope(%x, %positions) {fraction: 1.0, head_dim: 4, heads: 2, max: 8, theta: 100.0}"},
	{"rope yarn interleaved half", "", "%x f32[2,3,8], %positions i32[2,3]",
		"%y f32[2,3,8] = rope(%x, %positions) {attention_factor: 1.3, beta_fast: 4.0, beta_slow: 1.0, factor: 2.0, fraction: 0.5, head_dim: 8, heads: 1, interleaved: true, max: 8, original: 4, scaling: \"yarn\", theta: 100.0}"},
	{"split", "", "%x f32[3,9]", "%a f32[3,4], %b f32[3,2], %c f32[3,3] = split(%x) {parts: [\"4\", \"2\", \"3\"]}"},
	{"cast", "", "%x f32[3,4]", "%y bf16[3,4] = cast(%x) {to: \"bf16\"}"},
	{"attention", "", "%q f32[2,5,8], %k f32[2,5,8], %v f32[2,5,8]",
		"%o f32[2,5,8], %lse f32[2,5,2] = attention(%q, %k, %v, _, _) {head_dim: 4, heads: 2, kv_heads: 2, mask: [\"causal\"], scale: 0.5}"},
	{"attention grouped, capped, alibi, masked", "", "%q f32[2,5,8], %k f32[2,5,4], %v f32[2,5,4]",
		"%o f32[2,5,8], %lse f32[2,5,4] = attention(%q, %k, %v, _, _) {alibi: true, head_dim: 2, heads: 4, kv_heads: 2, mask: [\"prefix(2) & (window(3) | global(1))\"], scale: 0.7, softcap: 1.5}"},
	{"attention with dropout", "", "%q f32[2,5,4], %k f32[2,5,4], %v f32[2,5,4], %seed u64[], %step i32[]",
		"%o f32[2,5,4], %lse f32[2,5,2] = attention(%q, %k, %v, %seed, %step) {dropout: 0.4, head_dim: 2, heads: 2, kv_heads: 2, mask: [\"causal\"], scale: 0.7, stream: 1}"},
	{"cross_entropy", "", "%logits f32[2,3,V], %targets i32[2,3], %n f32[]", "%loss f32[], %rows f32[2,3] = cross_entropy(%logits, %targets, %n)"},
	{"cross_entropy summed", "", "%logits f32[3,V], %targets i32[3]", "%loss f32[], %rows f32[3] = cross_entropy(%logits, %targets, _)"},
	{"head_loss", "param @w f32[V,4] {init: \"normal\", scale: 1.0}\nparam @b f32[V] {init: \"normal\", scale: 1.0}", "%x f32[2,3,4], %targets i32[2,3], %n f32[]",
		"%loss f32[], %rows f32[2,3], %tile f32[6,V] = head_loss(%x, @w, @b, %targets, %n) {scale: 0.6, softcap: 1.2}"},
	{"head_loss plain", "param @w f32[V,4] {init: \"normal\", scale: 1.0}", "%x f32[3,4], %targets i32[3]",
		"%loss f32[], %rows f32[3], %tile f32[3,V] = head_loss(%x, @w, _, %targets, _)"},
	{"add_layernorm", "param @w f32[4] {init: \"normal\", scale: 1.0}\nparam @c f32[4] {init: \"normal\", scale: 1.0}", "%a f32[3,4], %b f32[3,4]",
		"%sum f32[3,4], %y f32[3,4], %s f32[3,2] = add_layernorm(%a, %b, @w, @c) {eps: 0.01}"},
	{"add_rmsnorm", "param @w f32[4] {init: \"normal\", scale: 1.0}", "%a f32[3,4], %b f32[3,4]",
		"%sum f32[3,4], %y f32[3,4], %s f32[3,1] = add_rmsnorm(%a, %b, @w) {eps: 0.01, offset: 1.0}"},
}

func parseCase(t *testing.T, params, inputs, op string) *ir.Func {
	t.Helper()
	results, _, _ := strings.Cut(op, " = ")
	var names []string
	for _, r := range strings.Split(results, ", ") {
		name, _, _ := strings.Cut(r, " ")
		names = append(names, name)
	}
	text := fmt.Sprintf("dims V=7\n%s\nfunc f(%s) {\n%s\nreturn %s\n}\n", params, inputs, op, strings.Join(names, ", "))
	f, err := parser.IR("case", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return f
}

// TestGradientOfEachOp compares the gradient that each op builds with central differences. The loss is a fixed random
// projection of the op's results that can have a gradient; a loss op is its own.
func TestGradientOfEachOp(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range gradientCases {
		t.Run(c.name, func(t *testing.T) {
			plain, f := parseCase(t, c.params, c.inputs, c.op), parseCase(t, c.params, c.inputs, c.op)
			op := f.Body.Ops[0]
			tested[op.Kind] = true
			in, state := irtest.Draw(plain, 11)
			if in["n"] != nil {
				in["n"].Data[0] = 4
			}

			// The backward function: the op's first result, then the gradients of its arguments.
			f.Results = f.Results[:1]
			loss := strings.HasSuffix(op.Kind, "_loss") || op.Kind == "cross_entropy"
			projection := map[int]*ir.Tensor{}
			b := ir.NewBuilder(f, f.Body)
			d := make([]*ir.Value, len(op.Results))
			for i, r := range op.Results {
				if name := ir.Table[op.Kind].Results[min(i, len(ir.Table[op.Kind].Results)-1)]; hasGradient(name) && !loss {
					d[i] = &ir.Value{Name: b.Name("d_" + r.Name), Type: r.Type}
					f.Inputs = append(f.Inputs, d[i])
					full, _ := irtest.Draw(f, 12)
					projection[i] = full[d[i].Name]
					in[d[i].Name] = projection[i]
				}
			}
			args := op.Args
			grads := ir.Table[op.Kind].Grad(&ir.Gradient{Builder: b}, op, d)
			if len(grads) != len(args) {
				t.Fatalf("%d gradients for %d arguments", len(grads), len(args))
			}
			at := map[*ir.Value]int{}
			for i, g := range grads {
				if g != nil {
					at[args[i]] = len(f.Results)
					f.Results = append(f.Results, g)
				}
			}
			if err := ir.Verify(f); err != nil {
				t.Fatalf("%v\n%s", err, ir.Print(f))
			}
			results, err := ir.Eval(f, in, state)
			if err != nil {
				t.Fatal(err)
			}

			value := func() float64 {
				out, err := ir.Eval(plain, in, state)
				if err != nil {
					t.Fatal(err)
				}
				if loss {
					return out[0].Data[0]
				}
				sum := 0.0
				for i, p := range projection {
					for k, x := range p.Data {
						sum += x * out[i].Data[k]
					}
				}
				return sum
			}
			compared := 0
			check := func(name string, x, got *ir.Tensor) {
				for k := range x.Data {
					want := slope(&x.Data[k], value)
					if !close(got.Data[k], want) {
						t.Errorf("d %s[%d] is %g, differences give %g", name, k, got.Data[k], want)
					}
					compared++
				}
			}
			for _, a := range args {
				switch {
				case a == nil:
				case a.Param != nil:
					check(a.Name, state.Weights[a.Name], state.Grads[a.Name])
				case a.Type.DType != ir.I32 && a.Type.DType != ir.U64 && a.Name != "n":
					i, ok := at[a]
					if !ok {
						t.Fatalf("%v has no gradient", a)
					}
					check(a.Name, in[a.Name], results[i])
				}
			}
			if compared == 0 {
				t.Error("nothing was compared")
			}
		})
	}
	for kind, d := range ir.Table {
		if d.Grad != nil && !tested[kind] {
			t.Errorf("the gradient of %s is not tested", kind)
		}
	}
}

// hasGradient says whether a result can have one: not what is kept for the backward pass only.
func hasGradient(result string) bool {
	return result != "stats" && result != "lse!" && result != "pre..."
}

// slope is the central difference of value by *x.
func slope(x *float64, value func() float64) float64 {
	const h = 1e-5
	old := *x
	*x = old + h
	up := value()
	*x = old - h
	down := value()
	*x = old
	return (up - down) / (2 * h)
}

func close(got, want float64) bool {
	return math.Abs(got-want) <= 1e-5*math.Abs(want)+1e-8
}
