package ir_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

// TestHeadFP8 holds the head's gradient in 8 bits to that of head_loss_grad: loss and rows the same but for the rounding of logits, the
// gradients of x and w off by what e5m2 rounds, and without a drift: what their errors have in common with them is a small part of that.
func TestHeadFP8(t *testing.T) {
	const rows, cols, vocab = 64, 16, 1024
	build := func(outputs, op string) *ir.Func {
		f, err := parser.IR("head", fmt.Sprintf(`dims N=%d D=%d V=%d
param @w f32[V,D] {init: "normal", scale: 0.02}
func f(%%x bf16[N,D], %%targets i32[N], %%n f32[], %%wt e4m3[D,V], %%xt e4m3[D,N], %%ws f32[1], %%xs f32[1]) {
  %%loss f32[], %%dx bf16[N,D], %%rows f32[N], %%tile bf16[64,V]%s = %s
  return %%loss, %%dx, %%rows
}
`, rows, cols, vocab, outputs, op))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const attrs = " {scale: 1.5, softcap: 20.0}"
	plain := build("", "head_loss_grad(%x, @w, _, %targets, %n) into @w, _"+attrs)
	eight := build(", %d e5m2[64,V], %dt e5m2[V,64], %by f32[1]", "head_loss_grad_fp8(%x, @w, %targets, %n, %wt, %xt, %ws, %xs) into @w"+attrs)
	r := rand.New(rand.NewPCG(4, 2))
	in := map[string]*ir.Tensor{"n": ir.Scalar(rows - 1), "ws": {Shape: []int{1}, Data: []float64{0.5}}, "xs": {Shape: []int{1}, Data: []float64{2}}}
	x, w, targets := ir.NewTensor(rows, cols), ir.NewTensor(vocab, cols), ir.NewTensor(rows)
	for _, v := range []*ir.Tensor{x, w} {
		for i := range v.Data {
			v.Data[i] = ir.Round(r.NormFloat64(), ir.E4M3) // as the copies in 8 bits are
		}
	}
	for i := range targets.Data {
		targets.Data[i] = float64(r.IntN(vocab))
	}
	targets.Data[3] = -1
	turned := func(v *ir.Tensor, scale float64) *ir.Tensor {
		n, m := v.Shape[0], v.Shape[1]
		y := ir.NewTensor(m, n)
		for i, a := range v.Data {
			y.Data[i%m*n+i/m] = a / scale
		}
		return y
	}
	in["x"], in["targets"], in["wt"], in["xt"] = x, targets, turned(w, 0.5), turned(x, 2)
	var out [2][]*ir.Tensor
	var dw [2][]float64
	for i, f := range []*ir.Func{plain, eight} {
		state := ir.NewState()
		state.Weights["w"] = w
		var err error
		if out[i], err = ir.Eval(f, in, state); err != nil {
			t.Fatal(err)
		}
		dw[i] = state.Grads["w"].Data
	}
	for _, c := range []struct {
		what      string
		got, want []float64
		off       float64
	}{
		{"the loss", out[1][0].Data, out[0][0].Data, 1e-3},
		{"a row's loss", out[1][2].Data, out[0][2].Data, 3e-3},
		{"the gradient of x", out[1][1].Data, out[0][1].Data, 0.06},
		{"the gradient of w", dw[1], dw[0], 0.06},
	} {
		off, along, all := 0.0, 0.0, 0.0
		for i, want := range c.want {
			d := c.got[i] - want
			off, along, all = off+d*d, along+d*want, all+want*want
		}
		if off, along = math.Sqrt(off/all), along/all; !(off <= c.off && math.Abs(along) <= c.off/4) {
			t.Errorf("%s is off by %.3g of its norm, and along it by %.3g; allowed are %g and a quarter", c.what, off, along, c.off)
		} else {
			t.Logf("%s is off by %.3g of its norm, and along it by %.3g", c.what, off, along)
		}
	}
}
