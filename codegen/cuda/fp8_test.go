package cudagen_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
)

// fp8Cases are products of operands in 8 bits, and what makes these.
func fp8Cases() []opCase {
	all := []opCase{
		{"amax", "", "%x bf16[48,144]", "%amax f32[1] = amax(%x)"},
	}
	for _, s := range [][3]int{{16, 16, 16}, {48, 32, 144}, {144, 272, 80}} {
		m, n, k := s[0], s[1], s[2]
		scales := ", %sx f32[1], %sw f32[1]"
		y := fmt.Sprintf("%%y bf16[%d,%d] = linear_fp8", m, n)
		bias := fmt.Sprintf("param @b f32[%d] %s\n", n, normal)
		for _, types := range [][2]string{{"e4m3", "e4m3"}, {"e5m2", "e4m3"}} {
			inputs := fmt.Sprintf("%%x %s[%d,%d], %%w %s[%d,%d]", types[0], m, k, types[1], n, k)
			name := fmt.Sprintf(" of %s %v", types[0], s)
			all = append(all,
				opCase{"linear_fp8" + name, "", inputs + scales, y + "(%x, %w, %sx, %sw, _, _)"},
				opCase{"linear_fp8 with bias" + name, bias, inputs + scales, y + "(%x, %w, %sx, %sw, @b, _)"},
				opCase{"linear_fp8 with bias and residual" + name, bias, inputs + fmt.Sprintf(", %%r bf16[%d,%d]", m, n) + scales, y + "(%x, %w, %sx, %sw, @b, %r)"},
				opCase{"linear_dw_fp8" + name, fmt.Sprintf("param @g f32[%d,%d] %s\n", m, n, normal), inputs + scales, "linear_dw_fp8(%x, %w, %sx, %sw) into @g"})
		}
	}
	return all
}

// TestFP8 holds products of operands in 8 bits, and what makes these, to ir.Eval.
func TestFP8(t *testing.T) {
	var tests []opTest
	for _, c := range fp8Cases() {
		f := generationFuncOf(t, c.parse(t, ir.BF16, 0), "sm_90a")
		f.Name = fmt.Sprintf("f%d", len(tests))
		tests = append(tests, opTest{c.name, f, uint64(len(tests))})
	}
	runOps(t, "fp8", ir.BF16, "sm_90a", tests)
}

// quantizeText finds the largest magnitude of a value and quantises it: one whose rows are part of wider ones, and a parameter, by that
// of the value, so that numbers saturate.
func quantizeText(rows, cols, beside int, to string) string {
	q := func(name, x string) string {
		return fmt.Sprintf(`  %%amax%[1]s f32[1] = amax(%[2]s)
  %%q%[1]s %[5]s[%[3]d,%[4]d], %%t%[1]s %[5]s[%[4]d,%[3]d], %%s%[1]s f32[1] = quantize(%[2]s, %%amaxX) {to: "%[5]s"}
`, name, x, rows, cols, to)
	}
	return fmt.Sprintf(`dims V=7
param @w f32[%[1]d,%[2]d] %[6]s
func f(%%x bf16[%[1]d,%[3]d]) {
  %%y bf16[%[1]d,%[3]d] = scale(%%x) {by: 1.0}
  %%left bf16[%[1]d,%[4]d], %%right bf16[%[1]d,%[2]d] = split(%%y) {parts: ["%[4]d", "%[2]d"]}
%[5]s  %%all bf16[%[1]d,%[3]d] = scale(%%y) {by: 1.0}
  return %%amaxX, %%qX, %%tX, %%sX, %%amaxW, %%qW, %%tW, %%sW, %%left, %%all
}
`, rows, cols, cols+beside, beside, q("X", "%right")+q("W", "@w"), normal)
}

// numbers are what quantize meets: of all magnitudes, none, and not finite.
var numbers = map[string]func(r *rand.Rand, i int) float64{
	"normal": func(r *rand.Rand, _ int) float64 { return r.NormFloat64() },
	"wide":   func(r *rand.Rand, _ int) float64 { return math.Ldexp(r.NormFloat64(), r.IntN(60)-50) },
	"zeros":  func(*rand.Rand, int) float64 { return 0 },
	"tiny":   func(r *rand.Rand, _ int) float64 { return math.Ldexp(r.NormFloat64(), -130) },
	"huge":   func(r *rand.Rand, _ int) float64 { return math.Ldexp(r.Float64()*2-1, 127) },
	"one large": func(r *rand.Rand, i int) float64 {
		return map[bool]float64{true: -1e30, false: r.NormFloat64()}[i == 40]
	},
	"NaN": func(r *rand.Rand, i int) float64 {
		return map[bool]float64{true: math.NaN(), false: r.NormFloat64()}[i == 40]
	},
	"infinity": func(r *rand.Rand, i int) float64 {
		return map[bool]float64{true: math.Inf(-1), false: r.NormFloat64()}[i == 40]
	},
	"the most": func(_ *rand.Rand, i int) float64 { return []float64{448, -448, 57344, 2}[i%4] },
	"between":  func(_ *rand.Rand, i int) float64 { return float64(1+i%255) / 256 }, // halves between numbers of 8 bits, too
}

// TestQuantize holds quantize to ir.Eval, bit for bit.
func TestQuantize(t *testing.T) {
	shapes := [][3]int{{16, 16, 3}, {48, 144, 8}, {272, 128, 4}, {128, 400, 16}}
	p := cudagen.Program{Spec: "fp8.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 64, DecayedFloats: 32}
	for _, to := range []string{"e4m3", "e5m2"} {
		for _, s := range shapes {
			f := generationFunc(t, quantizeText(s[0], s[1], s[2], to))
			f.Name = fmt.Sprintf("f%d", len(p.Jobs))
			p.Jobs = append(p.Jobs, f.Name)
			p.Funcs[f.Name] = f
		}
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "quantize.fatbin", code)
	for n, job := range p.Jobs {
		f := p.Funcs[job]
		for name, draw := range numbers {
			t.Run(fmt.Sprint(job, " ", name), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(n), 7))
				x, w := ir.NewTensor(f.Input("x").Type.Shape()...), ir.NewTensor(f.Param("w").Type.Shape()...)
				for _, v := range []*ir.Tensor{x, w} {
					for i := range v.Data {
						v.Data[i] = ir.Round(draw(r, i), ir.BF16)
					}
				}
				in, state := map[string]*ir.Tensor{"x": x}, ir.NewState()
				state.Weights["w"] = w
				want, err := ir.Eval(f, in, state)
				if err != nil {
					t.Fatal(err)
				}
				got, err := device.Run(f, code, image, in, state, rowsOf(f))
				if err != nil {
					t.Fatal(err)
				}
				for i, v := range f.Results {
					for k, want := range want[i].Data {
						have := got.Results[i].Data[k]
						if have != want && !(math.IsNaN(have) && math.IsNaN(want)) || math.Signbit(have) != math.Signbit(want) && !math.IsNaN(want) {
							t.Fatalf("element %d of %s is %v, want %v", k, v.Name, have, want)
						}
					}
				}
			})
		}
	}
}

// TestQuantizeFits: nvcc compiles what quantises without spilling registers.
func TestQuantizeFits(t *testing.T) {
	if _, err := nvcc.Find(t.Context()); err != nil {
		t.Skip(err)
	}
	files := map[string][]byte{}
	for i, to := range []string{"e4m3", "e5m2"} {
		f := generationFunc(t, quantizeText(1024, 1024, 16, to))
		f.Name = fmt.Sprintf("f%d", i)
		for _, s := range generate(t, ir.BF16, "sm_90a", []opTest{{f.Name, f, 0}}).Sources {
			files[s.Name] = s.Data
		}
	}
	gotest.CompileNVCC(t, files)
}
