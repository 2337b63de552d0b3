package cudagen_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
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
			opCase{"linear_dx " + size, matrix(in, out), "%dy T" + x + ", %r T" + y, "%dx T" + y + " = linear_dx(%dy, @w, %r, _)"},
			opCase{"linear_dx gelu " + size, matrix(in, out), "%dy T" + x + ", %p T" + y, "%dx T" + y + ` = linear_dx(%dy, @w, _, %p) {act: "gelu_tanh"}`},
			opCase{"linear_dx gelu bias " + size, matrix(in, out) + bias(out), "%dy T" + x + ", %p T" + y, "%dx T" + y + ` = linear_dx(%dy, @w, _, %p) into @b {act: "gelu_tanh"}`})
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
					if rival == 2 && strings.Contains(x.name, "bias ") && strings.Contains(x.name, "dx") {
						continue // it gives no sums
					}
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
