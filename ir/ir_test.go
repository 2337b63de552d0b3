package ir_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec/spectest"
)

func TestIndices(t *testing.T) {
	for _, c := range []struct {
		loop  ir.Loop
		outer int
		want  []int
	}{
		{ir.Loop{From: 2, To: 5, Step: 1}, 0, []int{2, 3, 4}},
		{ir.Loop{From: 2, To: 5, Step: 1, Reverse: true}, 0, []int{4, 3, 2}},
		{ir.Loop{From: 0, To: 5, Step: 2}, 0, []int{0, 2, 4}},
		{ir.Loop{From: 0, To: 5, Step: 2, Reverse: true}, 0, []int{4, 2, 0}},
		{ir.Loop{From: 0, To: 2, Step: 1, Within: "s", Limit: 5}, 2, []int{2, 3}},
		{ir.Loop{From: 0, To: 2, Step: 1, Within: "s", Limit: 5}, 4, []int{4}},
		{ir.Loop{From: 0, To: 2, Step: 1, Within: "s", Limit: 5, Reverse: true}, 2, []int{3, 2}},
		{ir.Loop{From: 3, To: 3, Step: 1}, 0, nil},
	} {
		got := c.loop.Indices(c.outer)
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v at %d: %v, want %v", c.loop, c.outer, got, c.want)
		}
		if c.loop.Within != "" {
			continue
		}
		if n := c.loop.Iterations(); n != len(got) {
			t.Errorf("%+v: %d iterations, want %d", c.loop, n, len(got))
		}
		for k, i := range got {
			if n := c.loop.Iteration(i); n != k {
				t.Errorf("%+v: index %d is iteration %d, want %d", c.loop, i, n, k)
			}
		}
	}
}

func TestMember(t *testing.T) {
	for _, c := range []struct {
		param ir.Param
		want  string
	}{
		{ir.Param{Name: "layers.q.weight", Axis: "layers"}, "layers.3.q.weight"},
		{ir.Param{Name: "layers.2-8.q.weight", Axis: "layers"}, "layers.3.q.weight"},
		{ir.Param{Name: "layers.k_cache", Axis: "layers"}, "layers.3.k_cache"},
		{ir.Param{Name: "final_norm.weight"}, "final_norm.weight"},
	} {
		if got := c.param.Member(3); got != c.want {
			t.Errorf("%s: %s, want %s", c.param.Name, got, c.want)
		}
	}
}

func TestDims(t *testing.T) {
	h, g := ir.Dim{Expr: "H*E", Size: 8}, ir.Dim{Expr: "G*E", Size: 4}
	for _, c := range []struct {
		dims []ir.Dim
		want ir.Dim
	}{
		{[]ir.Dim{h, g, g}, ir.Dim{Expr: "H*E+2*G*E", Size: 16}},
		{[]ir.Dim{h, {Expr: "3", Size: 3}, {Expr: "2", Size: 2}}, ir.Dim{Expr: "H*E+5", Size: 13}},
		{[]ir.Dim{{Expr: "A+B", Size: 5}, {Expr: "A+B", Size: 5}}, ir.Dim{Expr: "2*(A+B)", Size: 10}},
	} {
		if got := ir.SumDims(c.dims); got != c.want {
			t.Errorf("%v: %v, want %v", c.dims, got, c.want)
		}
	}
	for _, d := range []ir.Dim{h, {Expr: "7", Size: 7}} {
		if got, err := ir.ParseDim(d.Attr()); err != nil || got != d {
			t.Errorf("%v: %v, %v", d, got, err)
		}
	}
	for _, bad := range []string{"", "H*E", "H*E=", "H*E=-1", "H*E=2.5"} {
		if d, err := ir.ParseDim(bad); err == nil {
			t.Errorf("%q is %v", bad, d)
		}
	}
}

func TestTargets(t *testing.T) {
	for i, target := range ir.Targets {
		if ir.TargetNamed(target.Name) != &ir.Targets[i] || len(target.Types) == 0 || target.FLOPs <= 0 || target.Bandwidth <= 0 {
			t.Errorf("%+v", target)
		}
	}
	if ir.TargetNamed("sm_1") != nil {
		t.Error("there is an sm_1")
	}
	if h := ir.TargetNamed("sm_90a"); !h.Has("tma") || h.Has("amx") {
		t.Error("features of sm_90a")
	}
}

func TestEvalWantsItsInputs(t *testing.T) {
	f, err := parser.IR("f", "dims A=2\nfunc f(%x f32[A]) {\n%y f32[A] = scale(%x) {by: 2.0}\nreturn %y\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ir.Eval(f, nil, ir.NewState()); err == nil || !strings.Contains(err.Error(), "f: no input x") {
		t.Errorf("got %v", err)
	}
}

const layout = `
model:
  preset: gpt2
  vocab_size: 5
  hidden_size: 4
  num_layers: 2
  num_heads: 1
  intermediate_size: 3
  max_position_embeddings: 3
  bias: {qkv: true, output: false, mlp: false}
tokenizer: tokenizer.json
train: {batch: 1}
`

// TestWeightTable checks one table number by number: weights that decay first, each family by layer, packed weights
// without a gap, others where a cache line begins.
func TestWeightTable(t *testing.T) {
	s, err := parser.Parse("layout.yaml", []byte(layout))
	if err != nil {
		t.Fatal(err)
	}
	f := ir.Build(s, "train")
	if err := passes.Run(f, passes.OptionsFor(s, ir.TargetNamed("cpu")), "", nil); err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name   string
		Offset int
		Decay  bool
		File   string
		Row    int
	}
	var got []row
	for _, w := range ir.WeightTable(s, f) {
		got = append(got, row{w.Name, w.Offset, w.Decay, w.File, w.FileRow})
	}
	attn := func(layer string) string { return "transformer.h." + layer + ".attn.c_attn" }
	mlp := func(layer string) string { return "transformer.h." + layer + ".mlp." }
	want := []row{
		{"wte", 0, true, "transformer.wte.weight", 0},
		{"wpe", 32, true, "transformer.wpe.weight", 0},
		{"layers.0.o.weight", 48, true, "transformer.h.0.attn.c_proj.weight", 0},
		{"layers.1.o.weight", 64, true, "transformer.h.1.attn.c_proj.weight", 0},
		{"layers.0.up.weight", 80, true, mlp("0") + "c_fc.weight", 0},
		{"layers.1.up.weight", 96, true, mlp("1") + "c_fc.weight", 0},
		{"layers.0.down.weight", 112, true, mlp("0") + "c_proj.weight", 0},
		{"layers.1.down.weight", 128, true, mlp("1") + "c_proj.weight", 0},
		{"layers.0.q.weight", 144, true, attn("0") + ".weight", 0},
		{"layers.0.k.weight", 160, true, attn("0") + ".weight", 4},
		{"layers.0.v.weight", 176, true, attn("0") + ".weight", 8},
		{"layers.1.q.weight", 192, true, attn("1") + ".weight", 0},
		{"layers.1.k.weight", 208, true, attn("1") + ".weight", 4},
		{"layers.1.v.weight", 224, true, attn("1") + ".weight", 8},
		{"layers.0.attn_norm.weight", 240, false, "transformer.h.0.ln_1.weight", 0},
		{"layers.1.attn_norm.weight", 256, false, "transformer.h.1.ln_1.weight", 0},
		{"layers.0.attn_norm.bias", 272, false, "transformer.h.0.ln_1.bias", 0},
		{"layers.1.attn_norm.bias", 288, false, "transformer.h.1.ln_1.bias", 0},
		{"layers.0.mlp_norm.weight", 304, false, "transformer.h.0.ln_2.weight", 0},
		{"layers.1.mlp_norm.weight", 320, false, "transformer.h.1.ln_2.weight", 0},
		{"layers.0.mlp_norm.bias", 336, false, "transformer.h.0.ln_2.bias", 0},
		{"layers.1.mlp_norm.bias", 352, false, "transformer.h.1.ln_2.bias", 0},
		{"final_norm.weight", 368, false, "transformer.ln_f.weight", 0},
		{"final_norm.bias", 384, false, "transformer.ln_f.bias", 0},
		{"layers.0.q.bias", 400, false, attn("0") + ".bias", 0},
		{"layers.0.k.bias", 404, false, attn("0") + ".bias", 4},
		{"layers.0.v.bias", 408, false, attn("0") + ".bias", 8},
		{"layers.1.q.bias", 416, false, attn("1") + ".bias", 0},
		{"layers.1.k.bias", 420, false, attn("1") + ".bias", 4},
		{"layers.1.v.bias", 424, false, attn("1") + ".bias", 8},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWeightTableHasEveryWeight checks tables of random specs: every weight once, none over another, as many elements as
// the model has, the same for all functions of a model that see packed weights.
func TestWeightTableHasEveryWeight(t *testing.T) {
	for seed := range uint64(60) {
		s, err := parser.Parse("random.yaml", []byte(spectest.Random(9000+seed)))
		if err != nil {
			t.Fatal(err)
		}
		tables := map[string][]ir.Weight{}
		for _, job := range []string{"train", "logits"} {
			f := ir.Build(s, job)
			if err := passes.Run(f, passes.OptionsFor(s, ir.TargetNamed("cpu")), "fuse-gate-up", nil); err != nil {
				t.Fatal(err)
			}
			tables[job] = ir.WeightTable(s, f)
		}
		if diff := cmp.Diff(tables["train"], tables["logits"]); diff != "" {
			t.Errorf("seed %d: functions differ in their weights:\n%s", seed, diff)
		}
		end, elems, decays := 0, 0, true
		names := map[string]bool{}
		for _, w := range tables["train"] {
			if w.Offset < end || w.Decay && !decays || names[w.Name] || w.File == "" {
				t.Errorf("seed %d: %+v after %d elements", seed, w, end)
			}
			end, decays, names[w.Name] = w.Offset+w.Size(), w.Decay, true
			elems += w.Size()
		}
		if elems != s.Model.Parameters() {
			t.Errorf("seed %d: %d elements in the table, the model has %d", seed, elems, s.Model.Parameters())
		}
	}
}
