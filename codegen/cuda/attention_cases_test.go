package cudagen_test

import (
	"fmt"
	"strings"
)

// attentionAdder returns a function that appends a case of attention, and one of its gradient, to all. Every other gradient sums its columns, too.
func attentionAdder(all *[]opCase) func(name string, batch, t, heads, kv, width int, more string) {
	return func(name string, batch, t, heads, kv, width int, more string) {
		q, k := fmt.Sprintf("[%d,%d,%d]", batch, t, heads*width), fmt.Sprintf("[%d,%d,%d]", batch, t, kv*width)
		lse := fmt.Sprintf("[%d,%d,%d]", batch, t, heads)
		draws, seed := "_, _", ""
		if strings.Contains(more, "dropout") {
			draws, seed = "%seed, %step", ", %seed u64[], %step i32[]"
		}
		attrs := fmt.Sprintf("{%s, head_dim: %d, heads: %d, kv_heads: %d, scale: 0.3}", more, width, heads, kv)
		params, into := "", ""
		if len(*all)%4 == 0 {
			params, into = fmt.Sprintf("param @b f32[%d] %s\n", (heads+2*kv)*width, normal), " into @b"
		}
		*all = append(*all,
			opCase{"attention " + name, "", "%q T" + q + ", %k T" + k + ", %v T" + k + seed, "%o T" + q + ", %lse f32" + lse + " = attention(%q, %k, %v, " + draws + ") " + attrs},
			opCase{"attention_grad " + name, params, "%do T" + q + ", %q T" + q + ", %k T" + k + ", %v T" + k + ", %o T" + q + ", %lse f32" + lse + seed,
				"%dq T" + q + ", %dk T" + k + ", %dv T" + k + " = attention_grad(%do, %q, %k, %v, %o, %lse, " + draws + ")" + into + " " + attrs})
	}
}

// attentionCases are attention and its gradient: odd lengths and widths, shared heads, every pattern and option.
func attentionCases() []opCase {
	var all []opCase
	add := attentionAdder(&all)
	causal := `mask: ["causal"]`
	for _, t := range []int{129, 1, 31, 33, 64, 127} {
		add(fmt.Sprintf("T=%d", t), 2, t, 2, 2, 16, causal)
	}
	for _, width := range []int{8, 24, 64, 72, 80, 128} {
		add(fmt.Sprintf("width %d", width), 1, 70, 2, 1, width, causal)
	}
	add("width 3", 1, 33, 2, 1, 3, causal)
	for _, mask := range maskCases {
		add(mask, 1, 100, 4, 2, 16, `mask: ["`+mask+`"]`)
	}
	add("softcap", 2, 45, 2, 2, 16, causal+", softcap: 1.5")
	add("alibi", 2, 45, 6, 3, 16, "alibi: true, "+causal)
	add("dropout", 2, 45, 2, 2, 16, `dropout: 0.3, `+causal+`, stream: 5`)
	add("all", 2, 77, 6, 2, 24, `alibi: true, dropout: 0.2, mask: ["prefix(11) & (window(20) | global(3))"], softcap: 2.0, stream: 3`)
	return all
}

// hopperCases are those of attention that Hopper has kernels for, where a tile is 64 positions, and a block owns up to 192.
func hopperCases() []opCase {
	var all []opCase
	add := attentionAdder(&all)
	causal := `mask: ["causal"]`
	add("two extras", 2, 77, 6, 2, 56, `dropout: 0.2, mask: ["prefix(11) & window(20)"], softcap: 2.0, stream: 3`)
	for _, t := range []int{129, 1, 31, 64, 65} {
		add(fmt.Sprintf("T=%d", t), 2, t, 2, 2, 64, causal)
	}
	for _, width := range []int{40, 56, 72, 96} {
		add(fmt.Sprintf("width %d", width), 1, 70, 4, 2, width, causal)
	}
	add("more tiles than stages", 1, 257, 1, 1, 64, causal)
	add("three groups", 1, 200, 1, 1, 128, causal)
	add("shared heads", 1, 130, 3, 1, 64, causal)
	for _, mask := range maskCases {
		add(mask, 1, 150, 1, 1, 64, `mask: ["`+mask+`"]`)
	}
	add("tiles left out", 1, 300, 1, 1, 64, `mask: ["causal & (window(9) | global(3))"]`)
	for _, mask := range []string{"causal & window(30)", "causal & (window(2, block: 32) | stride(3, block: 16))"} {
		add(mask+" with dropout", 1, 80, 2, 1, 56, `dropout: 0.2, mask: ["`+mask+`"], stream: 3`)
	}
	for _, width := range []int{80, 128} { // where masks of three terms would not fit
		add(fmt.Sprintf("two terms, width %d", width), 1, 70, 2, 1, width, `mask: ["prefix(40) & window(33)"]`)
	}
	add("softcap", 1, 200, 1, 1, 64, causal+", softcap: 1.5")
	add("alibi", 2, 70, 6, 3, 48, "alibi: true, "+causal)
	add("alibi and dropout", 1, 70, 2, 1, 48, "alibi: true, dropout: 0.3, "+causal+", stream: 5")
	add("dropout", 2, 72, 2, 2, 64, `dropout: 0.3, `+causal+`, stream: 5`)
	return all
}

var maskCases = []string{
	"causal & window(7)", "window(5)", "causal & (window(4) | global(2) | stride(8))", "prefix(9)", "causal & window(2, block: 8)",
	"causal & stride(3)", "prefix(40) & window(33)", "causal & stride(2, block: 16)", "causal & (window(1, block: 32) | global(1, block: 32))",
	"window(9) & global(40)", // where most queries see nothing
}
