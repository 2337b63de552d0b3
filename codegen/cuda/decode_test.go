package cudagen_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
)

// cachedCase is attention over a cache whose slots hold sequences of different lengths already.
type cachedCase struct {
	job                                  string // decode, prefill, or any other
	rows, heads, kvHeads, width, context int
	more                                 string // attributes
}

func (c cachedCase) text(d ir.DType) string {
	slots := c.rows + 1
	return fmt.Sprintf(`dims N<=%d S=%d P=%d
cache @k_cache f32[S,P,%d]
cache @v_cache f32[S,P,%d]
func %s(%%q %s[N,%d], %%k %s[N,%d], %%v %s[N,%d], %%positions i32[N], %%slots i32[N]) {
  %%o %s[N,%d] = attention_cached(%%q, %%k, %%v, @k_cache, @v_cache, %%positions, %%slots) {%s, head_dim: %d, heads: %d, kv_heads: %d, scale: 0.3}
  return %%o
}
`, c.rows, slots, c.context, c.kvHeads*c.width, c.kvHeads*c.width, c.job, d, c.heads*c.width, d, c.kvHeads*c.width, d, c.kvHeads*c.width,
		d, c.heads*c.width, c.more, c.width, c.heads, c.kvHeads)
}

// fill puts lengths and contents of the sequences into inputs and caches.
func (c cachedCase) fill(in map[string]*ir.Tensor, state *ir.State, d ir.DType, r *rand.Rand) {
	slots, cols := c.rows+1, c.kvHeads*c.width
	keys, values := ir.NewTensor(slots, c.context, cols), ir.NewTensor(slots, c.context, cols)
	for i := range keys.Data {
		keys.Data[i], values.Data[i] = math.NaN(), math.NaN()
	}
	hold := func(slot, length int) {
		for i := slot * c.context * cols; i < (slot*c.context+length)*cols; i++ {
			keys.Data[i], values.Data[i] = ir.Round(r.NormFloat64(), d), ir.Round(r.NormFloat64(), d)
		}
	}
	positions, order := in["positions"].Data, r.Perm(slots)
	for n := range positions {
		slot, length := order[n], []int{c.context - 1, 0, 17, c.context / 2, 63}[n%5]
		switch {
		case c.job == "prefill":
			slot, length = order[0], c.context-c.rows+n
		case c.job != "decode" && n == 1: // two of one slot, the later one first
			slot, length = order[0], int(positions[0])-1
		}
		if n == 0 || c.job != "prefill" && slot != order[0] {
			hold(slot, length)
		}
		positions[n], in["slots"].Data[n] = float64(length), float64(slot)
	}
	state.Caches["k_cache"], state.Caches["v_cache"] = keys, values
}

var cachedCases = []cachedCase{
	{"decode", 3, 4, 4, 64, 300, `mask: ["causal"]`},
	{"decode", 4, 8, 2, 32, 1100, `mask: ["causal & window(40)"], softcap: 2.0`},
	{"decode", 2, 20, 1, 24, 900, `alibi: true, mask: ["causal & (window(9) | stride(16))"]`},
	{"decode", 2, 2, 1, 33, 700, `mask: ["prefix(40)"]`},
	{"decode", 2, 2, 1, 256, 600, `mask: ["causal"]`},
	{"other", 3, 4, 2, 16, 600, `mask: ["window(20)"]`},
	{"prefill", 70, 4, 2, 64, 200, `mask: ["causal"]`},
	{"prefill", 33, 3, 1, 24, 200, `alibi: true, mask: ["prefix(180) & (window(50) | global(3))"], softcap: 1.5`},
	{"prefill", 40, 2, 2, 136, 120, `mask: ["causal"]`},
	{"prefill", 20, 2, 1, 31, 100, `mask: ["causal & window(30)"]`},
}

// TestGeneration holds attention over a cache, and products of few rows, to ir.Eval.
func TestGeneration(t *testing.T) {
	for _, d := range []ir.DType{ir.F32, ir.BF16, ir.F16} {
		seen := covered{}
		for i, c := range cachedCases {
			if testing.Short() && !seen.adds(t, generationFunc(t, c.text(d)), d, "sm_80") {
				continue
			}
			t.Run(fmt.Sprintf("%s %+v", d, c), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seedOf(uint64(i)), 1))
				generationCase(t, fmt.Sprintf("cached-%s-%d.fatbin", d, i), c.text(d), d, 3, func(in map[string]*ir.Tensor, state *ir.State) { c.fill(in, state, d, r) })
			})
		}
		for i, c := range linearCases(d) {
			if testing.Short() && !seen.adds(t, generationFunc(t, c), d, "sm_80") {
				continue
			}
			roundings := 1.02
			if strings.Contains(c, "%pre\n") { // it is rounded before the activation, a square
				roundings = 3.1
			}
			t.Run(fmt.Sprintf("%s linear %d", d, i), func(t *testing.T) {
				generationCase(t, fmt.Sprintf("linear-%s-%d.fatbin", d, i), c, d, roundings, func(map[string]*ir.Tensor, *ir.State) {})
			})
		}
	}
}

// linearCases are products of few rows: their numbers choose every tile.
func linearCases(d ir.DType) (all []string) {
	acts := []string{"", "gelu", "gelu_tanh", "relu", "relu2", "silu"}
	for i, s := range [][3]int{{1, 512, 48}, {1, 2048, 33}, {7, 96, 16}, {8, 72, 5000}, {16, 520, 100}, {20, 64, 200}, {33, 128, 1100}, {17, 64, 4000}, {64, 192, 64}, {3, 31, 17}, {9, 130, 2200}} {
		rows, in, out := s[0], s[1], s[2]
		bias, residual, result, inputs, attrs := "_", "_", "", "", `kernel: "small_linear"`
		params := fmt.Sprintf("param @w f32[%d,%d] {init: \"normal\", scale: 1.0}\n", out, in)
		if i%2 == 0 {
			params, bias = params+fmt.Sprintf("param @b f32[%d] {init: \"normal\", scale: 1.0}\n", out), "@b"
		}
		if act := acts[i%6]; act != "" {
			attrs, result = `act: "`+act+`", `+attrs, fmt.Sprintf(", %%pre %s[N,%d]", d, out)
		} else {
			inputs, residual = fmt.Sprintf(", %%r %s[N,%d]", d, out), "%r"
		}
		results := "%y"
		if i == 4 {
			results = "%y, %pre"
		}
		all = append(all, fmt.Sprintf("dims N<=%d\n%sfunc decode(%%x %s[N,%d]%s) {\n  %%y %s[N,%d]%s = linear(%%x, @w, %s, %s) {%s}\n  return %s\n}\n",
			rows, params, d, in, inputs, d, out, result, bias, residual, attrs, results))

		params, bias = fmt.Sprintf("param @w f32[%d,%d] {init: \"normal\", scale: 1.0}\n", 2*out, in), "_"
		if i%2 == 1 {
			params, bias = params+fmt.Sprintf("param @b f32[%d] {init: \"normal\", scale: 1.0}\n", 2*out), "@b"
		}
		all = append(all, fmt.Sprintf("dims N<=%d\n%sfunc decode(%%x %s[N,%d]) {\n  %%y %s[N,%d], %%pre %s[N,%d] = linear_glu(%%x, @w, %s) {fn: %q, kernel: \"small_linear\"}\n  return %%y\n}\n",
			rows, params, d, in, d, out, d, 2*out, bias, acts[1+i%5]))
	}
	return all
}

// generationFunc reads a function and takes it through the passes that kernels need.
func generationFunc(t *testing.T, text string) *ir.Func {
	t.Helper()
	f, err := parser.IR("case", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return generationFuncOf(t, f, "sm_80")
}

// generationFuncOf takes a function through the passes that kernels need.
func generationFuncOf(t *testing.T, f *ir.Func, arch string) *ir.Func {
	t.Helper()
	if err := ir.Verify(f); err != nil {
		t.Fatalf("%v\n%s", err, ir.Print(f))
	}
	for _, p := range []string{"select-attention", "plan-memory"} {
		if _, err := passes.Named(p).Run(f, passes.Options{Target: ir.TargetNamed(arch)}); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// lostInSums is how far off float32 sums may put each result: 1e-5 of it, or of 1 where it is smaller; and for a gated activation, that of
// gate and up times its derivatives by them.
func lostInSums(t *testing.T, f *ir.Func, in map[string]*ir.Tensor, state *ir.State, want []*ir.Tensor) (lost []*ir.Tensor) {
	const of = 1e-5
	for _, w := range want {
		l := ir.NewTensor(w.Shape...)
		for i, x := range w.Data {
			l.Data[i] = of * max(math.Abs(x), 1)
		}
		lost = append(lost, l)
	}
	op := f.Body.Ops[0]
	if op.Kind != "linear_glu" {
		return lost
	}
	results := f.Results
	f.Results = op.Results
	both, err := ir.Eval(f, in, state)
	f.Results = results
	if err != nil {
		t.Fatal(err)
	}
	gate, up, ones := columns(both[1], 0, 2), columns(both[1], 1, 2), ir.NewTensor(both[0].Shape...)
	for i := range ones.Data {
		ones.Data[i] = 1
	}
	by := elementwise("glu_grad", op.Str("fn"), ones, gate, up)
	for i := range ones.Data {
		lost[0].Data[i] = max(lost[0].Data[i], of*(max(math.Abs(gate.Data[i]), 1)*math.Abs(by[0].Data[i])+max(math.Abs(up.Data[i]), 1)*math.Abs(by[1].Data[i])))
	}
	return lost
}

// generationCase runs a function and compares. A result may be off by so many roundings of its own, or of 1 where it is smaller,
// beside what float32 sums lose.
func generationCase(t *testing.T, name, text string, d ir.DType, roundings float64, fill func(map[string]*ir.Tensor, *ir.State)) {
	f := generationFunc(t, text)
	code, err := cudagen.Generate(cudagen.Program{Spec: "case.yaml", Jobs: []string{f.Name}, Funcs: map[string]*ir.Func{f.Name: f}, Element: d})
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, name, code)
	in, state := irtest.Draw(f, seedOf(1))
	round(f, in, state, d)
	fill(in, state)
	got, err := device.Run(f, code, image, in, state, rowsOf(f))
	if err != nil {
		t.Fatal(err)
	}
	want, err := ir.Eval(f, in, state)
	if err != nil {
		t.Fatal(err)
	}
	lost := lostInSums(t, f, in, state, want)
	rounding := map[ir.DType]float64{ir.F32: 0, ir.BF16: 0x1p-8, ir.F16: 0x1p-11}[d]
	for r := range want {
		worst, at := 0.0, -1
		for i, x := range want[r].Data {
			off := math.Abs(got.Results[r].Data[i]-x) / (roundings*rounding*max(math.Abs(x), 1) + lost[r].Data[i])
			if !(off <= worst) {
				worst, at = off, i
			}
		}
		gotest.Off(t, worst)
		if !(worst <= 1) {
			t.Errorf("result %d: element %d of %v is %v, want %v: off by %.3g times what is allowed\n%s", r, at, want[r].Shape, got.Results[r].Data[at], want[r].Data[at],
				worst, strings.TrimSpace(text))
		}
	}
}
