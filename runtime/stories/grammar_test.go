package stories

import (
	"maps"
	"testing"
)

// holes calls visit for every hole that telling t may come to, within phrases too.
func holes(t *testing.T, g *lexicon, p *plot, tm template, depth int, visit func(n *node)) {
	if depth > 8 {
		t.Fatalf("%s: phrases lead back to themselves", p.name)
	}
	for i := range tm {
		n := &tm[i]
		for _, c := range n.choice {
			holes(t, g, p, c, depth+1, visit)
		}
		if n.choice != nil && len(n.choice) < 2 {
			t.Errorf("%s: a choice of one in %+v", p.name, n.choice)
		}
		if n.slot == "" {
			continue
		}
		visit(n)
		for _, d := range p.draws {
			if d.slot == n.slot {
				for _, e := range d.from {
					holes(t, g, p, e.head, depth+1, visit)
					for _, v := range e.attrs[n.attr] {
						holes(t, g, p, v, depth+1, visit)
					}
				}
			}
		}
		for _, ph := range g.phrases[n.slot] {
			holes(t, g, p, ph, depth+1, visit)
		}
	}
}

// Every hole of every plot has something to fill it, whatever was drawn, and every draw is used.
func TestHolesAreFilled(t *testing.T) {
	g := grammar()
	for _, p := range g.plots {
		slots, used := map[string]draw{}, map[string]bool{}
		for _, d := range p.draws {
			slots[d.slot] = d
			for _, tag := range d.tags {
				used[tag[1:]] = true
			}
		}
		visit := func(n *node) {
			used[n.slot] = true
			d, bound := slots[n.slot]
			switch {
			case !bound && (g.phrases[n.slot] == nil || n.attr != "" || n.form != ""):
				t.Errorf("%s: nothing fills {%s.%s}", p.name, n.slot, n.attr)
			case bound && n.attr != "":
				_, pronoun := pronouns[n.attr]
				for _, e := range d.from {
					if sexed := pronoun || n.attr == "child"; sexed && !e.person() || !sexed && e.attrs[n.attr] == nil {
						t.Errorf("%s: %s has no %s for {%s.%s}", p.name, e.word, n.attr, n.slot, n.attr)
					}
				}
			}
		}
		for _, beat := range p.beats {
			for _, tm := range beat {
				holes(t, g, p, tm, 0, visit)
			}
		}
		for slot := range maps.Keys(slots) {
			if !used[slot] {
				t.Errorf("%s: %s is drawn and never used", p.name, slot)
			}
		}
	}
}
