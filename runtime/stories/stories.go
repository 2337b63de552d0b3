// Package stories writes short English children's stories from a grammar: a corpus of any length that a small language
// model learns in minutes, made on the spot from nothing but a seed.
//
// A story is planned before it is told. A plot (plots/*.txt) names its cast, things, places, season, weather and time;
// each is drawn from a table (data/*.txt) under the constraints of the plot and of what was drawn before, and stays the
// same to the end. The plot's beats are then told in order, each by one of several sentences, whose pronouns, articles,
// plurals and past tenses follow from the plan.
package stories

import "iter"

// At returns story i of the stream of seed: one to three paragraphs of 60 to 180 words in all, joined by newlines, none
// at the end. The text depends on seed and i alone, so stories may be written in any order and by any number of
// goroutines.
func At(seed uint64, i int) string {
	_, text := tell(seed, i)
	return text
}

// Generate yields stories 0 to n-1 of the stream of seed.
func Generate(seed uint64, n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(At(seed, i)) {
				return
			}
		}
	}
}

// tell plans and writes story i. The teller that comes back knows the plan and what each pronoun stands for.
func tell(seed uint64, i int) (*teller, string) {
	g := grammar()
	t := newTeller(g, seed, i)
	p := g.plots[t.dice.below(len(g.plots))]
	t.plan(p)
	for _, beat := range p.beats {
		if beat == nil {
			t.text = append(t.text, '\n')
			continue
		}
		if n := len(t.text); n > 0 && t.text[n-1] != '\n' {
			t.text = append(t.text, ' ')
		}
		t.write(beat[t.dice.below(len(beat))], false)
	}
	return t, finish(t.text)
}
