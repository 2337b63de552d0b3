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
		vocab := out + 3 // as vocabularies are: rows of a tile are longer than what is multiplied
		all = append(all, opCase{"head_loss_grad " + size, matrix(vocab, in), fmt.Sprintf("%%x T%s, %%targets i32[%d]", x, rows),
			fmt.Sprintf("%%loss f32[], %%dx T%s, %%rows f32[%d], %%tile T%s = head_loss_grad(%%x, @w, _, %%targets, _) into @w, _ {tile: %d}", x, rows, tileOf(rows, vocab, 96*vocab), 96*vocab)})
	}
	add(1, 8, 8)
	add(140, 456, 136)
	add(1100, 72, 264) // the simulated device has 8 processors
	if gotest.OnGPU() && !testing.Short() {
		add(3000, 520, 1032)
		add(128, 64, 256)
		add(12000, 72, 1032)
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
		for _, x := range tests {
			in, state := draw(x, seedOf(x.seed), d)
			e := expect(t, x, in, state, d)
			for rival, name := range []string{"cuBLASLt", "in pairs", "together"} {
				t.Run(string(d)+" "+name+" "+x.name, func(t *testing.T) {
					device.Rival = rival
					defer func() { device.Rival = 0 }()
					in, state := draw(x, seedOf(x.seed), d)
					got, err := device.Run(x.f, code, image, in, state, rowsOf(x.f))
					if err != nil {
						t.Fatal(err)
					}
					e.check(t, x, got)
				})
			}
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
				for _, gated := range []bool{false, true} {
					tests = append(tests, newSlopeTest(t, size[0], size[1], size[2], act, gated, d, 2*len(tests)))
				}
			}
		}
		var all []opTest
		for _, x := range tests {
			all = append(all, x.both)
			if x.gated {
				all = append(all, x.forward)
			}
		}
		code := generate(t, d, "sm_90a", all)
		for _, x := range all {
			own := map[int]string{1: "act", 2: "slope"}[len(x.f.Results)]
			for _, g := range code.Launches[x.f.Body.Ops[0]] {
				if len(g.Launches) != 1 || g.Launches[0].Product == nil || g.Launches[0].Product.Own != own {
					t.Fatalf("%s is not one product with the end %q", x.name, own)
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
					if x.gated {
						t.Run(x.both.name+" alone", func(t *testing.T) {
							in, state := draw(x.forward, seedOf(x.forward.seed), d)
							got, err := device.Run(x.forward.f, code, image, in, state, rowsOf(x.forward.f))
							if err != nil {
								t.Fatal(err)
							}
							check(t, x.forward, in, state, got, d)
						})
					}
				}
			})
		}
	}
}

// slopeTest is the two products in one function, and each for itself; a gated forward product has no result but y then.
type slopeTest struct {
	both, forward, backward opTest
	gated                   bool
}

func newSlopeTest(t *testing.T, rows, in, out int, act string, gated bool, d ir.DType, n int) slopeTest {
	params := fmt.Sprintf("param @w f32[%d,%d] %s\nparam @b f32[%d] %s\nparam @v f32[%d,%d] %s\n", out, in, normal, out, normal, in, out, normal)
	x, y := fmt.Sprintf("%%x T[%d,%d]", rows, in), fmt.Sprintf("T[%d,%d]", rows, out)
	dy := fmt.Sprintf("%%dy T[%d,%d]", rows, in)
	forward := fmt.Sprintf("%%y %s, %%p %s = linear(%%x, @w, @b, _) {act: %q}", y, y, act)
	backward := fmt.Sprintf("%%dx %s = linear_dx(%%dy, @v, _, %%p) into @b {act: %q}", y, act)
	name, pre := fmt.Sprintf("%s %d %d %d", act, rows, in, out), y
	if gated {
		name, pre = "gated "+name, fmt.Sprintf("T[%d,%d]", rows, 2*out)
		params = fmt.Sprintf("param @w f32[%d,%d] %s\nparam @b f32[%d] %s\nparam @v f32[%d,%d] %s\n", 2*out, in, normal, 2*out, normal, in, out, normal)
		forward = fmt.Sprintf("%%y %s, %%p %s = linear_glu(%%x, @w, @b) {fn: %q}", y, pre, act)
		backward = fmt.Sprintf("%%dx %s = linear_glu_dx(%%dy, @v, %%p) into @b {fn: %q}", pre, act)
	}
	one := func(n int, c opCase) opTest { return newOpTest(t, c, d, "sm_90a", 0, n, "") }
	returning := func(x opTest, results ...*ir.Value) {
		x.f.Results = results
		if _, err := passes.Named("plan-memory").Run(x.f, passes.Options{Target: ir.TargetNamed("sm_90a")}); err != nil {
			t.Fatal(err)
		}
	}
	both, alone := one(n, opCase{name, params, x + ", " + dy, forward + "\n  " + backward}), one(n+1, opCase{name, params, x, forward})
	returning(both, both.f.Body.Ops[0].Results[0], both.f.Body.Ops[1].Results[0])
	if gated {
		returning(alone, alone.f.Body.Ops[0].Results[0])
	}
	return slopeTest{both, alone, one(n, opCase{name, params, dy + ", %p " + pre, backward}), gated}
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
