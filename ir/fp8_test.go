package ir_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

// eightBits lists the numbers of a type from 0 up, by their bits: so many behind the first, and an exponent.
func eightBits(d ir.DType) (all []float64) {
	fraction, bias, codes := 3, 7, 0x7f
	if d == ir.E5M2 {
		fraction, bias, codes = 2, 15, 0x7c
	}
	for code := range codes {
		exponent, f := code>>fraction, float64(code&(1<<fraction-1))
		if exponent == 0 {
			all = append(all, math.Ldexp(f, 1-bias-fraction))
		} else {
			all = append(all, math.Ldexp(f+float64(int(1)<<fraction), exponent-bias-fraction))
		}
	}
	return all
}

// TestRoundTo8Bits holds Round to the nearest of all numbers of a type, the one with even bits where two are.
func TestRoundTo8Bits(t *testing.T) {
	for d, most := range ir.EightBits {
		numbers := eightBits(d)
		if last := numbers[len(numbers)-1]; last != most || !slices.IsSorted(numbers) {
			t.Fatalf("the largest number of %s is %g, not %g", d, last, most)
		}
		check := func(x, want float64) {
			t.Helper()
			for _, sign := range []float64{1, -1} {
				if got := ir.Round(sign*x, d); got != sign*want || math.Signbit(got) != (sign < 0) {
					t.Fatalf("%g becomes %g in %s, not %g", sign*x, got, d, sign*want)
				}
			}
		}
		for i, a := range numbers {
			check(a, a)
			if i+1 == len(numbers) {
				break
			}
			b := numbers[i+1]
			even := a
			if i%2 == 1 {
				even = b
			}
			middle := (a + b) / 2
			check(middle, even)
			check(math.Nextafter(middle, a), a)
			check(math.Nextafter(middle, b), b)
		}
		for _, x := range []float64{most * 1.01, 1e30, math.Inf(1)} {
			check(x, most)
		}
		if got := ir.Round(math.NaN(), d); !math.IsNaN(got) {
			t.Errorf("NaN becomes %g in %s", got, d)
		}
	}
}

func TestQuantizeScale(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for d, most := range ir.EightBits {
		for range 10000 {
			amax := math.Ldexp(1+r.Float64(), r.IntN(240)-110)
			if r.IntN(4) == 0 {
				amax = math.Ldexp(most, r.IntN(100)-50)
			}
			s := ir.QuantizeScale(amax, d)
			if f, _ := math.Frexp(s); f != 0.5 || amax/s > most || amax/(s/2) <= most {
				t.Fatalf("the scale of %g in %s is %g", amax, d, s)
			}
		}
		for amax, want := range map[float64]float64{0: 1, 1e-45: math.Ldexp(1, -126), math.Inf(1): math.Inf(1)} {
			if s := ir.QuantizeScale(amax, d); s != want {
				t.Errorf("the scale of %g in %s is %g, not %g", amax, d, s, want)
			}
		}
		if s := ir.QuantizeScale(math.NaN(), d); !math.IsNaN(s) {
			t.Errorf("the scale of NaN in %s is %g", d, s)
		}
	}
}

func TestTransposed(t *testing.T) {
	for dims, want := range map[string]string{
		"B=2 T=3 D=4": "bf16[D,B*T] 4 6", "2 3 D=4": "bf16[D,6] 4 6", "N+1=5 B=2 D=4": "bf16[D,(N+1)*B] 4 10", "H+G=6 D=4": "bf16[D,H+G] 4 6",
	} {
		x := ir.Type{DType: ir.BF16}
		for _, text := range strings.Fields(dims) {
			d, err := ir.ParseDim(text)
			if err != nil {
				t.Fatal(err)
			}
			x.Dims = append(x.Dims, d)
		}
		y := ir.Transposed(x)
		if got := fmt.Sprint(y, " ", y.Rows(), " ", y.Cols()); got != want {
			t.Errorf("%s transposed is %s, not %s", dims, got, want)
		}
	}
}

// TestHistories follows the largest magnitudes through steps of two micro-batches.
func TestHistories(t *testing.T) {
	f, err := parser.IR("delayed", `dims A=2 N=2 D=2
func train(%x bf16[N,D] per micro, %start f32[1]) {
  turn_amax() {slots: 1}
  %last f32[1] = for m in micro 0..2 carry %before f32[1] = %start {
    %amax f32[1] = amax(%x[m], _, _) {history: 1}
    %q e4m3[N,D], %t e4m3[D,N], %s f32[1] = quantize(%x[m], %amax, _, _) {history: 1, to: "e4m3"}
    yield %amax
  }
  return %last
}
`)
	if err != nil {
		t.Fatal(err)
	}
	state := ir.NewState()
	for i, step := range []struct {
		x    [2]float64 // the largest of each micro-batch
		amax float64    // what the second is scaled for
	}{
		{[2]float64{3, 5}, 5},  // nothing before: what it is now
		{[2]float64{1, 2}, 10}, // twice what the step before came to
		{[2]float64{40, 7}, 4}, // grown beyond
		{[2]float64{0, 0}, 80},
		{[2]float64{0, 6}, 80}, // zeros are no measure
		{[2]float64{1, math.NaN()}, 12},
		{[2]float64{1, 9}, 12}, // nor is what is not finite
		{[2]float64{1, math.Inf(-1)}, 18},
		{[2]float64{1, 2}, 18},
	} {
		x := ir.NewTensor(2, 2, 2)
		x.Data[1], x.Data[6] = -step.x[0], step.x[1]
		out, err := ir.Eval(f, map[string]*ir.Tensor{"x": x, "start": ir.NewTensor(1)}, state)
		if err != nil {
			t.Fatal(err)
		}
		if out[0].Data[0] != step.amax {
			t.Errorf("step %d is scaled for %g, want %g", i, out[0].Data[0], step.amax)
		}
	}
	for first, want := range map[int]float64{2: 7, 3: 7, 4: 0, 5: 0} { // steps that measure what has been zeros so far
		state := ir.NewState()
		for step := 1; step <= first; step++ {
			x := ir.NewTensor(2, 2, 2)
			if step == first {
				x.Data[5] = 7
			}
			out, err := ir.Eval(f, map[string]*ir.Tensor{"x": x, "start": ir.NewTensor(1)}, state)
			if err != nil {
				t.Fatal(err)
			}
			if step == first && out[0].Data[0] != want {
				t.Errorf("zeros until step %d are scaled for %g then, want %g", step, out[0].Data[0], want)
			}
		}
	}
}

// TestFP8Rejects: products and sources that no kernel has do not verify.
func TestFP8Rejects(t *testing.T) {
	const sound = `dims N=16 D=32 F=48
param @g f32[F,D] {init: "normal", scale: 0.02}
param @b f32[F] {init: "normal", scale: 0.02}
func f(%x e4m3[N,D], %w e4m3[F,D], %s f32[1], %n f32[], %dy e5m2[F,N], %xt e4m3[D,N], %a bf16[N,F], %c bf16[N,F], %narrow bf16[N,D]) {
  %y bf16[N,F] = linear_fp8(%x, %w, %s, %s, @b, _)
  linear_dw_fp8(%dy, %xt, %s, %s) into @g
  %q e5m2[N,F], %t e5m2[F,N], %qs f32[1] = quantize(%a, %s, %c, _) into @b {fn: "silu", of: "glu", to: "e5m2"}
  %p e4m3[N,F], %pt e4m3[F,N], %ps f32[1], %kept bf16[N,F] = linear_quantize(%x, %w, %s, %s, @b, _) {fn: "gelu", history: 1, of: "act", to: "e4m3"}
  %d e4m3[N,F], %dt e4m3[F,N], %ds f32[1] = linear_quantize(%x, %w, %s, %s, _, %kept) {fn: "gelu", history: 2, of: "act_grad", to: "e4m3"}
  return %y, %q
}
`
	if _, err := parser.IR("sound", sound); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"linear_fp8(%x, %w, %s, %s, @b, _)", "linear_fp8(%a, %w, %s, %s, @b, _)", "%w is e4m3[F,D], want [0, 48]"},
		{"linear_fp8(%x, %w, %s, %s, @b, _)", "linear_fp8(%narrow, %w, %s, %s, @b, _)", "%narrow is bf16[N,D], want 8 bits"},
		{"linear_fp8(%x, %w, %s, %s, @b, _)", "linear_fp8(%x, %w, %n, %s, @b, _)", "%n is f32[], want f32[1]"},
		{"linear_dw_fp8(%dy, %xt, %s, %s)", "linear_dw_fp8(%dy, %x, %s, %s)", "want [0, 16]"},
		{"%x e4m3[N,D], %w e4m3[F,D]", "%x e5m2[N,D], %w e5m2[F,D]", "%x and %w are both e5m2"},
		{`of: "glu", to`, `of: "sum", to`, `there is no source "sum"`},
		{`of: "glu", to`, `of: "act", to`, `"act" has 1 operands`},
		{`fn: "silu", of: "glu", to`, `fn: "silu", to`, "an activation comes with what it is for"},
		{`fn: "silu", of`, `fn: "sine", of`, `unknown activation "sine"`},
		{`to: "e5m2"`, `to: "bf16"`, `"bf16" is no type of 8 bits`},
		{"quantize(%a, %s, %c, _)", "quantize(%a, %s, %narrow, _)", "want the shape of"},
		{"quantize(%a, %s, %c, _)", "quantize(%a, %n, %c, _)", "%n is f32[], want f32[1]"},
		{"_) into @b {", "_) into @g {", "want 48 elements"},
		{"linear_quantize(%x, %w, %s, %s, @b, _)", "linear_quantize(%a, %w, %s, %s, @b, _)", "%w is e4m3[F,D], want [0, 48]"},
		{"linear_quantize(%x, %w, %s, %s, @b, _)", "linear_quantize(%x, %w, %s, %s, @b, %a)", `"act" takes nothing that was kept`},
		{"linear_quantize(%x, %w, %s, %s, _, %kept)", "linear_quantize(%x, %w, %s, %s, _, _)", "what was kept is no bf16[N,F]"},
		{"linear_quantize(%x, %w, %s, %s, _, %kept)", "linear_quantize(%x, %w, %s, %s, _, %narrow)", "what was kept is no bf16[N,F]"},
		{"history: 2, of: \"act_grad\"", "history: 2, of: \"sum\"", `there is no end "sum"`},
		{"history: 2, of", "history: 0, of", "has a history"},
	} {
		if strings.Count(sound, c.old) != 1 {
			t.Errorf("%q is in the function %d times", c.old, strings.Count(sound, c.old))
		}
		if _, err := parser.IR("broken", strings.Replace(sound, c.old, c.new, 1)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s:\ngot  %v\nwant %s", c.new, c.old, err, c.want)
		}
	}
}
