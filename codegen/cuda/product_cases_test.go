package cudagen_test

import (
	"fmt"
	"math"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/cudarun"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
)

// productCases are those of products that we have kernels of our own for: each end, over sizes that fill tiles and that do not, one
// stage of the ring and more than it has, one tile of a block and several.
func productCases() []opCase {
	var all []opCase
	add := func(rows, in, out int) {
		matrix := func(m, n int) string { return fmt.Sprintf("param @w f32[%d,%d] %s\n", m, n, normal) }
		bias := func(n int) string { return fmt.Sprintf("param @b f32[%d] %s\n", n, normal) }
		x, y := fmt.Sprintf("[%d,%d]", rows, in), fmt.Sprintf("[%d,%d]", rows, out)
		size := fmt.Sprintf("%d %d %d", rows, in, out)
		all = append(all,
			opCase{"linear " + size, matrix(out, in), "%x T" + x, "%y T" + y + " = linear(%x, @w, _, _)"},
			opCase{"linear with bias and residual " + size, matrix(out, in) + bias(out), "%x T" + x + ", %r T" + y, "%y T" + y + " = linear(%x, @w, @b, %r)"},
			opCase{"linear with gelu_tanh " + size, matrix(out, in) + bias(out), "%x T" + x, "%y T" + y + ", %pre T" + y + ` = linear(%x, @w, @b, _) {act: "gelu_tanh"}`},
			opCase{"linear_dx " + size, matrix(in, out), "%dy T" + x + ", %r T" + y, "%dx T" + y + " = linear_dx(%dy, @w, %r, _)"})
	}
	add(1, 8, 8)
	add(140, 456, 136)
	add(1100, 72, 264) // the simulated device has 8 processors
	if gotest.OnGPU() {
		add(3000, 520, 1032)
		add(128, 64, 256)
		add(20000, 264, 520)
	}
	return all
}

// TestHopperProducts holds each kernel of ours that makes a product, and cuBLASLt's, to ir.Eval.
func TestHopperProducts(t *testing.T) {
	for _, d := range []ir.DType{ir.BF16, ir.F16} {
		if d == ir.F16 && testing.Short() {
			break
		}
		var tests []opTest
		for _, c := range productCases() {
			tests = append(tests, newOpTest(t, c, d, "sm_90a", 0, len(tests), ""))
		}
		code := generate(t, d, "sm_90a", tests)
		device, image := compileFor(t, "products-"+short()+string(d)+".fatbin", code)
		for rival, name := range []string{"cuBLASLt", "in pairs", "together"} {
			t.Run(string(d)+" "+name, func(t *testing.T) {
				device.Rival = rival
				defer func() { device.Rival = 0 }()
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
			})
		}
	}
}

// TestHopperSlopes holds an activation in a product, and the product that multiplies by its derivative, to ir.Eval: between them they
// keep the derivative.
func TestHopperSlopes(t *testing.T) {
	for _, d := range []ir.DType{ir.BF16, ir.F16} {
		if d == ir.F16 && testing.Short() {
			break
		}
		var tests []slopeTest
		for _, size := range [][3]int{{140, 72, 264}, {1100, 136, 136}, {3, 328, 24}} {
			for _, act := range []string{"gelu_tanh", "gelu", "relu", "relu2", "silu"} {
				if size[0] != 140 && act != "gelu_tanh" {
					continue
				}
				tests = append(tests, newSlopeTest(t, size[0], size[1], size[2], act, d, len(tests)))
			}
		}
		var all []opTest
		for _, x := range tests {
			all = append(all, x.both)
		}
		code := generate(t, d, "sm_90a", all)
		for _, x := range tests {
			for _, g := range code.Launches[x.both.f.Body.Ops[0]] {
				if len(g.Launches) != 1 || g.Launches[0].Product == nil || g.Launches[0].Product.Own != "slope" {
					t.Fatalf("%s is not one product", x.both.name)
				}
			}
		}
		device, image := compileFor(t, "slopes-"+short()+string(d)+".fatbin", code)
		for rival, name := range []string{1: "in pairs", 2: "together"} {
			if rival == 0 {
				continue
			}
			t.Run(string(d)+" "+name, func(t *testing.T) {
				device.Rival = rival
				defer func() { device.Rival = 0 }()
				for _, x := range tests {
					t.Run(x.both.name, func(t *testing.T) { x.run(t, device, image, code, d) })
				}
			})
		}
	}
}

// slopeTest is the two products in one function, and each for itself.
type slopeTest struct{ both, forward, backward opTest }

func newSlopeTest(t *testing.T, rows, in, out int, act string, d ir.DType, n int) slopeTest {
	params := fmt.Sprintf("param @w f32[%d,%d] %s\nparam @b f32[%d] %s\nparam @v f32[%d,%d] %s\n", out, in, normal, out, normal, in, out, normal)
	x, y := fmt.Sprintf("%%x T[%d,%d]", rows, in), fmt.Sprintf("T[%d,%d]", rows, out)
	dy := fmt.Sprintf("%%dy T[%d,%d]", rows, in)
	forward := fmt.Sprintf("%%y %s, %%p %s = linear(%%x, @w, @b, _) {act: %q}", y, y, act)
	backward := fmt.Sprintf("%%dx %s = linear_dx(%%dy, @v, _, %%p) into @b {act: %q}", y, act)
	name := fmt.Sprintf("%s %d %d %d", act, rows, in, out)
	one := func(c opCase) opTest { return newOpTest(t, c, d, "sm_90a", 0, n, "") }
	both := one(opCase{name, params, x + ", " + dy, forward + "\n  " + backward})
	both.f.Results = []*ir.Value{both.f.Body.Ops[0].Results[0], both.f.Body.Ops[1].Results[0]}
	if _, err := passes.Named("plan-memory").Run(both.f, passes.Options{Target: ir.TargetNamed("sm_90a")}); err != nil {
		t.Fatal(err)
	}
	return slopeTest{both, one(opCase{name, params, x, forward}), one(opCase{name, params, dy + ", %p " + y, backward})}
}

func (x slopeTest) run(t *testing.T, device *cudarun.Device, image *cudarun.Image, code *cudagen.Code, d ir.DType) {
	in, state := draw(x.both, seedOf(x.both.seed), d)
	got, err := device.Run(x.both.f, code, image, in, fresh(state), rowsOf(x.both.f))
	if err != nil {
		t.Fatal(err)
	}
	want, off := x.exactly(t, in, state, d)
	for n := range uint64(3) { // as check does
		in, state := draw(x.both, seedOf(x.both.seed)+1000*(n+1), d)
		_, other := x.exactly(t, in, state, d)
		for i := range off {
			off[i] = max(off[i], other[i])
		}
	}
	for i, g := range []*ir.Tensor{got.Results[0], got.Results[1], got.Grads["b"]} {
		compare(t, []string{"y", "dx", "gradient of b"}[i], g, want[i], 2*off[i], off[i])
	}
}

// exactly evaluates both products, and says how far off a plain computation is at most: of y, dx, and the gradient of b.
func (x slopeTest) exactly(t *testing.T, in map[string]*ir.Tensor, state *ir.State, d ir.DType) (want []*ir.Tensor, off []float64) {
	exact, rounded := fresh(state), fresh(state)
	want, err := ir.Eval(x.both.f, in, exact)
	if err != nil {
		t.Fatal(err)
	}
	first, err := plain(x.forward.f, in, fresh(state), d)
	if err != nil {
		t.Fatal(err)
	}
	second, err := plain(x.backward.f, map[string]*ir.Tensor{"dy": in["dy"], "p": first[1]}, rounded, d)
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, exact.Grads["b"])
	for i, p := range []*ir.Tensor{first[0], second[0], rounded.Grads["b"]} {
		most := 0.0
		for k, v := range want[i].Data {
			most = max(most, math.Abs(p.Data[k]-v))
		}
		off = append(off, most)
	}
	return want, off
}

// fresh is a state of the same weights that no gradient was added to.
func fresh(s *ir.State) *ir.State {
	return &ir.State{Weights: s.Weights, Grads: map[string]*ir.Tensor{}, First: map[string]*ir.Tensor{}, Second: map[string]*ir.Tensor{}}
}
