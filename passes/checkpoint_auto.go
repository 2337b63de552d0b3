package passes

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// candidate is one way to run all backward loops of a function.
type candidate struct {
	segment int      // layers in a segment; at most 1 where there are no segments
	loops   []stages // by pair
}

// stages is what one pair of loops does: the first layers under one policy, the rest under another. Within segments
// there are no first layers.
type stages struct {
	layers      int // fewer than the loop has
	first, rest *policy
}

// search looks for the candidate that takes least time within a budget. Its function is left as it is; every candidate
// is tried on a copy, with the places that plan-memory really gives.
type search struct {
	f       *ir.Func
	target  *ir.Target
	held    Holding
	fixed   int            // bytes of what is held
	fronts  [][]policy     // by pair: the policies worth having
	hulls   [][]int        // by pair: those of them on the hull
	layers  []int          // by pair
	forward []float64      // by pair: seconds of one layer's forward pass
	places  *planner       // of f, where all is kept
	tries   int            // plans made
	err     error          // why a candidate has no plan
	bytes   map[string]int // by candidate: what it needs
	beside  int            // the least that a plan needed beside what it keeps
}

func newSearch(f *ir.Func, ps []pair, t *ir.Target, held Holding) *search {
	s := &search{f: f, target: t, held: held, fixed: sum(held.Parts), places: newPlanner(f), bytes: map[string]int{}, beside: math.MaxInt}
	s.places.share(f.Body)
	for _, p := range ps {
		front := policies(p, t, s.storage)
		s.fronts = append(s.fronts, front)
		s.hulls = append(s.hulls, hull(front))
		s.layers = append(s.layers, p.layers())
		time := 0.0
		for _, op := range p.forward.Loop.Body.Ops {
			time += seconds(op, t)
		}
		s.forward = append(s.forward, time)
	}
	return s
}

// storage names the memory that v shares with other values where all are kept, and its size.
func (s *search) storage(v *ir.Value) (any, int) {
	// What the carry's ring holds beside the carry is overwritten in the next layer: kept, it would take memory of its own.
	if at := s.places.spots[v]; at != nil && (v.Op == nil || !at.in.ring) {
		return at.in, at.in.bytes
	}
	return v, roundUp(v.Type.Elems()*v.Type.DType.Bytes(), align)
}

// everything is the candidate that computes all again: layer by layer where n is 1, in segments of n layers otherwise.
func (s *search) everything(n int) candidate {
	c, _ := s.inSegments(n, 0)
	return c
}

// inSegments is the candidate with segments of n layers. Within a segment its loops take policy number level of their
// hulls: 0 keeps all that is computed again until the segment is done. deeper says whether there is another level.
func (s *search) inSegments(n, level int) (c candidate, deeper bool) {
	c.segment = n
	for _, r := range s.runs(n) {
		for i := r.from; i < r.to; i++ {
			front := s.fronts[i]
			last := len(s.hulls[i]) - 1
			at := min(level, last)
			if n == 1 || r.layers == 1 { // nothing is won by keeping what is used at once
				at = last
			}
			deeper = deeper || at < last
			c.loops = append(c.loops, stages{rest: &front[s.hulls[i][at]]})
		}
	}
	return c, deeper
}

// run is a run of loop pairs [from, to) with so many layers together.
type run struct{ from, to, layers int }

// runs cuts the loops into those that a segment of n layers holds together; longer loops stand alone.
func (s *search) runs(n int) []run {
	var list []run
	for i, layers := range s.layers {
		if k := len(list) - 1; k >= 0 && list[k].layers+layers <= n {
			list[k].to, list[k].layers = i+1, list[k].layers+layers
			continue
		}
		list = append(list, run{i, i + 1, layers})
	}
	return list
}

// apply rewrites f, the search's function or a copy of it.
func (s *search) apply(f *ir.Func, c candidate) {
	var name func(string) string
	if f == s.f { // names matter only where they stay
		name = ir.NewBuilder(f, f.Body).Name
	}
	ps := pairs(f)
	if c.segment > 1 {
		for _, r := range s.runs(c.segment) {
			switch {
			case r.layers > c.segment:
				ps[r.from] = segment(ps[r.from], c.segment, name)
			case r.layers > 1:
				repeat(ps[r.from:r.to], name)
			}
		}
	}
	for i, p := range ps {
		if st := c.loops[i]; st.layers > 0 {
			var first pair
			first, p = split(f, p, st.layers, name)
			recompute(first, st.first.ways, name)
		}
		recompute(p, c.loops[i].rest.ways, name)
	}
}

// needs returns the bytes of the whole run under c.
func (s *search) needs(c candidate) int {
	key := fmt.Sprint(c)
	if n, ok := s.bytes[key]; ok {
		return n
	}
	s.tries++
	s.bytes[key] = s.fixed + s.arena(c)
	s.beside = min(s.beside, s.bytes[key]-s.kept(c))
	return s.bytes[key]
}

// arena plans the memory of a copy under c, and returns the bytes of the arena; too many for any budget where there is no plan.
func (s *search) arena(c candidate) int {
	f := s.f.Clone()
	s.apply(f, c)
	_, err := fuseGLU(f, Options{Target: s.target}) // which comes before the plan and has less to keep
	if err == nil {
		_, err = planMemory(f, Options{})
	}
	if err != nil {
		s.err = err
		return math.MaxInt / 4
	}
	return roundUp(max(f.Plan.Bytes, s.held.Arena), s.held.Align)
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
	}
	if c.segment > 1 {
		for _, r := range s.runs(c.segment) {
			for i := r.from; i < r.to && r.layers > 1; i++ {
				t += float64(s.layers[i]) * s.forward[i]
			}
		}
	}
	return t
}

// chain is a list of candidates from that which keeps everything to that which keeps the stream alone. Each differs from
// the one before in one layer, which takes the next policy of its loop's hull; the steps that save most bytes for their
// time come first.
type chain struct {
	s     *search
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
		h := s.hulls[i]
		for at := range len(h) - 1 {
			a, b := front[h[at]], front[h[at+1]]
			c.steps = append(c.steps, step{i, at, (b.time - a.time) / float64(a.bytes-b.bytes)})
		}
		c.last += s.layers[i] * (len(h) - 1)
	}
	sort.SliceStable(c.steps, func(i, j int) bool { return c.steps[i].price < c.steps[j].price })
	return c
}

// at returns the candidate with index n.
func (c *chain) at(n int) candidate {
	var cand candidate
	for i, front := range c.s.fronts {
		cand.loops = append(cand.loops, stages{rest: &front[c.s.hulls[i][0]]})
	}
	for _, st := range c.steps {
		front, h := c.s.fronts[st.pair], c.s.hulls[st.pair]
		take := min(n, c.s.layers[st.pair])
		n -= take
		next := &front[h[st.at+1]]
		if take == c.s.layers[st.pair] {
			cand.loops[st.pair].rest = next
		} else if take > 0 {
			cand.loops[st.pair].layers, cand.loops[st.pair].first = take, next
		}
	}
	return cand
}

// maxTries bounds the plans made to refine a choice.
const maxTries = 48

// auto returns the candidate of least time among those that fit the budget, as far as it looks. If the last of the chain
// fits, the first that fits is found by bisection, and refined. Otherwise segments are tried.
func (s *search) auto(budget int) (candidate, error) {
	c := s.chain()
	all := c.at(0)
	if s.needs(all) <= budget {
		return all, nil
	}
	if end := c.at(c.last); s.needs(end) > budget {
		return s.segments(end, budget)
	}
	n := 1 + sort.Search(c.last-1, func(i int) bool { return s.needs(c.at(i+1)) <= budget })
	best := c.at(n)
	tries := s.tries + maxTries
	for i := range s.fronts {
		best = s.refine(best, i, budget, tries)
	}
	return best, nil
}

// kept returns the bytes that c keeps for all layers, as far as they are known before the plan.
func (s *search) kept(c candidate) int {
	n := 0
	for i, st := range c.loops {
		n += (s.layers[i] - st.layers) * st.rest.bytes
		if st.layers > 0 {
			n += st.layers * st.first.bytes
		}
	}
	return n
}

// refine tries other policies for loop pair i, beside those of the chain, that take less time than best. What a plan
// needs beside the kept values is known once it is made: until then, the least of any plan so far stands for it, and
// says for how many layers two policies must mix to fit. The fastest mix is tried first; one that does not fit comes
// again with what it has taught.
func (s *search) refine(best candidate, i, budget, tries int) candidate {
	front, layers := s.fronts[i], s.layers[i]
	var mixes []candidate
	// mix adds front[a] and front[b] with as many layers of b as fit, at least k.
	mix := func(a, b *policy, k, beside int) {
		x := candidate{loops: slices.Clone(best.loops)}
		x.loops[i] = stages{rest: a}
		if excess := s.kept(x) + beside - budget; a != b && excess > 0 {
			k = max(k, (excess+a.bytes-b.bytes-1)/(a.bytes-b.bytes))
		}
		if k == layers {
			x.loops[i] = stages{rest: b}
		} else if k > 0 {
			x.loops[i] = stages{layers: k, first: b, rest: a}
		}
		if k <= layers && s.kept(x)+beside <= budget {
			mixes = append(mixes, x)
		}
	}
	for a := range front {
		for b := a; b < len(front); b++ {
			mix(&front[a], &front[b], 0, s.beside)
		}
	}
	for len(mixes) > 0 && s.tries < tries {
		at := 0
		for j := range mixes {
			if s.time(mixes[j]) < s.time(mixes[at]) {
				at = j
			}
		}
		x := mixes[at]
		mixes = slices.Delete(mixes, at, at+1)
		if s.time(x) >= s.time(best) {
			break
		}
		need := s.needs(x)
		if need <= budget {
			return x
		}
		if st := x.loops[i]; st.layers > 0 {
			mix(st.rest, st.first, st.layers+1, need-s.kept(x))
		}
	}
	return best
}

// segments returns the best candidate in segments that fits the budget, or an error with what the smallest of all needs;
// end is the smallest without segments.
func (s *search) segments(end candidate, budget int) (candidate, error) {
	smallest := end
	var best *candidate
	layers := 0
	for _, n := range s.layers {
		layers += n
	}
	for _, n := range lengths(layers) {
		for level := 0; ; level++ {
			x, deeper := s.inSegments(n, level)
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
	switch {
	case best != nil:
		return *best, nil
	case s.err != nil:
		return candidate{}, s.err
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
	need := s.needs(c)
	return &BudgetError{Budget: budget, Smallest: need, Parts: append(slices.Clone(s.held.Parts), Category{"arena", need - s.fixed})}
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
