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
	"github.com/tfc-dev/tfc/parser"
)

// endTest is a product whose end quantises an activation, and one whose end quantises its gradient, by what the first kept; or the first
// alone, which then keeps nothing.
type endTest struct {
	fn                     string
	gated, bias, both      bool
	rows, in, inner, other int // P is [rows, inner] of in terms, or gate and up of so many columns; the gradient's product has other terms
}

func (x endTest) String() string {
	s := fmt.Sprintf("%s %d %d %d %d", x.fn, x.rows, x.in, x.inner, x.other)
	for _, has := range []struct {
		is   bool
		name string
	}{{x.gated, " gated"}, {x.bias, " with bias"}, {!x.both, " alone"}} {
		if has.is {
			s += has.name
		}
	}
	return s
}

// text is the function in ops whose ends quantise, or in those that each do one thing.
func (x endTest) text(ends bool) string {
	width, bias, into, acts := x.inner, "_", "", "act"
	if x.gated {
		width, acts = 2*x.inner, "glu"
	}
	if x.bias {
		bias, into = "@b", " into @b"
	}
	text := fmt.Sprintf("dims V=7\nparam @b f32[%d] %s\n", width, normal) +
		fmt.Sprintf("func f(%%x e4m3[%[1]d,%[2]d], %%w e4m3[%[3]d,%[2]d], %%dy e4m3[%[1]d,%[4]d], %%v e4m3[%[5]d,%[4]d], %%sx f32[1], %%sw f32[1], %%sdy f32[1], %%sv f32[1]) {\n  turn_amax() {slots: 2}\n", x.rows, x.in, width, x.other, x.inner)
	p, y, d := fmt.Sprintf("bf16[%d,%d]", x.rows, width), fmt.Sprintf("[%d,%d]", x.rows, x.inner), fmt.Sprintf("[%d,%d]", x.rows, width)
	if ends {
		text += fmt.Sprintf("  %%q e4m3%s, %%t e4m3[%d,%d], %%s f32[1], %%kept %s = linear_quantize(%%x, %%w, %%sx, %%sw, %s, _) {fn: %q, history: 1, of: %q, to: \"e4m3\"}\n", y, x.inner, x.rows, p, bias, x.fn, acts)
		if !x.both {
			return text + "  return %q, %t, %s\n}\n"
		}
		return text + fmt.Sprintf("  %%dq e4m3%s, %%dt e4m3[%d,%d], %%ds f32[1] = linear_quantize(%%dy, %%v, %%sdy, %%sv, _, %%kept)%s {fn: %q, history: 2, of: %q, to: \"e4m3\"}\n  return %%q, %%t, %%s, %%dq, %%dt, %%ds\n}\n",
			d, width, x.rows, into, x.fn, acts+"_grad")
	}
	text += fmt.Sprintf("  %%p %s = linear_fp8(%%x, %%w, %%sx, %%sw, %s, _)\n  %%d bf16%s = linear_fp8(%%dy, %%v, %%sdy, %%sv, _, _)\n", p, bias, y)
	if x.gated {
		text += fmt.Sprintf("  %%gate bf16%[1]s, %%up bf16%[1]s = split(%%p) {parts: [\"%[2]d\", \"%[2]d\"]}\n  %%y bf16%[1]s = glu(%%gate, %%up) {fn: %[3]q}\n"+
			"  %%dgate bf16%[1]s, %%dup bf16%[1]s = glu_grad(%%d, %%gate, %%up) {fn: %[3]q}\n  %%dx bf16%[4]s = concat(%%dgate, %%dup)\n", y, x.inner, x.fn, d)
	} else {
		text += fmt.Sprintf("  %%y bf16%[1]s = act(%%p) {fn: %[2]q}\n  %%dx bf16%[1]s = act_grad(%%d, %%p) {fn: %[2]q}\n", y, x.fn)
	}
	if x.bias {
		text += "  bias_grad(%dx) into @b\n"
	}
	return text + "  return %y, %dx, %p, %d\n}\n"
}

// endTests are all ends, over sizes that fill tiles and that do not, one tile of a block and several.
func endTests() []endTest {
	var all []endTest
	for _, fn := range []string{"gelu_tanh", "gelu", "relu", "relu2", "silu"} {
		for _, gated := range []bool{false, true} {
			all = append(all, endTest{fn, gated, true, true, 144, 80, 208, 48})
		}
	}
	for _, gated := range []bool{false, true} {
		all = append(all,
			endTest{"gelu_tanh", gated, true, false, 48, 144, 80, 16}, endTest{"silu", gated, false, false, 16, 16, 16, 16},
			endTest{"gelu_tanh", gated, false, true, 16, 16, 16, 16}, endTest{"silu", gated, false, true, 1040, 144, 144, 272}) // the simulated device has 8 processors
		if gotest.OnGPU() && !testing.Short() {
			all = append(all, endTest{"gelu", gated, true, true, 2064, 272, 528, 400}, endTest{"silu", gated, false, true, 6016, 528, 272, 144})
		}
	}
	return all
}

// TestHopperQuantizes holds products whose ends quantise to ir.Eval, with and without a largest magnitude of a step before, in the first steps and
// in later ones: a number is the nearest of 8 bits to one that is as near to the exact one as the sums and what is kept in 16 bits allow.
func TestHopperQuantizes(t *testing.T) {
	tests := endTests()
	p := cudagen.Program{Spec: "ends.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 1 << 13, DecayedFloats: 32}
	for i, x := range tests {
		f := generationFuncOf(t, parsed(t, x.text(true)), "sm_90a")
		f.Name = fmt.Sprintf("f%d", i)
		p.Jobs, p.Funcs[f.Name] = append(p.Jobs, f.Name), f
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "quantized-products"+short()+".fatbin", code)
	histories := []struct {
		before float64
		turns  int
	}{{0, 0}, {0.75, 1}, {math.Inf(1), 2}, {0, 8}, {40, 8}}
	for i, x := range tests {
		f, exact := p.Funcs[p.Jobs[i]], parsed(t, x.text(false))
		for n, h := range histories {
			if n > 1 && i%4 != 0 {
				break
			}
			t.Run(fmt.Sprint(x, " ", h), func(t *testing.T) {
				in, state := x.draw(uint64(i), h.before, h.turns)
				got, err := device.Run(f, code, image, in, x.again(state), rowsOf(f))
				if err != nil {
					t.Fatal(err)
				}
				want, err := ir.Eval(f, in, state)
				if err != nil {
					t.Fatal(err)
				}
				ones := x.again(state)
				sources, err := ir.Eval(exact, in, ones)
				if err != nil {
					t.Fatal(err)
				}
				for k := 0; k < len(want); k += 3 {
					name := f.Results[k].Name
					scale, transposed := want[k+2].Data[0], got.Results[k+1]
					if s := got.Results[k+2].Data[0]; s != scale {
						t.Fatalf("the scale of %s is %v, want %v", name, s, scale)
					}
					x.compare(t, name, got.Results[k], transposed, sources[k/3], scale, x.off(sources, k/3))
					largest := got.Amax[1+k/3][1]
					if w := state.Amax[1+k/3][1]; !(math.Abs(largest-w) <= w/64) {
						t.Errorf("the largest magnitude of %s is %v, want %v", name, largest, w)
					}
				}
				if x.both && x.bias {
					off, dx := x.off(sources, 1), sources[1]
					for c, w := range state.Grads["b"].Data {
						square := 0.0 // of how far off the rows may be
						for i := c; i < len(dx.Data); i += len(state.Grads["b"].Data) {
							square += math.Pow(math.Abs(dx.Data[i])/256+off(i), 2)
						}
						if g := got.Grads["b"].Data[c]; !(math.Abs(g-w) <= 4*math.Sqrt(square)) {
							t.Fatalf("the gradient of bias %d is %v, want %v", c, g, w)
						}
						if o := ones.Grads["b"].Data[c]; math.Abs(o-w) > 1e-6*math.Max(1, math.Abs(w)) {
							t.Fatalf("ir.Eval's gradient of bias %d is %v, want %v", c, w, o)
						}
					}
				}
			})
		}
	}
}

// draw is the inputs of a test, for products of a magnitude of about 1, and its state with the largest magnitudes of the step before.
func (x endTest) draw(seed uint64, before float64, turns int) (map[string]*ir.Tensor, *ir.State) {
	r := rand.New(rand.NewPCG(seed, 11))
	f := map[string][2]int{"x": {x.rows, x.in}, "w": {x.inner, x.in}, "dy": {x.rows, x.other}, "v": {x.inner, x.other}}
	width := x.inner
	if x.gated {
		width *= 2
		f["w"] = [2]int{width, x.in}
	}
	in := map[string]*ir.Tensor{}
	for _, name := range []string{"x", "w", "dy", "v"} {
		v := ir.NewTensor(f[name][0], f[name][1])
		for i := range v.Data {
			v.Data[i] = ir.Round(16*r.NormFloat64(), ir.E4M3)
		}
		in[name] = v
	}
	for name, terms := range map[string]int{"sx": x.in, "sw": 1, "sdy": x.other, "sv": 1} {
		in[name] = &ir.Tensor{Shape: []int{1}, Data: []float64{math.Ldexp(1, -4-int(math.Log2(float64(terms))/2))}}
	}
	state := ir.NewState()
	b := ir.NewTensor(width)
	for i := range b.Data {
		b.Data[i] = ir.Round(r.NormFloat64()/2, ir.BF16)
	}
	state.Weights["b"] = b
	for slot := 1; slot < 3; slot++ {
		state.Amax[slot] = [2]float64{0, before}
	}
	state.Turns = turns
	return in, state
}

// again is a state as s was before a run.
func (x endTest) again(s *ir.State) *ir.State {
	c := fresh(s)
	c.Turns, c.Amax = s.Turns, map[int][2]float64{}
	for slot, h := range s.Amax {
		c.Amax[slot] = h
	}
	return c
}

// off is how far off what is quantised first, or the gradient, may be from the exact element i, beside what rounding it to 16 bits may change: by what sums of
// products in 8 bits lose on a GPU (see inexactSums).
func (x endTest) off(sources []*ir.Tensor, which int) func(i int) float64 {
	p, d := sources[2], sources[3]
	lost := func(v *ir.Tensor, terms int) float64 {
		most := 0.0
		for _, v := range v.Data {
			most = max(most, math.Abs(v))
		}
		if !gotest.OnGPU() {
			return most * 1e-6
		}
		return 2 * math.Sqrt(float64(terms)/3) * math.Ldexp(most, -13)
	}
	lostP, lostD := lost(p, x.in), lost(d, x.other)
	width := x.inner
	if x.gated {
		width *= 2
	}
	return func(i int) float64 {
		columns := x.inner
		if which == 1 {
			columns = width
		}
		row, column := i/columns, i%x.inner
		size := 1 + math.Abs(p.Data[row*width+column])
		if x.gated {
			size *= 1 + math.Abs(p.Data[row*width+x.inner+column])
		}
		if which == 0 {
			return 4 * size * lostP
		}
		near := math.Abs(p.Data[row*width+column]) <= lostP // where relu has no derivative
		product := math.Abs(d.Data[row*x.inner+column])
		if x.fn == "relu" && near {
			return size * (product + lostD)
		}
		return 4 * size * (lostD + product*lostP)
	}
}

// compare holds numbers in 8 bits, and the same with rows as columns, to what they are of.
func (x endTest) compare(t *testing.T, name string, q, turned, source *ir.Tensor, scale float64, off func(i int) float64) {
	t.Helper()
	rows, cols := x.rows, len(q.Data)/x.rows
	for i, y := range q.Data {
		if z := turned.Data[i%cols*rows+i/cols]; z != y && !(math.IsNaN(z) && math.IsNaN(y)) {
			t.Fatalf("element %d of %s is %v, and %v in its transpose", i, name, y, z)
		}
		v := source.Data[i]
		slack := math.Abs(v)/200 + off(i)
		lo, hi := ir.Round((v-slack)/scale, ir.E4M3), ir.Round((v+slack)/scale, ir.E4M3)
		if !(lo <= y && y <= hi) {
			t.Fatalf("element %d of %s is %v, want %v: %v by %v", i, name, y, v/scale, v, scale)
		}
	}
}

// TestHopperQuantizesInfinity: what is not finite must not pass for the largest number, and makes all that is multiplied by its scale NaN.
func TestHopperQuantizesInfinity(t *testing.T) {
	x := endTest{"gelu_tanh", false, true, false, 16, 16, 48, 16}
	f := generationFuncOf(t, parsed(t, x.text(true)), "sm_90a")
	code, err := cudagen.Generate(cudagen.Program{Spec: "ends.yaml", Funcs: map[string]*ir.Func{"f": f}, Jobs: []string{"f"}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 64, DecayedFloats: 32})
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "quantized-infinity.fatbin", code)
	in, state := x.draw(3, 0.75, 8)
	state.Weights["b"].Data[20] = math.Inf(1)
	got, err := device.Run(f, code, image, in, x.again(state), rowsOf(f))
	if err != nil {
		t.Fatal(err)
	}
	for i, y := range got.Results[0].Data {
		if math.IsNaN(y) != (i%48 == 20) {
			t.Fatalf("element %d is %v", i, y)
		}
	}
	if a := got.Amax[1][1]; !math.IsInf(a, 1) {
		t.Errorf("the largest magnitude is %v", a)
	}
	in, state = x.draw(3, 0.75, 8)
	in["sx"].Data[0] = math.NaN()
	if got, err = device.Run(f, code, image, in, x.again(state), rowsOf(f)); err != nil {
		t.Fatal(err)
	}
	for i, y := range got.Results[0].Data {
		if !math.IsNaN(y) {
			t.Fatalf("element %d of a tensor whose operand has no scale is %v", i, y)
		}
	}
}

// TestHopperQuantizesFit: nvcc compiles all ends without spilling registers.
func TestHopperQuantizesFit(t *testing.T) {
	if _, err := nvcc.Find(t.Context()); err != nil {
		t.Skip(err)
	}
	p := cudagen.Program{Spec: "ends.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 64, DecayedFloats: 32}
	for _, fn := range []string{"gelu_tanh", "gelu", "relu2", "silu"} {
		for n := range 8 {
			x := endTest{fn, n&1 > 0, n&2 > 0, n&4 > 0, 1024, 768, 3072, 768}
			f := generationFuncOf(t, parsed(t, x.text(true)), "sm_90a")
			f.Name = fmt.Sprintf("f%d", len(p.Jobs))
			p.Jobs, p.Funcs[f.Name] = append(p.Jobs, f.Name), f
		}
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, s := range code.Sources {
		files[s.Name] = s.Data
	}
	gotest.CompileNVCC(t, files)
}

// parsed is a function of the text, which verifies.
func parsed(t *testing.T, text string) *ir.Func {
	t.Helper()
	f, err := parser.IR("case", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := ir.Verify(f); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return f
}
