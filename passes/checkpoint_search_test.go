package passes

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

const searchSpec = `
model: {preset: gpt2, vocab_size: 50, hidden_size: 32, num_layers: 4, num_heads: 4, max_position_embeddings: 32}
tokenizer: tokenizer.json
train: {batch: 8}
`

// searchFor returns the search of a spec's train function.
func searchFor(t *testing.T, text string) (*search, []pair) {
	t.Helper()
	s, err := parser.Parse("search.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o := OptionsFor(s, ir.TargetNamed("cpu"))
	f := ir.Build(s, "train")
	if err := Run(f, o, "fuse-epilogue", nil); err != nil {
		t.Fatal(err)
	}
	ps := pairs(f)
	return newSearch(f, ps, o.Target, Holding{Parts: fixed(f), Align: align}), ps
}

// weigh returns what ways keep of a layer and the time they take, by following the backward loop's reads.
func weigh(p pair, ways []way, t *ir.Target, storage func(*ir.Value) (any, int)) (bytes int, time float64) {
	body := p.forward.Loop.Body
	kept := map[any]bool{}
	ran := map[*ir.Op]bool{}
	keepIt := func(v *ir.Value) {
		if key, n := storage(v); !kept[key] {
			kept[key] = true
			bytes += n
		}
	}
	var read func(vs []*ir.Value)
	read = func(vs []*ir.Value) {
		for _, v := range vs {
			if v == nil || v.Block != body {
				continue
			}
			if v.Op == nil {
				keepIt(v)
				continue
			}
			op := v.Op
			switch ways[slices.Index(body.Ops, op)] {
			case keep:
				keepIt(v)
				continue
			case derive:
				d, _ := derivationOf(op)
				if v == op.Results[d.from] {
					keepIt(v)
					continue
				}
				if !ran[op] {
					ran[op] = true
					time += seconds(d.op, t)
					read(d.op.Args)
				}
				continue
			}
			if !ran[op] {
				ran[op] = true
				time += seconds(op, t)
				read(op.Args)
			}
		}
	}
	for _, op := range p.backward.Loop.Body.Ops {
		read(op.Args)
	}
	return bytes, time
}

func TestPoliciesAreTheParetoFront(t *testing.T) {
	s, ps := searchFor(t, searchSpec)
	target, body := ir.TargetNamed("cpu"), ps[0].forward.Loop.Body
	all := []way{}
	best := map[int]float64{} // least time by bytes
	var try func(i int)
	try = func(i int) {
		if i == len(body.Ops) {
			if bytes, time := weigh(ps[0], all, target, s.storage); best[bytes] == 0 || time < best[bytes] {
				best[bytes] = max(time, 1e-30)
			}
			return
		}
		ways := []way{keep, again}
		if _, ok := derivationOf(body.Ops[i]); ok {
			ways = append(ways, derive)
		}
		for _, w := range ways {
			all = append(all, w)
			try(i + 1)
			all = all[:i]
		}
	}
	try(0)
	var sizes []int
	for bytes := range best {
		sizes = append(sizes, bytes)
	}
	slices.Sort(sizes)
	var want []policy
	least := math.Inf(1)
	for _, bytes := range sizes {
		if best[bytes] < least*(1-1e-12) {
			least = best[bytes]
			want = append(want, policy{bytes: bytes, time: least})
		}
	}
	slices.Reverse(want)
	if len(want) < 5 {
		t.Fatalf("a front of %d policies tests nothing", len(want))
	}
	got := s.fronts[0]
	if len(got) != len(want) {
		t.Errorf("%d policies, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i].bytes != want[i].bytes || math.Abs(got[i].time-want[i].time) > 1e-9*(got[i].time+1e-12) {
			t.Errorf("policy %d keeps %d bytes in %g s, want %d in %g", i, got[i].bytes, got[i].time, want[i].bytes, want[i].time)
		}
		if bytes, time := weigh(ps[0], got[i].ways, target, s.storage); bytes != got[i].bytes || math.Abs(time-got[i].time) > 1e-9*time {
			t.Errorf("policy %d says %d bytes and %g s, its ways are %d and %g", i, got[i].bytes, got[i].time, bytes, time)
		}
	}
}

// TestAutoIsTheBest compares auto with every pair of policies at every split of the layers.
func TestAutoIsTheBest(t *testing.T) {
	s, _ := searchFor(t, searchSpec)
	front := s.fronts[0]
	var all []candidate
	for i := range front {
		for j := i; j < len(front); j++ {
			for k := range s.layers[0] {
				all = append(all, candidate{loops: []stages{{layers: k, first: &front[j], rest: &front[i]}}})
			}
		}
	}
	none, full := s.needs(s.chain().at(0)), s.needs(s.everything(1))
	if full >= none {
		t.Fatalf("full needs %d bytes, none %d", full, none)
	}
	const steps = 40
	last := math.Inf(1)
	for step := range steps + 1 {
		budget := full + (none-full)*step/steps
		best := math.Inf(1)
		for _, c := range all {
			if s.needs(c) <= budget {
				best = min(best, s.time(c))
			}
		}
		c, err := s.auto(budget)
		if err != nil {
			t.Fatal(err)
		}
		if s.needs(c) > budget {
			t.Errorf("auto(%d) needs %d", budget, s.needs(c))
		}
		if s.time(c) > best*(1+1e-9) {
			t.Errorf("auto(%d) computes again for %g s, the best for %g", budget, s.time(c), best)
		}
		if s.time(c) > last {
			t.Errorf("auto(%d) takes longer than with less memory", budget)
		}
		last = s.time(c)
	}
}

// TestAutoMakesFewPlans holds the work of auto on many layers in bounds; a plan takes about a millisecond.
func TestAutoMakesFewPlans(t *testing.T) {
	text := strings.Replace(searchSpec, "num_layers: 4", "num_layers: 100", 1)
	s, _ := searchFor(t, text)
	var small *BudgetError
	if _, err := s.auto(1); !errors.As(err, &small) {
		t.Fatalf("auto(1B) gives %v", err)
	}
	if s.tries > 300 {
		t.Errorf("the smallest plan took %d plans to find", s.tries)
	}
	none := s.needs(s.chain().at(0))
	for step := range 11 {
		s, _ := searchFor(t, text)
		c, err := s.auto(small.Smallest + (none-small.Smallest)*step/10)
		if err != nil {
			t.Fatal(err)
		}
		if s.tries > 200 {
			t.Errorf("step %d: %d plans to find %v", step, s.tries, c)
		}
	}
}
