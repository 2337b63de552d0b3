package cudagen_test

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/cudarun"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/passes"
)

// opTest is a case ready to run.
type opTest struct {
	name string
	f    *ir.Func
	seed uint64
}

// shapes are rows and columns that cases run on: odd ones, and ones that fill whole accesses.
var shapes = [][2]int{{33, 31}, {31, 1}, {1, 129}, {5, 64}, {129, 33}, {3, 1000}, {70, 127}, {2, 2056}}

// TestOps holds the kernels of every op to ir.Eval, in the simulator or on a GPU: see gotest.GPU. A short test runs each row
// of the table and each body once, for tools that are slow.
func TestOps(t *testing.T) {
	for _, d := range []ir.DType{ir.F32, ir.BF16, ir.F16} {
		t.Run(string(d), func(t *testing.T) { runOps(t, "ops-sm_80-"+short()+string(d), d, "sm_80", opTests(t, d, "sm_80")) })
	}
}

// TestHopper holds the kernels that are written for Hopper to ir.Eval, as TestOps does.
func TestHopper(t *testing.T) {
	for _, d := range []ir.DType{ir.BF16, ir.F16} {
		t.Run(string(d), func(t *testing.T) { runOps(t, "ops-sm_90a-"+short()+string(d), d, "sm_90a", opTests(t, d, "sm_90a")) })
	}
}

// TestAttentionFits: all cases of TestHopper take its kernels, and nvcc compiles these, and those for other GPUs in their
// place, without spilling registers, which the simulator does not see.
func TestAttentionFits(t *testing.T) {
	tests := opTests(t, ir.BF16, "sm_90a")
	for _, arch := range []string{"sm_90a", "sm_80"} {
		files := map[string][]byte{}
		for _, s := range generate(t, ir.BF16, arch, tests).Sources {
			if arch == "sm_90a" && strings.HasPrefix(s.Name, "attention_mma") && strings.HasSuffix(s.Name, ".cu") {
				t.Errorf("%s is not written for Hopper:\n%s", s.Name, s.Data)
			}
			files[s.Name] = s.Data
		}
		if _, err := nvcc.Find(t.Context()); err != nil {
			t.Skip(err)
		}
		gotest.CompileNVCC(t, files)
	}
}

// opTests are the cases of a type for an architecture, taken through the passes that kernels need: for Hopper only those that
// it has kernels for.
func opTests(t *testing.T, d ir.DType, arch string) (tests []opTest) {
	t.Helper()
	seen := covered{}
	add := func(c opCase, cols int, shape string) {
		x := newOpTest(t, c, d, arch, cols, len(tests), shape)
		if !testing.Short() || seen.adds(t, x.f, d, arch) {
			tests = append(tests, x)
		}
	}
	if arch == "sm_90a" {
		for i, c := range hopperCases() {
			if i >= 4 && !gotest.OnGPU() && d != ir.BF16 {
				break // the simulator is slow
			}
			add(c, 0, "")
		}
		return tests
	}
	for i, s := range shapes {
		if i >= 4 && !gotest.OnGPU() && d != ir.F32 {
			break // the simulator is slow
		}
		for _, c := range cases(s[0], s[1]) {
			add(c, s[1], fmt.Sprint(s))
		}
	}
	for _, h := range [][3]int{{7, 3, 4}, {33, 2, 8}, {5, 4, 64}, {2, 3, 80}} {
		for _, c := range headCases(h[0], h[1], h[2]) {
			add(c, 0, fmt.Sprint(h))
		}
	}
	for _, c := range cases(2, 90001) { // of which a block cannot keep a row
		if strings.HasPrefix(c.name, "cross_entropy_grad") {
			add(c, 90001, "[2 90001]")
		}
	}
	for _, c := range attentionCases() {
		add(c, 0, "")
	}
	return tests
}

// newOpTest is test number n, of a case in a type, taken through the passes that kernels need.
func newOpTest(t *testing.T, c opCase, d ir.DType, arch string, cols, n int, shape string) opTest {
	t.Helper()
	f := c.parse(t, d, cols)
	f.Name = fmt.Sprintf("f%d", n)
	if err := ir.Verify(f); err != nil {
		t.Fatalf("%s: %v\n%s", c.name, err, ir.Print(f))
	}
	o := passes.Options{Target: ir.TargetNamed(arch)}
	for _, p := range []string{"select-attention", "plan-memory"} {
		if _, err := passes.Named(p).Run(f, o); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	return opTest{c.name + " " + shape, f, uint64(n)}
}

// covered is what cases have run: rows of the table, by the kinds of ops with the names of their attributes, and bodies,
// each by single elements and by whole accesses where it knows both.
type covered map[string]bool

var bodyCall = regexp.MustCompile(`(\w+)<Config>\(`)

// adds says whether f has one that no case before it had.
func (seen covered) adds(t *testing.T, f *ir.Func, d ir.DType, arch string) bool {
	t.Helper()
	code, err := cudagen.Generate(cudagen.Program{Spec: "case.yaml", Jobs: []string{f.Name}, Funcs: map[string]*ir.Func{f.Name: f}, Archs: []string{arch}, Element: d, WeightFloats: 64, DecayedFloats: 32})
	if err != nil {
		t.Fatal(err)
	}
	before := len(seen)
	f.Walk(func(op *ir.Op) { seen[fmt.Sprint("op ", op.Kind, " ", slices.Sorted(maps.Keys(op.Attrs)))] = true })
	seen.bodies(code.Sources)
	return len(seen) > before
}

// bodies adds those that the sources call.
func (seen covered) bodies(sources []cudagen.Source) {
	for _, s := range sources {
		if strings.HasSuffix(s.Name, ".cu") {
			text := string(s.Data)
			seen[fmt.Sprint("body ", bodyCall.FindStringSubmatch(text)[1], " by elements: ", strings.Contains(text, " vec = 1;"))] = true
		}
	}
}

// TestEveryBodyHasACase: each body that the packages of the examples call, in the types in which they do, is called by a case.
func TestEveryBodyHasACase(t *testing.T) {
	seen := map[ir.DType]covered{}
	for _, d := range []ir.DType{ir.F32, ir.BF16} {
		seen[d] = covered{}
		for _, arch := range []string{"sm_80", "sm_90a"} {
			if arch == "sm_90a" && d == ir.F32 {
				continue // nothing is written for it
			}
			for _, x := range opTests(t, d, arch) {
				seen[d].adds(t, x.f, d, arch)
			}
		}
		if d == ir.BF16 { // there are no products of our own in f32
			for i, c := range productCases() {
				seen[d].adds(t, newOpTest(t, c, d, "sm_90a", 0, i, "").f, d, "sm_90a")
			}
			for _, x := range endTests() {
				seen[d].adds(t, generationFuncOf(t, parsed(t, x.text(true)), "sm_90a"), d, "sm_90a")
			}
		}
		texts := append(linearCases(d), optimizerText, quantizeText(16, 16, 8, "e4m3"), sourceText("glu", "silu", 16, 16, "e5m2"))
		for _, c := range cachedCases {
			texts = append(texts, c.text(d))
		}
		for _, text := range texts {
			seen[d].adds(t, generationFunc(t, text), d, "sm_80")
		}
		for i, c := range sampleCases {
			if c.d == d {
				seen[d].bodies(c.sources(i))
			}
		}
	}
	files, err := filepath.Glob("../../golden/gen/*/kernels/*.cu")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d kernels found: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d := ir.F32
		if bytes.Contains(text, []byte("using T = bf16;")) {
			d = ir.BF16
		}
		body := string(bodyCall.FindSubmatch(text)[1])
		if !slices.ContainsFunc(slices.Collect(maps.Keys(seen[d])), func(key string) bool { return strings.HasPrefix(key, "body "+body+" ") }) {
			t.Errorf("%s: no case calls %s in %s", file, body, d)
		}
	}
}

// short is the part of an image's name that tells those of short tests apart.
func short() string {
	if testing.Short() {
		return "short-"
	}
	return ""
}

// generate is the code of all tests of one type, with the kernels for an architecture.
func generate(t *testing.T, d ir.DType, arch string, tests []opTest) *cudagen.Code {
	t.Helper()
	p := cudagen.Program{Spec: "ops.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{arch}, Element: d, WeightFloats: 64, DecayedFloats: 32}
	for _, x := range tests {
		p.Jobs = append(p.Jobs, x.f.Name)
		p.Funcs[x.f.Name] = x.f
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// runOps generates, compiles and runs all tests of one type, with the kernels for an architecture, in an image of that name.
func runOps(t *testing.T, name string, d ir.DType, arch string, tests []opTest) {
	code := generate(t, d, arch, tests)
	device, image := compileFor(t, name+".fatbin", code)
	for _, x := range tests {
		t.Run(x.name, func(t *testing.T) {
			in, state := draw(x, seedOf(x.seed), d)
			got, err := device.Run(x.f, code, image, in, state, rowsOf(x.f))
			if err != nil {
				t.Fatal(err)
			}
			check(t, x, in, state, got, d)
		})
	}
}

// check holds what a kernel gave to what is expected.
func check(t *testing.T, x opTest, in map[string]*ir.Tensor, state *ir.State, got *cudarun.Answer, d ir.DType) {
	t.Helper()
	expect(t, x, in, state, d).check(t, x, got)
}

// expected are the results and gradients of a case by ir.Eval, and how far off they may be: what computes in 16 bits, by how far off a plain
// computation is.
type expected struct {
	want              map[string]*ir.Tensor
	allowed, rounding map[string]float64
}

func (e expected) check(t *testing.T, x opTest, got *cudarun.Answer) {
	t.Helper()
	for name, w := range e.want {
		compare(t, name, of(x.f, got.Results, got.Grads)[name], w, e.allowed[name], e.rounding[name])
	}
}

func expect(t *testing.T, x opTest, in map[string]*ir.Tensor, state *ir.State, d ir.DType) expected {
	t.Helper()
	want, rounding := exactly(t, x, in, state, d)
	for n := range uint64(7) { // how far off a plain computation is, is a matter of luck: of its results on several inputs, the worst counts
		if d == ir.F32 || len(in) > 0 && size(in) > 1<<15 {
			break
		}
		in, state := draw(x, seedOf(x.seed)+1000*(n+1), d)
		_, other := exactly(t, x, in, state, d)
		for name := range rounding {
			rounding[name] = max(rounding[name], other[name])
		}
	}
	factor, allowed := 1.5, map[string]float64{}
	if kind := x.f.Body.Ops[0].Kind; strings.Contains(kind, "_grad") || strings.HasPrefix(kind, "linear_d") || strings.HasSuffix(kind, "_dx") {
		factor = 2
	}
	for name, r := range rounding {
		allowed[name] = factor*r + inexactSums(x, want[name])
	}
	return expected{want, allowed, rounding}
}

// inexactSums is how far off a GPU's sums of products of 8 bits may be, which show in the gradient of a weight: to add them Hopper's matrix
// units cut each of the terms off 13 bits behind the point of the largest (DeepSeek-AI 2024, "DeepSeek-V3", section 3.3.2, finds about 14
// in all). What is cut off is spread evenly up to that bit and has the sign of its term, so that a sum of n terms has a standard error
// of sqrt(n/3) such bits, of a number as large as the largest result at most; twice that is allowed.
func inexactSums(x opTest, want *ir.Tensor) float64 {
	op := x.f.Body.Ops[0]
	if op.Kind != "linear_dw_fp8" || !gotest.OnGPU() {
		return 0
	}
	largest := 0.0
	for _, v := range want.Data {
		largest = max(largest, math.Abs(v))
	}
	return 2 * math.Sqrt(float64(op.Args[0].Type.Cols())/3) * math.Ldexp(largest, -13)
}

// of names the results of a function and the gradients that it adds to.
func of(f *ir.Func, results []*ir.Tensor, grads map[string]*ir.Tensor) map[string]*ir.Tensor {
	all := map[string]*ir.Tensor{}
	for i, r := range f.Results {
		if r.Block != nil && !strings.HasSuffix(r.Name, "tile") { // nobody reads the tile of a head
			all["result "+r.Name] = results[i]
		}
	}
	for _, p := range f.Body.Ops[0].Into {
		if p != nil {
			all["gradient of "+p.Name] = grads[p.Name]
		}
	}
	return all
}

// exactly evaluates a case, and says how far off a plain computation in type d is at most.
func exactly(t *testing.T, x opTest, in map[string]*ir.Tensor, state *ir.State, d ir.DType) (want map[string]*ir.Tensor, rounding map[string]float64) {
	t.Helper()
	rounded := &ir.State{Weights: state.Weights, Grads: map[string]*ir.Tensor{}, First: map[string]*ir.Tensor{}, Second: map[string]*ir.Tensor{}, Caches: state.Caches}
	less, err := plain(x.f, in, rounded, d)
	if err != nil {
		t.Fatal(err)
	}
	results, err := ir.Eval(x.f, in, state)
	if err != nil {
		t.Fatal(err)
	}
	want, rounding = of(x.f, results, state.Grads), map[string]float64{}
	for name, p := range of(x.f, less, rounded.Grads) {
		for i, v := range want[name].Data {
			if !math.IsInf(v, 0) {
				rounding[name] = max(rounding[name], math.Abs(p.Data[i]-v))
			}
		}
	}
	return want, rounding
}

// draw makes inputs and weights of a case that their types hold exactly.
func draw(x opTest, seed uint64, d ir.DType) (map[string]*ir.Tensor, *ir.State) {
	in, state := irtest.Draw(x.f, seed)
	if in["n"] != nil {
		in["n"].Data[0] = 4
	}
	if op := x.f.Body.Ops[0]; strings.HasPrefix(op.Kind, "head_loss") {
		// Logits as a model has them: of large ones a rounding alone decides what little a softmax leaves to all but one.
		by := min(1, 8/math.Sqrt(float64(op.Args[0].Type.Cols())))
		for i := range in["x"].Data {
			in["x"].Data[i] *= by
		}
	}
	round(x.f, in, state, d)
	if op := x.f.Body.Ops[0]; op.Kind == "attention_grad" { // which reads what the forward pass gave
		forward := plainAttention(op, in, ir.F32)
		roundTo(forward[0], d)
		copy(in["o"].Data, forward[0].Data)
		copy(in["lse"].Data, forward[1].Data)
	}
	return in, state
}

func size(in map[string]*ir.Tensor) int {
	n := 0
	for _, x := range in {
		n += len(x.Data)
	}
	return n
}

// round gives inputs and weights values that their types hold exactly.
func round(f *ir.Func, in map[string]*ir.Tensor, state *ir.State, d ir.DType) {
	for _, v := range f.Inputs {
		for i, x := range in[v.Name].Data {
			in[v.Name].Data[i] = ir.Round(x, v.Type.DType)
		}
	}
	for _, w := range state.Weights {
		for i, x := range w.Data {
			w.Data[i] = ir.Round(x, d)
		}
	}
}

// Tolerances of float32 results, of the number and of the largest of the tensor: PyTorch's assert_close has 1.3e-6 and 1e-5.
const (
	relative = 1.3e-6
	absolute = 1e-5
)

// compare holds got to the exact want: it may be off as PyTorch's tolerances say, and by allowed.
func compare(t *testing.T, what string, got, want *ir.Tensor, allowed, plain float64) {
	t.Helper()
	largest := 1.0
	for _, x := range want.Data {
		if !math.IsInf(x, 0) {
			largest = math.Max(largest, math.Abs(x))
		}
	}
	worst, at := 0.0, 0
	for i, x := range want.Data {
		tol := relative*math.Abs(x) + absolute*largest + allowed
		off := math.Abs(got.Data[i] - x)
		if math.IsInf(x, -1) && (math.IsInf(got.Data[i], -1) || got.Data[i] < -1e30) {
			continue // the log of an empty sum
		}
		if !(off/tol <= worst) {
			worst, at = off/tol, i
		}
	}
	gotest.Off(t, worst)
	if !(worst <= 1) {
		t.Errorf("%s: element %d of %v is %v, want %v: off by %.2g times what is allowed; a plain computation is off by %.2g", what, at, want.Shape, got.Data[at], want.Data[at], worst, plain)
	}
}

// rowsOf is the number of rows of a function's inputs.
func rowsOf(f *ir.Func) int {
	for _, v := range f.Inputs {
		if len(v.Type.Dims) > 0 {
			if v.Type.DType == ir.I32 {
				return v.Type.Elems()
			}
			return v.Type.Rows()
		}
	}
	return 1
}
