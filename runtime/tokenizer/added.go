package tokenizer

import (
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxAdded is the length of an added token in bytes, at most; it bounds the time that a character of text takes.
const maxAdded = 512

// addedToken is a token that is looked for in the text before the text is split into words.
type addedToken struct {
	content                                string
	id                                     int32
	singleWord, lstrip, rstrip, normalized bool
	special                                bool
}

// addedSet finds added tokens.
type addedSet struct {
	tokens []addedToken // sorted by content
	firsts [256]bool    // bytes that some content begins with
}

func newAddedSet(tokens []addedToken) addedSet {
	s := addedSet{tokens: tokens}
	slices.SortFunc(tokens, func(a, b addedToken) int { return strings.Compare(a.content, b.content) })
	for _, t := range tokens {
		s.firsts[t.content[0]] = true
	}
	return s
}

// longest returns the longest token that a text begins with.
func (s *addedSet) longest(text string) *addedToken {
	if !s.firsts[text[0]] {
		return nil
	}
	var found *addedToken
	tokens := s.tokens // those whose content begins with the depth bytes read
	for depth := 0; depth < len(text) && len(tokens) > 0; depth++ {
		c := text[depth]
		low := sort.Search(len(tokens), func(i int) bool { t := tokens[i].content; return len(t) > depth && t[depth] >= c })
		high := sort.Search(len(tokens), func(i int) bool { t := tokens[i].content; return len(t) > depth && t[depth] > c })
		tokens = tokens[low:high]
		if len(tokens) > 0 && len(tokens[0].content) == depth+1 {
			found = &tokens[0]
		}
	}
	return found
}

// cut finds the tokens in a text, from left to right, the longest at each place, and calls token for them and part for
// what lies between, in order. A special token counts only where special is set. As in Hugging Face's library, a token of
// white space counts even where the one before it, with rstrip, has taken that space.
func (s *addedSet) cut(text string, special bool, token func(id int32), part func(text string)) {
	if len(s.tokens) == 0 {
		if text != "" {
			part(text)
		}
		return
	}
	done := 0
	for i := 0; i < len(text); {
		t := s.longest(text[i:])
		if t == nil {
			i++
			continue
		}
		start, end := i, i+len(t.content)
		i = end
		if t.special && !special || t.singleWord && (endsInWord(text[:start]) || beginsInWord(text[end:])) {
			continue
		}
		if t.lstrip {
			start = max(done, len(strings.TrimRightFunc(text[:start], unicode.IsSpace)))
		}
		if t.rstrip {
			end = len(text) - len(strings.TrimLeftFunc(text[end:], unicode.IsSpace))
		}
		if done < start {
			part(text[done:start])
		}
		token(t.id)
		done = end
	}
	if done < len(text) {
		part(text[done:])
	}
}

func endsInWord(text string) bool {
	c, n := utf8.DecodeLastRuneInString(text)
	return n > 0 && isWord(c)
}

func beginsInWord(text string) bool {
	c, n := utf8.DecodeRuneInString(text)
	return n > 0 && isWord(c)
}

// isWord is \w of UTS 18.
func isWord(c rune) bool {
	return unicode.IsLetter(c) || unicode.IsMark(c) || c == 0x200C || c == 0x200D ||
		unicode.In(c, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic)
}
