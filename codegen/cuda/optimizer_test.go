package cudagen_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
)

// optimizerText is the end of a step: the norm of all gradients, and the update. Of the buffer of 192 weights the first
// 128, those of w and its padding, decay.
const optimizerText = `dims V=7
param @w f32[9,13] {decay: true, init: "normal", scale: 1.0}
param @b f32[50] {init: "normal", scale: 1.0}
func f(%lr f32[], %step i32[], %given f32[]) {
  %loss f32[] = add(%given, %given)
  %norm f32[] = grad_norm()
  adamw(%norm, %lr, %step) {beta1: 0.9, beta2: 0.95, clip: 0.7, eps: 1e-06, weight_decay: 0.1}
  return %loss, %norm
}
`

// optimizerStep runs one update with gradients that carry the loss scale, of which one may be replaced by bad. diverged is the
// step that diverged before it, 0 for none.
func optimizerStep(t *testing.T, d ir.DType, step int, scale, hysteresis, bad, diverged float64) (got, want map[string]*ir.Tensor, norm, wantNorm float64, copies map[string]*ir.Tensor, state []byte) {
	t.Helper()
	f, err := parser.IR("optimizer", optimizerText)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := passes.Named("plan-memory").Run(f, passes.Options{Target: ir.TargetNamed("sm_80")}); err != nil {
		t.Fatal(err)
	}
	code, err := cudagen.Generate(cudagen.Program{Spec: "optimizer.yaml", Jobs: []string{"f"}, Funcs: map[string]*ir.Func{"f": f}, Element: d, WeightFloats: 192, DecayedFloats: 128})
	if err != nil {
		t.Fatal(err)
	}
	device, image := compileFor(t, "optimizer-"+string(d)+".fatbin", code)
	in, st := draw(opTest{f: f}, seedOf(7), ir.F32)
	in["step"].Data[0] = float64(step)
	scaled := ir.NewState()
	scaled.Weights = map[string]*ir.Tensor{}
	for name, w := range st.Weights {
		g, s := ir.NewTensor(w.Shape...), ir.NewTensor(w.Shape...)
		for i := range g.Data {
			g.Data[i] = ir.Round(math.Sin(float64(3*i+len(name))), ir.F32)
			s.Data[i] = g.Data[i] * scale
		}
		st.Grads[name], scaled.Grads[name] = g, s
		scaled.Weights[name] = w
	}
	if bad != 0 {
		scaled.Grads["w"].Data[60] = bad
	}
	in["loss_scale"], in["hysteresis"] = ir.Scalar(scale), ir.Scalar(hysteresis)
	in["diverged"] = ir.Scalar(diverged)
	a, err := device.Run(f, code, image, in, scaled, 1)
	if err != nil {
		t.Fatal(err)
	}
	out := []*ir.Tensor{nil, ir.Scalar(0)}
	if bad == 0 {
		if out, err = ir.Eval(f, in, st); err != nil {
			t.Fatal(err)
		}
	}
	return a.Weights, st.Weights, a.Results[1].Data[0], out[1].Data[0], a.Copies, a.State
}

func word(state []byte, at int) uint32   { return binary.LittleEndian.Uint32(state[at:]) }
func float(state []byte, at int) float64 { return float64(math.Float32frombits(word(state, at))) }

// TestOptimizer holds an update to ir.Eval, and its copies of the weights to the weights.
func TestOptimizer(t *testing.T) {
	for _, c := range []struct {
		d     ir.DType
		scale float64
	}{{ir.F32, 1}, {ir.BF16, 1}, {ir.F16, 1024}} {
		t.Run(string(c.d), func(t *testing.T) {
			got, want, norm, wantNorm, copies, state := optimizerStep(t, c.d, 3, c.scale, 2, 0, 0)
			if math.Abs(norm-wantNorm) > 1e-5*wantNorm {
				t.Errorf("norm %v, want %v", norm, wantNorm)
			}
			for name, w := range want {
				compare(t, "weight "+name, got[name], w, 0, 0)
				for i, x := range got[name].Data {
					if copies[name].Data[i] != ir.Round(x, c.d) {
						t.Fatalf("the copy of %s[%d] = %v is %v", name, i, x, copies[name].Data[i])
					}
				}
			}
			if word(state, 32) != 0 || word(state, 28) != 0 {
				t.Errorf("diverged %d, skipped %d", word(state, 32), word(state, 28))
			}
		})
	}
}

// TestOptimizerLeavesNoTrace: a step whose gradients are not finite changes no weight. In f16 it lowers the loss scale once
// overflows are no longer forgiven; otherwise, and where the scale is at its least, the run is marked as diverged.
func TestOptimizerLeavesNoTrace(t *testing.T) {
	for _, c := range []struct {
		d                               ir.DType
		scale, hysteresis, bad          float64
		afterScale                      float64
		afterHysteresis, skip, diverged uint32
	}{
		{ir.F32, 1, 0, math.Inf(1), 1, 0, 0, 5},
		{ir.BF16, 1, 0, math.NaN(), 1, 0, 0, 5},
		{ir.F16, 1024, 2, math.Inf(1), 1024, 1, 1, 0},
		{ir.F16, 1024, 1, math.NaN(), 512, 0, 1, 0},
		{ir.F16, 1024, 0, math.Inf(-1), 512, 0, 1, 0},
		{ir.F16, 1, 1, math.Inf(1), 1, 0, 0, 5},
	} {
		t.Run(fmt.Sprint(c.d, c.scale, c.hysteresis), func(t *testing.T) {
			got, before, norm, _, _, state := optimizerStep(t, c.d, 5, c.scale, c.hysteresis, c.bad, 0)
			if norm-norm == 0 {
				t.Errorf("norm %v", norm)
			}
			for name, w := range before {
				for i, x := range w.Data {
					if got[name].Data[i] != x {
						t.Fatalf("%s[%d] went from %v to %v", name, i, x, got[name].Data[i])
					}
				}
			}
			if s := float(state, 16); s != c.afterScale || word(state, 24) != c.afterHysteresis || word(state, 28) != c.skip || word(state, 32) != c.diverged || float(state, 76) != c.scale {
				t.Errorf("scale %v, of the step %v, hysteresis %d, skipped %d, diverged %d", s, float(state, 76), word(state, 24), word(state, 28), word(state, 32))
			}
		})
	}
}

// TestOptimizerAfterDivergence: a step behind one that diverged, under way before anybody could see it, changes nothing,
// however good its gradients and whatever they did to the loss scale else.
func TestOptimizerAfterDivergence(t *testing.T) {
	for _, c := range []struct {
		d          ir.DType
		scale, bad float64
	}{{ir.F32, 1, 0}, {ir.BF16, 1, 0}, {ir.BF16, 1, math.NaN()}, {ir.F16, 1024, 0}, {ir.F16, 1024, math.Inf(1)}} {
		t.Run(fmt.Sprint(c.d, c.bad), func(t *testing.T) {
			got, _, _, _, _, state := optimizerStep(t, c.d, 6, c.scale, 1, c.bad, 5)
			_, before, _, _, _, _ := optimizerStep(t, c.d, 6, c.scale, 1, math.NaN(), 5)
			for name, w := range before {
				if !slices.Equal(got[name].Data, w.Data) {
					t.Errorf("%s has changed", name)
				}
			}
			if word(state, 32) != 5 || word(state, 36) != 0 || float(state, 16) != c.scale || word(state, 24) != 1 || word(state, 28) != 0 {
				t.Errorf("diverged %d, update %d, scale %v, hysteresis %d, skipped %d", word(state, 32), word(state, 36), float(state, 16), word(state, 24), word(state, 28))
			}
		})
	}
}
