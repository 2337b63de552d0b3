package cudagen_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/ir"
)

// headText is a head of so many rows whose gradient is multiplied in 8 bits, in tiles of so many logits, 0 for one of all.
func headText(rows, cols, vocab, tile, tileRows int, attrs string) string {
	return fmt.Sprintf(`dims V=%[3]d
param @w f32[V,%[2]d] %[6]s
func f(%%x bf16[%[1]d,%[2]d], %%targets i32[%[1]d], %%n f32[], %%wt e4m3[%[2]d,V], %%xt e4m3[%[2]d,%[1]d], %%ws f32[1], %%xs f32[1]) {
  %%loss f32[], %%dx bf16[%[1]d,%[2]d], %%rows f32[%[1]d], %%tile bf16[%[5]d,V], %%d e5m2[%[5]d,V], %%dt e5m2[V,%[5]d], %%by f32[1] = `+
		`head_loss_grad_fp8(%%x, @w, %%targets, %%n, %%wt, %%xt, %%ws, %%xs) into @w {%[7]stile: %[4]d}
  return %%loss, %%rows, %%by, %%dx, %%d, %%dt
}
`, rows, cols, vocab, tile, tileRows, normal, attrs)
}

// TestHeadFP8 holds the head's loss to ir.Eval; its logits' gradient in 8 bits to the exact one, of which a number may come out as its
// neighbour where logits are rounded; and the products to what they are of that.
func TestHeadFP8(t *testing.T) {
	type shape struct{ rows, cols, vocab, tile, tileRows int }
	cases := []struct {
		shape
		attrs string
	}{
		{shape{32, 48, 144, 0, 32}, ""},
		{shape{272, 16, 80, 0, 272}, "scale: 0.5, softcap: 3.0, "},
		{shape{1040, 32, 16, 16 * 512, 352}, "scale: 2.0, "}, // two whole tiles and a part of one
	}
	p := cudagen.Program{Spec: "fp8.yaml", Funcs: map[string]*ir.Func{}, Archs: []string{"sm_90a"}, Element: ir.BF16, WeightFloats: 2048, DecayedFloats: 32}
	for i, c := range cases {
		f := generationFunc(t, headText(c.rows, c.cols, c.vocab, c.tile, c.tileRows, c.attrs))
		f.Name = fmt.Sprintf("f%d", i)
		p.Jobs = append(p.Jobs, f.Name)
		p.Funcs[f.Name] = f
		p.WeightFloats = max(p.WeightFloats, c.vocab*c.cols)
	}
	code, err := cudagen.Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "head-fp8.fatbin", code)
	for k, c := range cases {
		t.Run(fmt.Sprint(c.shape), func(t *testing.T) {
			f, r := p.Funcs[p.Jobs[k]], rand.New(rand.NewPCG(uint64(k), 3))
			in, state, same := map[string]*ir.Tensor{}, ir.NewState(), ir.NewState()
			for _, v := range f.Inputs {
				x := ir.NewTensor(v.Type.Shape()...)
				for i := range x.Data {
					switch v.Name {
					case "targets":
						x.Data[i] = float64(r.IntN(c.vocab+1) - 1)
					case "n":
						x.Data[i] = float64(c.rows - 3)
					case "ws", "xs":
						x.Data[i] = 0.25
					default:
						x.Data[i] = ir.Round(r.NormFloat64()*math.Sqrt(float64(3)/float64(c.cols)), v.Type.DType)
					}
				}
				in[v.Name] = x
			}
			w := ir.NewTensor(c.vocab, c.cols)
			for i := range w.Data {
				w.Data[i] = ir.Round(r.NormFloat64(), ir.BF16)
			}
			state.Weights["w"], same.Weights["w"] = w, w
			want, err := ir.Eval(f, in, state)
			if err != nil {
				t.Fatal(err)
			}
			got, err := device.Run(f, code, image, in, same, rowsOf(f))
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"the loss", "a row's loss", "the factor of the gradient"} {
				for j, x := range want[i].Data {
					if y := got.Results[i].Data[j]; !(math.Abs(y-x) <= 2e-3*math.Max(1, math.Abs(x))) || i == 2 && math.Abs(y-x) > 1e-6*x {
						t.Fatalf("%s, %d, is %v, want %v", name, j, y, x)
					}
				}
			}
			by, dx := want[2].Data[0], got.Results[3]
			near(t, "the gradient of x", dx.Data, want[3].Data, 0.03)
			near(t, "the gradient of w", got.Grads["w"].Data, state.Grads["w"].Data, 0.03)
			if c.tileRows < c.rows {
				return
			}
			d, turned := got.Results[4], got.Results[5]
			dw, wantDX := make([]float64, len(w.Data)), make([]float64, len(dx.Data))
			for row := range c.rows {
				sum := 0.0
				for v := range c.vocab {
					x := d.Data[row*c.vocab+v]
					sum += x
					if y := turned.Data[v*c.rows+row]; y != x {
						t.Fatalf("the gradient by logit %d of row %d is %v as it lies and %v with rows as columns", v, row, x, y)
					}
					for i := range c.cols {
						dw[v*c.cols+i] += x * in["xt"].Data[i*c.rows+row] * by / 4
						wantDX[row*c.cols+i] += x * in["wt"].Data[i*c.vocab+v] * by / 4
					}
				}
				if target := int(in["targets"].Data[row]); target < 0 {
					if sum != 0 {
						t.Fatalf("row %d has no target, and its gradient sums to %v", row, sum)
					}
				} else if x, want := d.Data[row*c.vocab+target]/32768, math.Expm1(-got.Results[1].Data[row]); c.attrs == "" && math.Abs(x-want) > math.Abs(want)/8 {
					t.Fatalf("the gradient by the target's logit of row %d is %v of the most, want %v", row, x, want)
				}
			}
			near(t, "the gradient of x, of that of the logits,", dx.Data, wantDX, 4e-3)
			near(t, "the gradient of w, of that of the logits,", got.Grads["w"].Data, dw, 1e-3)
		})
	}
}

// near holds the Euclidean norm of a difference to that of what is wanted.
func near(t *testing.T, what string, got, want []float64, allowed float64) {
	t.Helper()
	off, all := 0.0, 0.0
	for i, x := range want {
		off += (got[i] - x) * (got[i] - x)
		all += x * x
	}
	if !(math.Sqrt(off) <= allowed*math.Sqrt(all)) || all == 0 {
		t.Errorf("%s is off by %.3g of its norm %.3g, allowed are %g", what, math.Sqrt(off/all), math.Sqrt(all), allowed)
	}
}
