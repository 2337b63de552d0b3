package stories

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// corpus is what the tests read.
const corpus = 20000

func TestStoriesDependOnSeedAndNumberAlone(t *testing.T) {
	first := slices.Collect(Generate(3, 300))
	if len(first) != 300 {
		t.Fatalf("%d stories", len(first))
	}
	for i := len(first) - 1; i >= 0; i-- {
		if At(3, i) != first[i] {
			t.Fatalf("story %d is another one when asked for alone", i)
		}
	}
	if At(4, 0) == first[0] {
		t.Error("another seed tells the same story")
	}
	n := 0
	for range Generate(3, 300) {
		if n++; n == 5 {
			break
		}
	}
	if At(1<<63, 1<<40) == At(1<<63, 0) {
		t.Error("far stories repeat")
	}
}

var (
	// flaw finds what no story may have.
	flaw = regexp.MustCompile(`[{}\[\]|=;_~$]|  | \n|\n |\n\n|^\s|\s$|[.!?,]{2}| [.,!?]|\.[a-zA-Z]`)
	// low finds a sentence that starts small. After a question or a call in quotes the sentence may go on.
	low     = regexp.MustCompile(`(?:^|\n|[^.]\. |[a-z]\." |\. "|\n"|^")[a-z]`)
	title   = regexp.MustCompile(`\b(?:Mr|Mrs)\. `)
	article = regexp.MustCompile(`(?i)\b(an?) ([a-z]+)`)
)

// misleading lists words whose first letter says nothing about the article.
var misleading = map[string]string{"one": "a", "unicorn": "a", "hour": "an", "honest": "an"}

func TestCorpus(t *testing.T) {
	words, stories := map[string]int{}, map[string]bool{}
	g := grammar()
	told := map[string]int{}
	for i := range corpus {
		tl, s := tell(7, i)
		told[tl.plot.name]++
		stories[s] = true
		if m := flaw.FindStringIndex(s); m != nil {
			t.Errorf("story %d, %s: a flaw at %d: %q in\n%s", i, tl.plot.name, m[0], s[m[0]:m[1]], s)
		}
		if m := low.FindString(title.ReplaceAllString(s, "")); m != "" {
			t.Errorf("story %d, %s: a sentence starts small: %q in\n%s", i, tl.plot.name, m, s)
		}
		for _, p := range strings.Split(s, "\n") {
			if strings.Count(p, `"`)%2 != 0 {
				t.Errorf("story %d, %s: a quotation without end in\n%s", i, tl.plot.name, p)
			}
			if !strings.HasSuffix(p, ".") && !strings.HasSuffix(p, "!") && !strings.HasSuffix(p, "?") && !strings.HasSuffix(p, `"`) {
				t.Errorf("story %d, %s: a paragraph without end:\n%s", i, tl.plot.name, p)
			}
		}
		for _, m := range article.FindAllStringSubmatch(s, -1) {
			want, ok := misleading[m[2]]
			if !ok {
				want = "a"
				if isVowel(m[2][0]) {
					want = "an"
				}
			}
			if !strings.EqualFold(m[1], want) {
				t.Errorf("story %d, %s: %q", i, tl.plot.name, m[0])
			}
		}
		if n := len(strings.Fields(s)); n < 60 || n > 180 {
			t.Errorf("story %d, %s, has %d words:\n%s", i, tl.plot.name, n, s)
		}
		for _, w := range strings.FieldsFunc(strings.ToLower(s), func(c rune) bool { return c < 'a' || c > 'z' }) {
			words[w]++
		}
		if t.Failed() {
			return
		}
	}
	if len(words) < 1500 {
		t.Errorf("%d distinct words, at least 1500 are promised", len(words))
	}
	if len(stories) < corpus*999/1000 {
		t.Errorf("%d distinct stories of %d", len(stories), corpus)
	}
	for _, p := range g.plots {
		if told[p.name] < corpus/len(g.plots)/2 {
			t.Errorf("%s is told %d times", p.name, told[p.name])
		}
	}
	if len(told) < 12 {
		t.Errorf("%d plots", len(told))
	}
	t.Logf("%d distinct words, %d plots", len(words), len(told))
}

var (
	pronoun = regexp.MustCompile(`(?i)\b(he|him|his|himself|she|her|hers|herself)\b`)
	// within names what is told about somebody who is not of the cast.
	within = regexp.MustCompile(`a knight who was afraid of his horse|a king who lost his crown|a witch who could not find her broom|` +
		`Its mother is near, I think\. She does not come`)
)

// A pronoun stands for the one of its sex who was named last, unless the plot says that it cannot be misread, and all
// pronouns come from the plan.
func TestPronouns(t *testing.T) {
	const male, female = 0, 1
	sexes := map[string]int{"he": male, "him": male, "his": male, "himself": male, "she": female, "her": female, "herself": female}
	for i := range corpus / 4 {
		tl, _ := tell(11, i)
		text := string(tl.text)
		planned := map[int]bool{}
		var last [2]string
		for _, m := range tl.mention {
			sex := tl.bound(m.slot).entry.sex
			if m.word == "" {
				last[sex] = m.slot
				continue
			}
			planned[m.at] = true
			if got := text[m.at : m.at+len(m.word)]; !strings.EqualFold(got, m.word) {
				t.Fatalf("story %d: %q at %d, the plan says %q", i, got, m.at, m.word)
			}
			if s, ok := sexes[m.word]; !ok || s != sex {
				t.Fatalf("story %d, %s: %q for %s:\n%s", i, tl.plot.name, m.word, m.slot, text)
			}
			if !m.forced && last[sex] != m.slot {
				t.Fatalf("story %d, %s: %q at %d means %s, but %s was named last:\n%s", i, tl.plot.name, m.word, m.at, m.slot, last[sex], text)
			}
		}
		for _, m := range within.FindAllStringIndex(text, -1) {
			for at := m[0]; at < m[1]; at++ {
				planned[at] = true
			}
		}
		for _, m := range pronoun.FindAllStringIndex(text, -1) {
			if !planned[m[0]] {
				t.Fatalf("story %d, %s: %q at %d is nobody's:\n%s", i, tl.plot.name, text[m[0]:m[1]], m[0], text)
			}
		}
		// Names in the text are those of the cast.
		for _, b := range tl.cast {
			if b.entry.person() && slices.ContainsFunc(tl.cast, func(o binding) bool { return o.slot != b.slot && o.entry.word == b.entry.word }) {
				t.Fatalf("story %d, %s: two are called %s", i, tl.plot.name, b.entry.word)
			}
		}
	}
}

// Names that belong to the grammar appear only where the plan put them.
func TestOnlyTheCastAppears(t *testing.T) {
	g := grammar()
	known := map[string]bool{}
	for _, table := range []string{"names", "critters"} {
		for _, e := range g.tables[table] {
			known[e.word] = true
		}
	}
	word := regexp.MustCompile(`[A-Z][a-z]+`)
	for i := range corpus / 4 {
		tl, s := tell(5, i)
		for _, w := range word.FindAllStringIndex(s, -1) {
			name := s[w[0]:w[1]]
			if !known[name] || slices.ContainsFunc(tl.cast, func(b binding) bool { return b.entry.word == name }) {
				continue
			}
			if w[0] > 1 && s[w[0]-1] == ' ' && !strings.ContainsRune(`.!?"`, rune(s[w[0]-2])) {
				t.Fatalf("story %d, %s: %s is not of the cast:\n%s", i, tl.plot.name, name, s)
			}
		}
	}
}

func TestInflect(t *testing.T) {
	for _, c := range [][3]string{
		{"sing a song", formPast, "sang a song"}, {"play tag", formPast, "played tag"}, {"carry it", formPast, "carried it"},
		{"bake", formPast, "baked"}, {"hop away", formPast, "hopped away"}, {"run away", formParticiple, "running away"},
		{"make", formParticiple, "making"}, {"see", formParticiple, "seeing"}, {"toy car", formPlural, "toy cars"},
		{"peach", formPlural, "peaches"}, {"cherry", formPlural, "cherries"}, {"toy", formPlural, "toys"}, {"red leaf", formPlural, "red leaves"},
	} {
		if got := inflect(c[0], c[1]); got != c[2] {
			t.Errorf("%s of %q: got %q, want %q", c[1], c[0], got, c[2])
		}
	}
}

// BenchmarkAt tells a story at a time; 20000 a second on one core are 50 µs each.
func BenchmarkAt(b *testing.B) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		At(1, i)
	}
}
