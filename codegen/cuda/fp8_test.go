package cudagen_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
)

// fp8Cases are products of operands in 8 bits, and what makes these.
func fp8Cases() []opCase {
	all := []opCase{
		{"amax", "", "%x bf16[48,144]", "%amax f32[1] = amax(%x, _, _)"},
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
		return fmt.Sprintf(`  %%amax%[1]s f32[1] = amax(%[2]s, _, _)
  %%q%[1]s %[5]s[%[3]d,%[4]d], %%t%[1]s %[5]s[%[4]d,%[3]d], %%s%[1]s f32[1] = quantize(%[2]s, %%amaxX, _, _) {to: "%[5]s"}
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

// TestQuantizeFits: nvcc compiles what quantises without spilling registers, whatever the source.
func TestQuantizeFits(t *testing.T) {
	if _, err := nvcc.Find(t.Context()); err != nil {
		t.Skip(err)
	}
	var tests []opTest
	add := func(text string) {
		f := generationFunc(t, text)
		f.Name = fmt.Sprintf("f%d", len(tests))
		tests = append(tests, opTest{f.Name, f, 0})
	}
	for _, to := range []string{"e4m3", "e5m2"} {
		add(quantizeText(1024, 1024, 16, to))
		for of := range ir.Sources {
			if of != "" {
				for _, fn := range []string{"gelu", "gelu_tanh", "silu"} {
					text := sourceText(of, fn, 1024, 1024, to)
					add(text)
					start := strings.Index(text, ", %y bf16")
					alone := strings.NewReplacer(text[start:start+strings.Index(text[start:], " =")], "", ", %y, %all", ", %all", " into @bias", "", "keep: true, ", "")
					add(alone.Replace(text))
				}
			}
		}
	}
	files := map[string][]byte{}
	for _, s := range generate(t, ir.BF16, "sm_90a", tests).Sources {
		files[s.Name] = s.Data
	}
	gotest.CompileNVCC(t, files)
}

// sourceText quantises a source whose operands are columns of one value, as gate and up are, with a history.
func sourceText(of, fn string, rows, cols int, to string) string {
	s := ir.Sources[of]
	width := cols
	if s.Doubles {
		width *= 2
	}
	operands := [3]string{"%a", "_", "_"}
	copy(operands[:], []string{"%a", "%b", "%c"}[:s.Operands])
	return fmt.Sprintf(`dims V=7
param @bias f32[%[4]d] %[11]s
func f(%%x bf16[%[1]d,%[3]d]) {
  turn_amax() {slots: 3}
  %%wide bf16[%[1]d,%[3]d] = scale(%%x) {by: 1.0}
  %%a bf16[%[1]d,%[2]d], %%b bf16[%[1]d,%[2]d], %%c bf16[%[1]d,%[2]d] = split(%%wide) {parts: ["%[2]d", "%[2]d", "%[2]d"]}
  %%amax f32[1] = amax(%[5]s, %[6]s, %[7]s) {fn: "%[9]s", history: 2, of: "%[8]s"}
  %%q %[10]s[%[1]d,%[4]d], %%t %[10]s[%[4]d,%[1]d], %%s f32[1], %%y bf16[%[1]d,%[4]d] = quantize(%[5]s, %%amax, %[6]s, %[7]s) into @bias {fn: "%[9]s", history: 2, keep: true, of: "%[8]s", to: "%[10]s"}
  %%all bf16[%[1]d,%[3]d] = scale(%%wide) {by: 1.0}
  return %%amax, %%s, %%q, %%t, %%y, %%all
}
`, rows, cols, 3*cols, width, operands[0], operands[1], operands[2], of, fn, to, normal)
}

// TestQuantizeSources holds what is computed on the way to 8 bits to ir.Eval, with and without a largest magnitude of a step before, in the
// first steps and in later ones: a number may come out as its neighbour where the source lies between two.
func TestQuantizeSources(t *testing.T) {
	p := cudagen.Program{Spec: "fp8.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 64, DecayedFloats: 32}
	for _, of := range slices.Sorted(maps.Keys(ir.Sources)) {
		for i, fn := range []string{"gelu_tanh", "silu", "relu2"} {
			if of == "" {
				continue
			}
			s := [][2]int{{48, 16}, {144, 80}, {32, 208}}[i]
			f := generationFunc(t, sourceText(of, fn, s[0], s[1], []string{"e4m3", "e5m2"}[i%2]))
			f.Name = fmt.Sprintf("%s_%s", of, fn)
			p.Jobs = append(p.Jobs, f.Name)
			p.Funcs[f.Name] = f
		}
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "quantize-sources.fatbin", code)
	for n, job := range p.Jobs {
		for _, h := range []struct {
			older, before float64
			turns         int
		}{{0, 0, 0}, {9, 0.75, 1}, {0, math.Inf(1), 2}, {9, 0.75, 8}, {3, math.NaN(), 8}, {0, 0, 8}} {
			t.Run(fmt.Sprint(job, " ", h), func(t *testing.T) {
				measures := h.turns < ir.MeasuredSteps
				f, r := p.Funcs[job], rand.New(rand.NewPCG(uint64(n), 5))
				in := map[string]*ir.Tensor{"x": ir.NewTensor(f.Input("x").Type.Shape()...)}
				for i := range in["x"].Data {
					in["x"].Data[i] = ir.Round(r.NormFloat64(), ir.BF16)
				}
				state, same := ir.NewState(), ir.NewState()
				width := f.Param("bias").Type.Elems()
				state.Weights["bias"], same.Weights["bias"] = ir.NewTensor(width), ir.NewTensor(width)
				state.Amax[2], same.Amax[2] = [2]float64{h.older, h.before}, [2]float64{h.older, h.before}
				state.Turns, same.Turns = h.turns, h.turns
				want, err := ir.Eval(f, in, state)
				if err != nil {
					t.Fatal(err)
				}
				got, err := device.Run(f, code, image, in, same, rowsOf(f))
				if err != nil {
					t.Fatal(err)
				}
				const slack = 1e-5
				for i, h := range [][2]float64{{got.Amax[2][1], state.Amax[2][1]}, {got.Results[0].Data[0], want[0].Data[0]}} {
					if !(math.Abs(h[0]-h[1]) <= slack*h[1]) && (i == 0 || measures) {
						t.Fatalf("a largest magnitude is %v, want %v", h[0], h[1])
					}
				}
				if got.Amax[2][0] != state.Amax[2][0] {
					t.Errorf("the magnitude of the step before is %v, want %v", got.Amax[2][0], state.Amax[2][0])
				}
				if got.Results[1].Data[0] != want[1].Data[0] {
					t.Fatalf("the scale is %v, want %v", got.Results[1].Data[0], want[1].Data[0])
				}
				for i, x := range state.Grads["bias"].Data {
					if y := got.Grads["bias"].Data[i]; !(math.Abs(y-x) <= slack*100*math.Max(1, math.Abs(x))) {
						t.Fatalf("the gradient of bias %d is %v, want %v", i, y, x)
					}
				}
				for i := 2; i < len(want); i++ {
					moved, d := 0, f.Results[i].Type.DType
					for k, x := range want[i].Data {
						y := got.Results[i].Data[k]
						if y == ir.Round(x, d) {
							continue
						}
						moved++
						if lo, hi := ir.Round(math.Min(x, y), d), ir.Round(math.Max(x, y), d); !(hi-lo <= math.Max(math.Abs(x)/4, 1.0/512)) {
							t.Fatalf("element %d of %s is %v, want %v", k, f.Results[i].Name, y, x)
						}
					}
					if moved > len(want[i].Data)/100 {
						t.Errorf("%d of %d elements of %s are others", moved, len(want[i].Data), f.Results[i].Name)
					}
				}
			})
		}
	}
}
