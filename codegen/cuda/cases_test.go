package cudagen_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

// opCase is an op on operands of some shape: parameters, inputs and the op, in the text form of the IR, where T stands
// for the type of activations.
type opCase struct{ name, params, inputs, op string }

// vocabulary is how many tokens, or classes, a case has.
func (c opCase) vocabulary(cols int) int {
	switch {
	case strings.HasPrefix(c.name, "cross_entropy"):
		return cols
	case strings.HasPrefix(c.name, "head_loss"):
		return 11
	}
	return 7
}

const normal = `{init: "normal", scale: 1.0}`

// cases are those of the ops whose operands may have any rows and columns.
func cases(rows, cols int) []opCase {
	x := fmt.Sprintf("[%d,%d]", rows, cols)
	n := fmt.Sprintf("[%d]", rows)
	vector := func(name string, n int) string { return fmt.Sprintf("param @%s f32[%d] %s\n", name, n, normal) }
	matrix := func(name string, m, n int) string {
		return fmt.Sprintf("param @%s f32[%d,%d] %s\n", name, m, n, normal)
	}
	stats := func(k int) string { return fmt.Sprintf("[%d,%d]", rows, k) }
	all := []opCase{
		{"embed", matrix("w", 7, cols), "%tokens i32" + n, "%y T" + x + " = embed(%tokens, @w) {scale: 1.5}"},
		{"embed_grad", matrix("w", 7, cols), "%tokens i32" + n + ", %dy T" + x, "embed_grad(%dy, %tokens) into @w {scale: 1.5}"},
		{"add_positions", matrix("w", rows+2, cols), "%x T" + x + ", %positions i32" + n, "%y T" + x + " = add_positions(%x, @w, %positions)"},
		{"positions_grad", matrix("w", rows+2, cols), "%dy T" + x + ", %positions i32" + n, "positions_grad(%dy, %positions) into @w"},
		{"layernorm", vector("w", cols) + vector("b", cols), "%x T" + x, "%y T" + x + ", %s f32" + stats(2) + " = layernorm(%x, @w, @b) {eps: 0.01}"},
		{"layernorm without bias", vector("w", cols), "%x T" + x, "%y T" + x + ", %s f32" + stats(2) + " = layernorm(%x, @w, _) {eps: 0.01}"},
		{"rmsnorm", vector("w", cols), "%x T" + x, "%y T" + x + ", %s f32" + stats(1) + " = rmsnorm(%x, @w) {eps: 0.01}"},
		{"rmsnorm offset", vector("w", cols), "%x T" + x, "%y T" + x + ", %s f32" + stats(1) + " = rmsnorm(%x, @w) {eps: 0.01, offset: 1.0}"},
		{"add_layernorm", vector("w", cols) + vector("b", cols), "%a T" + x + ", %b T" + x,
			"%sum T" + x + ", %y T" + x + ", %s f32" + stats(2) + " = add_layernorm(%a, %b, @w, @b) {eps: 0.01}"},
		{"add_rmsnorm", vector("w", cols), "%a T" + x + ", %b T" + x,
			"%sum T" + x + ", %y T" + x + ", %s f32" + stats(1) + " = add_rmsnorm(%a, %b, @w) {eps: 0.01, offset: 1.0}"},
		{"bias", vector("b", cols), "%x T" + x, "%y T" + x + " = bias(%x, @b)"},
		{"bias_grad", vector("b", cols), "%dy T" + x, "bias_grad(%dy) into @b"},
		{"add", "", "%a T" + x + ", %b T" + x, "%y T" + x + " = add(%a, %b)"},
		{"add by", "", "%a T" + x + ", %b T" + x, "%y T" + x + " = add(%a, %b) {by: -0.7}"},
		{"scale", "", "%x T" + x, "%y T" + x + " = scale(%x) {by: 1.7}"},
		{"softcap", "", "%x T" + x, "%y T" + x + " = softcap(%x) {cap: 0.8}"},
		{"softcap_grad", "", "%dy T" + x + ", %x T" + x, "%dx T" + x + " = softcap_grad(%dy, %x) {cap: 0.8}"},
		{"dropout", "", "%x T" + x + ", %seed u64[], %step i32[]", "%y T" + x + " = dropout(%x, %seed, %step) {p: 0.4, stream: 2}"},
		{"concat", "", "%a T" + x + ", %b T" + fmt.Sprintf("[%d,3]", rows), "%y T" + fmt.Sprintf("[%d,%d]", rows, cols+3) + " = concat(%a, %b)"},
		{"last", "", "%x T" + x, "%y T" + fmt.Sprintf("[1,%d]", cols) + " = last(%x)"},
		{"linear", matrix("w", 5, cols), "%x T" + x, "%y T" + fmt.Sprintf("[%d,5]", rows) + " = linear(%x, @w, _, _)"},
		{"linear with bias and residual", matrix("w", 9, cols) + vector("b", 9), "%x T" + x + ", %r T" + fmt.Sprintf("[%d,9]", rows),
			"%y T" + fmt.Sprintf("[%d,9]", rows) + " = linear(%x, @w, @b, %r)"},
		{"linear with gelu_tanh", matrix("w", 16, cols) + vector("b", 16), "%x T" + x,
			"%y T" + fmt.Sprintf("[%d,16], %%pre T[%d,16]", rows, rows) + " = linear(%x, @w, @b, _) {act: \"gelu_tanh\"}"},
		{"linear with silu", matrix("w", 6, cols), "%x T" + x,
			"%y T" + fmt.Sprintf("[%d,6], %%pre T[%d,6]", rows, rows) + " = linear(%x, @w, _, _) {act: \"silu\"}"},
		{"linear_dx", matrix("w", cols, 6), "%dy T" + x + ", %r T" + fmt.Sprintf("[%d,6]", rows), "%dx T" + fmt.Sprintf("[%d,6]", rows) + " = linear_dx(%dy, @w, %r, _)"},
		{"linear_dx gelu", matrix("w", cols, 8), "%dy T" + x + ", %p T" + fmt.Sprintf("[%d,8]", rows), "%dx T" + fmt.Sprintf("[%d,8]", rows) + ` = linear_dx(%dy, @w, _, %p) {act: "gelu_tanh"}`},
		{"linear_dx silu", matrix("w", cols, 5), "%dy T" + x + ", %p T" + fmt.Sprintf("[%d,5]", rows), "%dx T" + fmt.Sprintf("[%d,5]", rows) + ` = linear_dx(%dy, @w, _, %p) {act: "silu"}`},
		{"linear_glu", matrix("w", 16, cols), "%x T" + x, fmt.Sprintf("%%y T[%d,8], %%pre T[%d,16]", rows, rows) + " = linear_glu(%x, @w, _) {fn: \"silu\"}"},
		{"linear_glu with bias", matrix("w", 10, cols) + vector("b", 10), "%x T" + x, fmt.Sprintf("%%y T[%d,5], %%pre T[%d,10]", rows, rows) + " = linear_glu(%x, @w, @b) {fn: \"gelu_tanh\"}"},
		{"linear_glu_dx", matrix("w", cols, 8), "%dy T" + x + ", %p T" + fmt.Sprintf("[%d,16]", rows), "%d T" + fmt.Sprintf("[%d,16]", rows) + ` = linear_glu_dx(%dy, @w, %p) {fn: "silu"}`},
		{"linear_glu_dx with bias", matrix("w", cols, 5) + vector("b", 10), "%dy T" + x + ", %p T" + fmt.Sprintf("[%d,10]", rows), "%d T" + fmt.Sprintf("[%d,10]", rows) + ` = linear_glu_dx(%dy, @w, %p) into @b {fn: "relu2"}`},
		{"linear_dw", matrix("w", cols, 6), "%dy T" + x + ", %x T" + fmt.Sprintf("[%d,6]", rows), "linear_dw(%dy, %x) into @w"},
		{"cross_entropy", "", "%logits T" + x + ", %targets i32" + n + ", %n f32[]", "%loss f32[], %rows f32" + n + " = cross_entropy(%logits, %targets, %n)"},
		{"cross_entropy summed", "", "%logits T" + x + ", %targets i32" + n, "%loss f32[], %rows f32" + n + " = cross_entropy(%logits, %targets, _)"},
		{"cross_entropy_grad", "", "%logits T" + x + ", %targets i32" + n + ", %n f32[]", "%dx T" + x + ", %rows f32" + n + " = cross_entropy_grad(%logits, %targets, %n)"},
		{"head_loss", matrix("w", 11, cols) + vector("b", 11), "%x T" + x + ", %targets i32" + n + ", %n f32[]",
			"%loss f32[], %rows f32" + n + ", %tile T" + tile(rows, 11) + " = head_loss(%x, @w, @b, %targets, %n) {scale: 0.6, softcap: 1.2}"},
		{"head_loss_grad", matrix("w", 11, cols) + vector("b", 11), "%x T" + x + ", %targets i32" + n + ", %n f32[]",
			"%loss f32[], %dx T" + x + ", %rows f32" + n + ", %tile T" + tile(rows, 11) + " = head_loss_grad(%x, @w, @b, %targets, %n) into @w, @b {scale: 0.6, softcap: 1.2}"},
		{"head_loss_grad in tiles", matrix("w", 11, cols), "%x T" + x + ", %targets i32" + n,
			"%loss f32[], %dx T" + x + ", %rows f32" + n + ", %tile T" + tileOf(rows, 11, 11*64) + " = head_loss_grad(%x, @w, _, %targets, _) into @w, _ {tile: 704}"},
		{"head_loss in tiles", matrix("w", 11, cols), "%x T" + x + ", %targets i32" + n,
			"%loss f32[], %rows f32" + n + ", %tile T" + tileOf(rows, 11, 11*64) + " = head_loss(%x, @w, _, %targets, _) {tile: 704}"},
		{"head_loss_grad in tiles with bias", matrix("w", 13, cols) + vector("b", 13), "%x T" + x + ", %targets i32" + n + ", %n f32[]",
			"%loss f32[], %dx T" + x + ", %rows f32" + n + ", %tile T" + tileOf(rows, 13, 13*64) + " = head_loss_grad(%x, @w, @b, %targets, %n) into @w, @b {scale: 0.6, softcap: 1.2, tile: 832}"},
		{"count", "", "%targets i32" + n, "%n f32[] = count(%targets)"},
	}
	for _, fn := range []string{"gelu", "gelu_tanh", "relu", "relu2", "silu"} {
		all = append(all,
			opCase{"act " + fn, "", "%x T" + x, "%y T" + x + " = act(%x) {fn: \"" + fn + "\"}"},
			opCase{"act_grad " + fn, "", "%dy T" + x + ", %x T" + x, "%dx T" + x + " = act_grad(%dy, %x) {fn: \"" + fn + "\"}"},
			opCase{"glu " + fn, "", "%g T" + x + ", %u T" + x, "%y T" + x + " = glu(%g, %u) {fn: \"" + fn + "\"}"},
			opCase{"glu_grad " + fn, "", "%dy T" + x + ", %g T" + x + ", %u T" + x, "%dg T" + x + ", %du T" + x + " = glu_grad(%dy, %g, %u) {fn: \"" + fn + "\"}"})
	}
	for _, kind := range []string{"layernorm", "rmsnorm"} {
		k, into, bias := 2, "into @w, @b", vector("b", cols)
		if kind == "rmsnorm" {
			k, into, bias = 1, "into @w", ""
		}
		all = append(all,
			opCase{kind + "_grad", vector("w", cols) + bias, "%dy T" + x + ", %x T" + x + ", %s f32" + stats(k),
				"%dx T" + x + " = " + kind + "_grad(%dy, %x, @w, %s, _) " + into + " {eps: 0.01}"},
			opCase{kind + "_grad with residual", vector("w", cols) + bias, "%dy T" + x + ", %x T" + x + ", %s f32" + stats(k) + ", %r T" + x,
				"%dx T" + x + " = " + kind + "_grad(%dy, %x, @w, %s, %r) " + into + " {eps: 0.01}"})
	}
	return all
}

// heads are cases of ops on heads of some width.
func headCases(rows, heads, width int) []opCase {
	x := fmt.Sprintf("[%d,%d]", rows, heads*width)
	n := fmt.Sprintf("[%d]", rows)
	w := fmt.Sprintf("param @w f32[%d] %s\n", width, normal)
	all := []opCase{
		{"rmsnorm of heads", w, "%x T" + x, fmt.Sprintf("%%y T%s, %%s f32[%d,%d] = rmsnorm(%%x, @w) {eps: 0.01, group: %d, offset: 1.0}", x, rows, heads, width)},
		{"layernorm of heads", w, "%x T" + x, fmt.Sprintf("%%y T%s, %%s f32[%d,%d] = layernorm(%%x, @w, _) {eps: 0.01, group: %d}", x, rows, 2*heads, width)},
		{"rmsnorm_grad of heads", w, fmt.Sprintf("%%dy T%s, %%x T%s, %%s f32[%d,%d]", x, x, rows, heads),
			fmt.Sprintf("%%dx T%s = rmsnorm_grad(%%dy, %%x, @w, %%s, _) into @w {eps: 0.01, group: %d, offset: 1.0}", x, width)},
		{"rope", "", "%x T" + x + ", %positions i32" + n, fmt.Sprintf("%%y T%s = rope(%%x, %%positions) {fraction: 1.0, head_dim: %d, heads: %d, max: %d, theta: 100.0}", x, width, heads, rows+2)},
		{"rope inverse", "", "%x T" + x + ", %positions i32" + n, fmt.Sprintf("%%y T%s = rope(%%x, %%positions) {fraction: 1.0, head_dim: %d, heads: %d, inverse: true, max: %d, theta: 100.0}", x, width, heads, rows+2)},
	}
	if width%4 == 0 {
		all = append(all, opCase{"rope yarn interleaved half", "", "%x T" + x + ", %positions i32" + n,
			fmt.Sprintf("%%y T%s = rope(%%x, %%positions) {attention_factor: 1.3, beta_fast: 4.0, beta_slow: 1.0, factor: 2.0, fraction: 0.5, head_dim: %d, heads: %d, interleaved: true, max: %d, original: 4, scaling: \"yarn\", theta: 100.0}", x, width, heads, rows+2)})
	}
	return all
}

// tile is the type that ir gives the tile of a head loss.
func tile(rows, vocab int) string { return fmt.Sprintf("[%d,%d]", tileRows(rows, vocab, 1<<22), vocab) }

// tileOf is tile where a target wants so many logits: rows are whole cache lines.
func tileOf(rows, vocab, most int) string {
	return fmt.Sprintf("[%d,%d]", tileRows(rows, vocab, most), (vocab+63)/64*64)
}

func tileRows(rows, vocab, most int) int {
	per := max(64, most/vocab)
	tiles := max(1, (rows+per-1)/per)
	return (rows + tiles - 1) / tiles
}

// parse reads a case with activations of a type.
func (c opCase) parse(t *testing.T, d ir.DType, cols int) *ir.Func {
	t.Helper()
	replace := strings.NewReplacer(" T[", " "+string(d)+"[")
	results, _, found := strings.Cut(c.op, " = ")
	var names []string
	if found {
		for _, r := range strings.Split(results, ", %") {
			name, _, _ := strings.Cut(r, " ")
			names = append(names, "%"+strings.TrimPrefix(name, "%"))
		}
	}
	text := fmt.Sprintf("dims V=%d\n%sfunc f(%s) {\n  %s\n", c.vocabulary(cols), c.params, replace.Replace(c.inputs), replace.Replace(c.op))
	if len(names) == 0 { // a function returns something
		name, _, _ := strings.Cut(c.inputs, " ")
		names = []string{name}
	}
	text += "  return " + strings.Join(names, ", ") + "\n"
	f, err := parser.IR("case", text+"}\n")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return f
}
