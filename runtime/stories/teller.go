package stories

import (
	"slices"
)

// teller holds the plan of one story and its text so far.
type teller struct {
	grammar *lexicon
	plot    *plot
	dice    dice
	cast    []binding
	text    []byte
	last    [2]string // the slot of the man and of the woman named last, whom he and she stand for
	mention []mention
}

// binding is what the plan drew for a slot, with the attributes chosen so far.
type binding struct {
	slot  string
	entry *entry
	picks []pick
}

type pick struct {
	attr  string
	value template
}

// mention records where the text names somebody or says a pronoun for them, so that tests can read along.
type mention struct {
	slot   string
	word   string // the pronoun, empty for a name
	at     int    // in text
	forced bool
}

func newTeller(g *lexicon, seed uint64, i int) *teller {
	return &teller{grammar: g, dice: newDice(seed, i), text: make([]byte, 0, 1024)}
}

// plan draws an entry for every slot of p, in order: one that has all the tags asked for and is not in the cast yet.
func (t *teller) plan(p *plot) {
	t.plot = p
	t.cast = make([]binding, 0, len(p.draws))
	for _, d := range p.draws {
		fit := make([]*entry, 0, len(d.from))
		for _, e := range d.from {
			if t.fits(e, d.tags) {
				fit = append(fit, e)
			}
		}
		t.cast = append(t.cast, binding{slot: d.slot, entry: fit[t.dice.below(len(fit))]})
	}
}

// fits says whether e is free and has the tags; its head is one of them. A tag $slot is the head of what slot was bound to, a tag ~slot the sex of
// that person, "he" or "she", and a tag !slot the other sex.
func (t *teller) fits(e *entry, tags []string) bool {
	for _, tag := range tags {
		switch tag[0] {
		case '$':
			tag = t.bound(tag[1:]).entry.word
		case '~':
			tag = pronouns["he"][t.bound(tag[1:]).entry.sex]
		case '!':
			tag = pronouns["he"][1-t.bound(tag[1:]).entry.sex]
		}
		if tag != e.word && !slices.Contains(e.tags, tag) {
			return false
		}
	}
	return !slices.ContainsFunc(t.cast, func(b binding) bool { return b.entry == e })
}

func (t *teller) bound(slot string) *binding {
	for i := range t.cast {
		if t.cast[i].slot == slot {
			return &t.cast[i]
		}
	}
	return nil
}

// write tells a template; capital raises its first letter.
func (t *teller) write(tm template, capital bool) {
	start := len(t.text)
	for i := range tm {
		n := &tm[i]
		switch {
		case n.choice != nil:
			t.write(n.choice[t.dice.below(len(n.choice))], false)
		case n.slot != "":
			t.fill(n)
		default:
			t.text = append(t.text, n.lit...)
		}
	}
	if capital {
		raise(t.text[start:])
	}
}

// fill tells a hole.
func (t *teller) fill(n *node) {
	b := t.bound(n.slot)
	if b == nil {
		phrase := t.grammar.phrases[n.slot]
		t.write(phrase[t.dice.below(len(phrase))], n.capital)
		return
	}
	if p, ok := pronouns[n.attr]; ok {
		t.refer(b, n, p)
		return
	}
	start := len(t.text)
	if n.attr == "child" {
		t.text = append(t.text, child[b.entry.sex]...)
	} else {
		t.write(t.value(b, n.attr), false)
	}
	if b.entry.person() && (n.attr == "" || n.attr == "kin") {
		t.name(b)
	}
	if n.form != "" {
		inflected := inflect(string(t.text[start:]), n.form)
		t.text = append(t.text[:start], inflected...)
	}
	if n.capital {
		raise(t.text[start:])
	}
}

// value returns the head of b or the attribute chosen for this story.
func (t *teller) value(b *binding, attr string) template {
	if attr == "" {
		return b.entry.head
	}
	for _, p := range b.picks {
		if p.attr == attr {
			return p.value
		}
	}
	options := b.entry.attrs[attr]
	v := options[t.dice.below(len(options))]
	b.picks = append(b.picks, pick{attr, v})
	return v
}

// refer tells a pronoun, or the name where the pronoun would be read as somebody else.
func (t *teller) refer(b *binding, n *node, forms [2]string) {
	start, sex := len(t.text), b.entry.sex
	if t.last[sex] == b.slot || n.forced || n.attr == "himself" {
		word := forms[sex]
		t.text = append(t.text, word...)
		t.mention = append(t.mention, mention{b.slot, word, start, n.forced || n.attr == "himself"})
	} else {
		t.write(b.entry.head, false)
		if n.attr == "his" {
			t.text = append(t.text, "'s"...)
		}
		t.name(b)
	}
	if n.capital {
		raise(t.text[start:])
	}
}

// name notes that b was named: pronouns of that sex now stand for b.
func (t *teller) name(b *binding) {
	t.last[b.entry.sex] = b.slot
	t.mention = append(t.mention, mention{slot: b.slot, at: len(t.text)})
}
