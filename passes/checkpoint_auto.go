package passes

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// candidate is one way to run all backward loops of a function.
type candidate struct {
	segment int      // layers in a segment; 0 where there are none
	loops   []stages // by pair
}

// stages is what one pair of loops does: the first layers under one policy, the rest under another. Within segments
// there are no first layers.
type stages struct {
	layers      int
	first, rest *policy
}

// search looks for the candidate that takes least time within a budget. Its function is left as it is; every candidate
// is tried on a copy, with the places that plan-memory really gives.
type search struct {
	f       *ir.Func
	fixed   int
	fronts  [][]policy // by pair: the policies worth having
	layers  []int      // by pair
	forward []float64  // by pair: seconds of one layer's forward pass
	tries   int        // plans made
	bytes   map[string]int
}

func newSearch(f *ir.Func, ps []pair, t *ir.Target) *search {
	s := &search{f: f, fixed: FixedBytes(f), bytes: map[string]int{}}
	plan := newPlanner(f)
	plan.share(f.Body)
	storage := func(v *ir.Value) (any, int) {
		// What the carry's ring holds beside the carry is overwritten in the next layer: kept, it would take memory of its own.
		if at := plan.spots[v]; at != nil && (v.Op == nil || !at.in.ring) {
			return at.in, at.in.bytes
		}
		return v, roundUp(v.Type.Elems()*v.Type.DType.Bytes(), align)
	}
	for _, p := range ps {
		s.fronts = append(s.fronts, policies(p, t, storage))
		s.layers = append(s.layers, p.layers())
		time := 0.0
		for _, op := range p.forward.Loop.Body.Ops {
			time += seconds(op, t)
		}
		s.forward = append(s.forward, time)
	}
	return s
}

// everything is the candidate that computes all again: layer by layer where n is 1, in segments of n layers otherwise.
func (s *search) everything(n int) candidate {
	var c candidate
	if n > 1 {
		c.segment = n
	}
	for _, front := range s.fronts {
		p := &front[len(front)-1]
		if n > 1 {
			p = &front[0]
		}
		c.loops = append(c.loops, stages{rest: p})
	}
	return c
}

// apply rewrites f, the search's function or a copy of it.
func (s *search) apply(f *ir.Func, c candidate) {
	var name func(string) string
	if f == s.f { // names matter only where they stay
		name = ir.NewBuilder(f, f.Body).Name
	}
	for i, p := range pairs(f) {
		st := c.loops[i]
		switch {
		case c.segment > 0:
			p = segment(p, c.segment, name)
		case st.layers == s.layers[i]:
			st.rest = st.first
		case st.layers > 0:
			var first pair
			first, p = split(f, p, st.layers, name)
			recompute(first, st.first.ways, name)
		}
		recompute(p, st.rest.ways, name)
	}
}

// needs returns the bytes of the whole run under c.
func (s *search) needs(c candidate) int {
	key := fmt.Sprint(c)
	if n, ok := s.bytes[key]; ok {
		return n
	}
	s.tries++
	f := s.f.Clone()
	s.apply(f, c)
	planMemory(f, Options{})
	s.bytes[key] = s.fixed + f.Plan.Bytes
	return s.bytes[key]
}

// time estimates the seconds that c computes again, for one micro-batch.
func (s *search) time(c candidate) float64 {
	t := 0.0
	for i, st := range c.loops {
		rest := s.layers[i] - st.layers
		t += float64(rest) * st.rest.time
		if st.layers > 0 {
			t += float64(st.layers) * st.first.time
		}
		if c.segment > 0 {
			t += float64(s.layers[i]) * s.forward[i]
		}
	}
	return t
}

// chain is a list of candidates from that which keeps everything to that which keeps the stream alone. Each differs from
// the one before in one layer, which takes the next policy of its loop's hull; the steps that save most bytes for their
// time come first.
type chain struct {
	s     *search
	hulls [][]int
	steps []step
	last  int // index of the last candidate
}

// step takes the layers of loop pair, one by one, from policy hull[at] to hull[at+1].
type step struct {
	pair, at int
	price    float64 // seconds for a byte
}

func (s *search) chain() *chain {
	c := &chain{s: s}
	for i, front := range s.fronts {
		h := hull(front)
		c.hulls = append(c.hulls, h)
		for at := range len(h) - 1 {
			a, b := front[h[at]], front[h[at+1]]
			c.steps = append(c.steps, step{i, at, (b.time - a.time) / float64(a.bytes-b.bytes)})
		}
		c.last += s.layers[i] * (len(h) - 1)
	}
	sort.SliceStable(c.steps, func(i, j int) bool { return c.steps[i].price < c.steps[j].price })
	return c
}

// at returns the candidate with index n, and how far it is into a step: 0 where no loop has two policies.
func (c *chain) at(n int) (cand candidate, into int) {
	for i, front := range c.s.fronts {
		cand.loops = append(cand.loops, stages{rest: &front[c.hulls[i][0]]})
	}
	for _, st := range c.steps {
		if n == 0 {
			break
		}
		front, h := c.s.fronts[st.pair], c.hulls[st.pair]
		take := min(n, c.s.layers[st.pair])
		n -= take
		next := &front[h[st.at+1]]
		if take < c.s.layers[st.pair] {
			cand.loops[st.pair].layers, cand.loops[st.pair].first = take, next
			return cand, take
		}
		cand.loops[st.pair].rest = next
	}
	return cand, 0
}

// maxTries bounds the plans that auto makes beyond those it cannot do without.
const maxTries = 64

// auto returns the candidate of least time among those that fit the budget. Candidates of the chain come first: if its
// last fits, the first that fits is found by bisection. Plans are not quite monotone along the chain, since two loops in
// place of one have buffers of their own, and it leaves out policies beside the hull: both kinds of neighbours are tried.
// Where the chain's last does not fit, segments are.
func (s *search) auto(budget int) (candidate, error) {
	c := s.chain()
	all, _ := c.at(0)
	if s.needs(all) <= budget {
		return all, nil
	}
	end, _ := c.at(c.last)
	if s.needs(end) > budget {
		return s.segments(end, budget)
	}
	n := 1 + sort.Search(c.last-1, func(i int) bool {
		x, _ := c.at(i + 1)
		return s.needs(x) <= budget
	})
	best, into := c.at(n)
	near := []int{n - 2, n - 3, n - 4}
	if into > 0 {
		near = append(near, n-into)
	}
	for _, m := range near {
		if m > 0 {
			x, _ := c.at(m)
			best = s.better(best, x, budget)
		}
	}
	return s.refine(best, budget), nil
}

// better returns x where it fits and takes less time than best.
func (s *search) better(best, x candidate, budget int) candidate {
	if s.time(x) < s.time(best) && s.needs(x) <= budget {
		return x
	}
	return best
}

// refine gives all layers of one loop after another the fastest policy of its front that fits.
func (s *search) refine(best candidate, budget int) candidate {
	for i, front := range s.fronts {
		for j := range front { // the fastest first
			x := candidate{best.segment, slices.Clone(best.loops)}
			x.loops[i] = stages{rest: &front[j]}
			if s.time(x) >= s.time(best) || s.tries > maxTries {
				break
			}
			if s.needs(x) <= budget {
				best = x
				break
			}
		}
	}
	return best
}

// segments returns the best candidate in segments that fits the budget, or an error with what the smallest of all needs;
// end is the smallest without segments.
func (s *search) segments(end candidate, budget int) (candidate, error) {
	smallest := end
	var best *candidate
	for _, n := range lengths(slices.Max(s.layers)) {
		for level := 0; ; level++ {
			x := candidate{segment: n}
			deeper := false
			for _, front := range s.fronts {
				h := hull(front)
				deeper = deeper || level < len(h)-1
				x.loops = append(x.loops, stages{rest: &front[h[min(level, len(h)-1)]]})
			}
			need := s.needs(x)
			if need < s.needs(smallest) {
				smallest = x
			}
			if need <= budget && (best == nil || s.time(x) < s.time(*best)) {
				best = &x
			}
			if need <= budget || !deeper {
				break // a deeper level takes longer
			}
		}
	}
	if best != nil {
		return *best, nil
	}
	return candidate{}, s.tooSmall(smallest, budget)
}

// lengths returns the lengths of segments worth trying for layers in a loop: for every number of segments the shortest.
func lengths(layers int) []int {
	var list []int
	for segments := layers - 1; segments >= 1; segments-- {
		if n := (layers + segments - 1) / segments; len(list) == 0 || list[len(list)-1] != n {
			list = append(list, n)
		}
	}
	return list
}

// BudgetError says that no plan fits the budget.
type BudgetError struct {
	Budget   int
	Smallest int // bytes of the run that takes least
	Parts    []Category
}

func (e *BudgetError) Error() string {
	parts := make([]string, len(e.Parts))
	for i, p := range e.Parts {
		parts[i] = fmt.Sprintf("%s %s", p.Name, amount(p.Bytes))
	}
	return fmt.Sprintf("checkpointing: auto(%s) cannot fit: the smallest plan needs %s (%d bytes): %s",
		amount(e.Budget), amount(e.Smallest), e.Smallest, strings.Join(parts, ", "))
}

func (s *search) tooSmall(c candidate, budget int) error {
	f := s.f.Clone()
	s.apply(f, c)
	planMemory(f, Options{})
	return &BudgetError{Budget: budget, Smallest: s.fixed + f.Plan.Bytes, Parts: append(fixed(f), Category{"arena", f.Plan.Bytes})}
}

// amount writes bytes in the largest unit that leaves at least 1, rounded up to a tenth.
func amount(n int) string {
	for _, u := range []struct {
		name string
		size int
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			tenths := (n*10 + u.size - 1) / u.size
			return strings.TrimSuffix(fmt.Sprintf("%d.%d", tenths/10, tenths%10), ".0") + u.name
		}
	}
	return fmt.Sprintf("%dB", n)
}
