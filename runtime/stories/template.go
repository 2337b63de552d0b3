package stories

import (
	"fmt"
	"slices"
	"strings"
)

// A template is a sentence with holes. {toy} is what the plan bound to toy, {toy.adj} one of its attributes, {toy.s} its
// plural, {game.past} and {game.ing} a verb phrase in the past tense and as a participle. {he}, {him}, {his} and
// {himself} stand for the hero, {pal.he} for the pal, who is a {pal.child}, a boy or a girl; {his!} is a pronoun even where another could be meant. A capital
// first letter, {He}, starts a sentence. [big|small] is either. A name that the plot does not bind is a phrase.
type template []node

// node is a run of literal text, a hole, or a choice.
type node struct {
	lit     string
	slot    string
	attr    string // of the entry; empty for its head
	form    string // one of forms, or empty
	capital bool
	forced  bool // a pronoun even if it may be read as somebody else
	choice  []template
}

const (
	formPlural     = "s"
	formPast       = "past"
	formParticiple = "ing"
)

var (
	forms    = []string{formPlural, formPast, formParticiple}
	pronouns = map[string][2]string{ // male, female
		"he": {"he", "she"}, "him": {"him", "her"}, "his": {"his", "her"}, "himself": {"himself", "herself"},
	}
	child = [2]string{"boy", "girl"}
)

// parseTemplate reads the whole of s.
func parseTemplate(s string) (template, error) {
	t, rest, err := parseNodes(s, false)
	if err == nil && rest != "" {
		err = fmt.Errorf("template %q: %q has no opening bracket", s, rest)
	}
	return t, err
}

// parseNodes reads nodes up to the end of s or, inside of a choice, up to its | or ].
func parseNodes(s string, inside bool) (t template, rest string, err error) {
	for s != "" {
		stop := "{["
		if inside {
			stop = "{[|]"
		}
		end := strings.IndexAny(s, stop)
		if end < 0 {
			end = len(s)
		}
		if end > 0 {
			t, s = append(t, node{lit: s[:end]}), s[end:]
			continue
		}
		switch s[0] {
		case '{':
			key, after, ok := strings.Cut(s[1:], "}")
			if !ok || key == "" {
				return nil, "", fmt.Errorf("template: hole %q is not closed or empty", s)
			}
			t, s = append(t, parseHole(key)), after
		case '[':
			var choice []template
			for s[0] != ']' {
				var option template
				option, s, err = parseNodes(s[1:], true)
				if err != nil {
					return nil, "", err
				}
				if s == "" {
					return nil, "", fmt.Errorf("template: a choice is not closed")
				}
				choice = append(choice, option)
			}
			t, s = append(t, node{choice: choice}), s[1:]
		default:
			return t, s, nil
		}
	}
	return t, "", nil
}

func parseHole(key string) node {
	var n node
	if c := key[0]; c >= 'A' && c <= 'Z' {
		n.capital, key = true, strings.ToLower(key[:1])+key[1:]
	}
	key, n.forced = strings.CutSuffix(key, "!")
	if _, ok := pronouns[key]; ok {
		key = "hero." + key
	}
	parts := strings.Split(key, ".")
	n.slot = parts[0]
	for _, p := range parts[1:] {
		if slices.Contains(forms, p) {
			n.form = p
		} else {
			n.attr = p
		}
	}
	return n
}
