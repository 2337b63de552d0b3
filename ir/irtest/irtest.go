// Package irtest draws inputs and weights for functions, and compares what two runs left, for tests.
package irtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// Draw returns inputs for f and a state with weights, drawn from seed: the same for functions of the same weights and
// inputs. Positions count up along a sequence; a prefill starts slot 0; a decode writes at position 0 of each slot.
func Draw(f *ir.Func, seed uint64) (map[string]*ir.Tensor, *ir.State) {
	state := ir.NewState()
	for _, p := range f.Params {
		if p.Cache || len(p.Parts) > 0 {
			continue
		}
		for i := range p.Members() {
			name := p.Member(p.From + i)
			r := source(seed, name)
			w := ir.NewTensor(p.Type.Shape()...)
			for k := range w.Data {
				w.Data[k] = 0.5 * r.NormFloat64()
				if p.Init.Kind == "constant" {
					w.Data[k] = p.Init.Scale + 0.2*r.NormFloat64()
				}
			}
			state.Weights[name] = w
		}
	}
	in := map[string]*ir.Tensor{}
	for _, v := range f.Inputs {
		shape := v.Type.Shape()
		if v.Axis != "" {
			shape = append([]int{f.Symbol("A")}, shape...)
		}
		x, r := ir.NewTensor(shape...), source(seed, v.Name)
		for k := range x.Data {
			x.Data[k] = draw(f, v, r, k)
		}
		in[v.Name] = x
	}
	return in, state
}

// source gives each name its own numbers, whatever else is drawn.
func source(seed uint64, name string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

func draw(f *ir.Func, v *ir.Value, r *rand.Rand, k int) float64 {
	switch v.Name {
	case "tokens":
		return float64(r.IntN(f.Symbol("V")))
	case "targets":
		if r.IntN(5) == 0 {
			return -100
		}
		return float64(r.IntN(f.Symbol("V")))
	case "positions":
		if f.Name == "decode" {
			return 0
		}
		return float64(k % v.Type.Cols())
	case "slots":
		if f.Name == "decode" {
			return float64(k)
		}
		return 0
	case "lr":
		return 0.01
	case "step", "seed":
		return 3
	}
	return r.NormFloat64()
}

// Near says where two lists of results differ by more than tol, relative to the largest number of a tensor. Results that
// only one of them has are left out.
func Near(got, want []*ir.Tensor, tol float64) error {
	for i := range min(len(got), len(want)) {
		if err := near(got[i], want[i], tol); err != nil {
			return fmt.Errorf("result %d: %w", i, err)
		}
	}
	return nil
}

// NearState is Near for the weights, gradients and caches that two runs left.
func NearState(got, want *ir.State, tol float64) error {
	for _, s := range []struct {
		kind      string
		got, want map[string]*ir.Tensor
	}{{"weight", got.Weights, want.Weights}, {"gradient", got.Grads, want.Grads}, {"cache", got.Caches, want.Caches}} {
		for _, name := range keys(s.got, s.want) {
			if s.got[name] == nil || s.want[name] == nil {
				return fmt.Errorf("%s %s is there in one of the two runs", s.kind, name)
			}
			if err := near(s.got[name], s.want[name], tol); err != nil {
				return fmt.Errorf("%s %s: %w", s.kind, name, err)
			}
		}
	}
	return nil
}

func keys(maps ...map[string]*ir.Tensor) []string {
	var names []string
	for _, m := range maps {
		for n := range m {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func near(got, want *ir.Tensor, tol float64) error {
	if !slices.Equal(got.Shape, want.Shape) {
		return fmt.Errorf("shape %v, want %v", got.Shape, want.Shape)
	}
	size := 0.0
	for _, x := range want.Data {
		size = max(size, math.Abs(x))
	}
	for i, x := range want.Data {
		if d := math.Abs(got.Data[i] - x); !(d <= tol*max(size, 1e-6)) { // NaN fails too
			return fmt.Errorf("element %d is %v, want %v", i, got.Data[i], x)
		}
	}
	return nil
}
