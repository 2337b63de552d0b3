package lm

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
)

func pick(t *testing.T, s *sampler, logits []float32, o PickOptions, sequence, position int) int {
	t.Helper()
	o.Sequence = sequence
	id := s.pick(logits, o, position)
	if id == noToken {
		t.Fatalf("no token of %v", logits)
	}
	return int(id)
}

// want returns the probabilities that pick's documentation promises, by a full sort.
func want(logits []float32, o PickOptions) []float64 {
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return logits[order[a]] > logits[order[b]] })
	p := make([]float64, len(logits))
	k := o.TopK
	if k == 0 || k > len(order) {
		k = len(order)
	}
	sum := 0.0
	for _, i := range order[:k] {
		p[i] = math.Exp((float64(logits[i]) - float64(logits[order[0]])) / o.Temperature)
		sum += p[i]
	}
	topP := o.TopP
	if topP == 0 {
		topP = 1
	}
	mass := 0.0
	for r, i := range order[:k] {
		if r > 0 && mass >= topP*sum {
			p[i] = 0
		}
		mass += p[i]
	}
	total := 0.0
	for _, v := range p {
		total += v
	}
	for i := range p {
		p[i] /= total
	}
	return p
}

func TestSamplesFollowTheDistribution(t *testing.T) {
	logits := []float32{1, 3, -2, 3, 0.5, 2.5, float32(math.Inf(-1)), 2, 1.5, -1}
	const n = 40_000
	for _, o := range []PickOptions{
		{Temperature: 1},
		{Temperature: 0.7, Seed: 2},
		{Temperature: 3, Seed: 3},
		{Temperature: 1, TopK: 3},
		{Temperature: 1, TopK: 2, TopP: 0.9},
		{Temperature: 1, TopP: 0.8},
		{Temperature: 2, TopP: 0.95, TopK: 6, Seed: 9},
		{Temperature: 1, TopK: 99, TopP: 0.999},
	} {
		p := want(logits, o)
		s := newSampler(len(logits))
		counts := make([]int, len(logits))
		for i := range n {
			counts[pick(t, s, logits, o, i%3, i/3)]++
		}
		chi2, freedom := 0.0, -1
		for i, c := range counts {
			if p[i] == 0 {
				if c > 0 {
					t.Errorf("%+v: token %d came %d times; it is left out", o, i, c)
				}
				continue
			}
			d := float64(c) - p[i]*n
			chi2 += d * d / (p[i] * n)
			freedom++
		}
		// Mean k and variance 2k; four standard deviations and a bit for few degrees of freedom.
		if k := float64(freedom); chi2 > k+4*math.Sqrt(2*k)+4 {
			t.Errorf("%+v: chi-square %.1f with %d degrees of freedom; counts %v, probabilities %v", o, chi2, freedom, counts, p)
		}
	}
}

// Every token that the cut of top-k and top-p leaves must be reached, and no other.
func TestCutsAgainstASort(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		n := 1 + r.IntN(40)
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(r.IntN(8)) / 2 // many ties
		}
		o := PickOptions{Temperature: 0.25 + 2*r.Float64(), TopK: r.IntN(n + 3), TopP: float64(r.IntN(11)) / 10, Seed: r.Uint64()}
		p := want(logits, o)
		var allowed, got []int
		for i, v := range p {
			if v > 0 {
				allowed = append(allowed, i)
			}
		}
		s := newSampler(n)
		seen := map[int]bool{}
		for position := range 3000 {
			seen[pick(t, s, logits, o, 0, position)] = true
		}
		for i := range seen {
			got = append(got, i)
			if p[i] == 0 {
				t.Errorf("%+v over %v: token %d is cut, yet came", o, logits, i)
			}
		}
		for _, i := range allowed {
			if p[i] > 0.01 && !seen[i] {
				t.Errorf("%+v over %v: token %d of probability %.3f never came; %v did", o, logits, i, p[i], got)
			}
		}
	}
}

func TestGreedyAndEdges(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	s := newSampler(8)
	for _, c := range []struct {
		name   string
		logits []float32
		o      PickOptions
		want   int
	}{
		{"ties go to the lowest id", []float32{1, 5, 5, 5}, PickOptions{}, 1},
		{"one token", []float32{-3}, PickOptions{Temperature: 1}, 0},
		{"top-k 1", []float32{0, 1, 1}, PickOptions{Temperature: 100, TopK: 1}, 1},
		{"top-p next to nothing", []float32{0, 1, 1}, PickOptions{Temperature: 100, TopP: 1e-300}, 1},
		{"temperature next to nothing", []float32{0, 1, 0.5}, PickOptions{Temperature: 5e-324}, 1},
		{"all but one forbidden", []float32{-inf, -inf, 2, -inf}, PickOptions{Temperature: 1, TopK: 3}, 2},
		{"all but one forbidden, top-p", []float32{-inf, -inf, 2, -inf}, PickOptions{Temperature: 1, TopP: 0.99}, 2},
		{"all but one forbidden, no cut", []float32{-inf, -inf, 2, -inf}, PickOptions{Temperature: 1}, 2},
		{"the rest is padding", []float32{1, 2, nan, 5}, PickOptions{Tokens: 2}, 1},
		{"no more tokens than logits", []float32{1, 2, 3}, PickOptions{Tokens: 9, Temperature: 1e-3}, 2},
		{"the largest numbers", []float32{-math.MaxFloat32, math.MaxFloat32}, PickOptions{Temperature: 1}, 1},
	} {
		for position := range 50 {
			if got := pick(t, s, c.logits, c.o, 0, position); got != c.want {
				t.Errorf("%s: token %d, want %d", c.name, got, c.want)
				break
			}
		}
	}
	for _, logits := range [][]float32{{nan, 1}, {1, nan}, {1, inf}, {inf, nan}, {-inf, -inf}, {nan, nan}} {
		for _, temperature := range []float64{0, 1} {
			if id := s.pick(logits, PickOptions{Temperature: temperature}, 0); id != noToken {
				t.Errorf("%v: token %d", logits, id)
			}
		}
	}
}

func TestDrawsAreCounted(t *testing.T) {
	logits := make([]float32, 1000)
	s := newSampler(len(logits))
	draws := func(seed uint64, sequence int) (out []int) {
		for position := range 20 {
			out = append(out, pick(t, s, logits, PickOptions{Temperature: 1, Seed: seed}, sequence, position))
		}
		return
	}
	a := draws(1, 0)
	if !slices.Equal(a, draws(1, 0)) {
		t.Error("the same seed, sequence and positions gave other tokens")
	}
	for _, b := range [][]int{draws(2, 0), draws(1, 1), draws(1<<40|1, 0)} {
		if slices.Equal(a, b) {
			t.Error("another seed or sequence gave the same tokens")
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	logits := make([]float32, 5000)
	for i := range logits {
		logits[i] = float32(i % 97)
	}
	s := newSampler(len(logits))
	for _, o := range []PickOptions{{}, {Temperature: 1}, {Temperature: 1, TopK: 50, TopP: 0.9}, {Temperature: 1, TopP: 0.9}} {
		if n := testing.AllocsPerRun(20, func() { pick(t, s, logits, o, 0, 0) }); n != 0 {
			t.Errorf("%+v: %v allocations a token", o, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 50257)
	for i := range logits {
		logits[i] = float32(3 * r.NormFloat64())
	}
	s := newSampler(len(logits))
	for name, o := range map[string]PickOptions{
		"greedy": {}, "all": {Temperature: 1}, "top-k=50": {Temperature: 1, TopK: 50}, "top-p=0.9": {Temperature: 1, TopP: 0.9},
	} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				s.pick(logits, o, i)
			}
		})
	}
}
