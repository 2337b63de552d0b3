package lm

import (
	"math"

	"github.com/tfc-dev/tfc/runtime/cpu"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// sampler picks tokens from logits. It allocates only when it is made.
type sampler struct {
	weight []float64 // of each token: its probability, times a constant
	heap   []int32   // tokens by rank
}

func newSampler(vocabulary int) *sampler {
	return &sampler{weight: make([]float64, vocabulary), heap: make([]int32, vocabulary)}
}

// noToken is picked where logits are not finite.
const noToken = -1

// pick returns the next token of a sequence, which stands at a position, or noToken. A token of higher logit, or of lower id among equals, ranks
// first. In order: the logits are divided by the temperature; the TopK first tokens stay; of these, the fewest first ones
// that hold TopP of the probability (Holtzman et al., arXiv 1904.09751); one is drawn. Temperature 0 takes the first.
// The draw depends on the seed, the sequence and the position alone. A logit of -Inf is a token that is never picked.
func (s *sampler) pick(logits []float32, o PickOptions, position int) int32 {
	if 0 < o.Tokens && o.Tokens < len(logits) {
		logits = logits[:o.Tokens]
	}
	first := 0
	for i, v := range logits {
		if !(v <= math.MaxFloat32) { // +Inf or NaN
			return noToken
		}
		if v > logits[first] {
			first = i
		}
	}
	if logits[first] < -math.MaxFloat32 {
		return noToken
	}
	if o.Temperature == 0 {
		return int32(first)
	}
	sum := cpu.ExpWeights(s.weight, logits, float64(logits[first]), o.Temperature)
	u := uniform(o.Seed, o.Sequence, position)
	if p := o.TopP; o.TopK > 0 && o.TopK < len(logits) || p > 0 && p < 1 {
		return s.drawFirst(logits, o, u, sum)
	}
	return s.drawAny(len(logits), u*sum)
}

// drawAny returns the token in which the running sum of the weights passes the mark.
func (s *sampler) drawAny(n int, mark float64) int32 {
	const stretch = 64 // whose sum does not wait for one addition after another
	sum, from := 0.0, 0
	for ; from+stretch < n; from += stretch {
		var a, b, c, d float64
		for w := s.weight[from : from+stretch]; len(w) >= 4; w = w[4:] {
			a, b, c, d = a+w[0], b+w[1], c+w[2], d+w[3]
		}
		next := sum + (a + b + (c + d))
		if next > mark {
			break
		}
		sum = next
	}
	token := -1
	for i, w := range s.weight[from:n] {
		if w > 0 {
			token = from + i
			if sum += w; sum > mark {
				return int32(token)
			}
		}
	}
	for token < 0 || s.weight[token] == 0 { // rounding keeps the sum below the mark: the last one
		if token--; token < 0 {
			token = n - 1
		}
	}
	return int32(token)
}

// drawFirst draws among the first tokens that TopK and TopP leave. u is uniform in [0, 1), sum that of all weights.
func (s *sampler) drawFirst(logits []float32, o PickOptions, u, sum float64) int32 {
	p := o.TopP
	if p == 0 {
		p = 1
	}
	byMass := o.TopK == 0 || o.TopK >= len(logits)
	least := 0.0
	if byMass {
		// Tokens that hold less than (1-p)/n each hold less than 1-p together, so none of them is needed to reach p.
		// Without them the heap is small.
		least = (1 - p) / float64(len(logits)) * sum
	}
	n := 0
	for i := range logits {
		if s.weight[i] >= least {
			s.heap[n] = int32(i)
			n++
		}
	}
	heap := s.heap[:n]
	for i := n/2 - 1; i >= 0; i-- {
		sink(heap, i, logits)
	}
	// Tokens are taken in rank order, from the top of the heap to behind it: the one of rank r ends at heap[n-1-r].
	taken := 0
	take := func() float64 {
		last := n - 1 - taken
		heap[0], heap[last] = heap[last], heap[0]
		sink(heap[:last], 0, logits)
		taken++
		return s.weight[heap[last]]
	}
	if !byMass { // what TopP shares out is the probability of the TopK first
		sum = 0
		for taken < min(o.TopK, n) {
			sum += take()
		}
	}
	mass, kept := 0.0, 0
	for kept < n && (byMass || kept < taken) && mass < p*sum {
		if kept == taken {
			take()
		}
		mass += s.weight[heap[n-1-kept]]
		kept++
	}
	mark, reached := u*mass, 0.0
	for r := range kept {
		token := heap[n-1-r]
		if reached += s.weight[token]; reached > mark {
			return token
		}
	}
	return heap[n-1] // only where rounding keeps the sum below the mark
}

// sink moves heap[i] down to its place: a token ranks before those below it.
func sink(heap []int32, i int, logits []float32) {
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && before(heap[child+1], heap[child], logits) {
			child++
		}
		if !before(heap[child], heap[i], logits) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}

// before says whether token a ranks before token b.
func before(a, b int32, logits []float32) bool {
	return logits[a] > logits[b] || logits[a] == logits[b] && a < b
}

// streamSample keeps the numbers drawn here apart from those of dropout and initialisation.
const streamSample = 0x5A3B1E00

// uniform draws from [0, 1), with 53 bits.
func uniform(seed uint64, sequence, position int) float64 {
	w := rng.Key{Seed: seed, Step: uint32(sequence), Stream: streamSample}.Block(uint64(position))
	return float64(uint64(w[0])<<21|uint64(w[1])>>11) / (1 << 53)
}
