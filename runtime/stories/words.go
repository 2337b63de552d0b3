package stories

import "strings"

// inflect puts the first word of a verb phrase in the past tense or makes it a participle, or the last word of a noun
// phrase plural.
func inflect(phrase, form string) string {
	words := grammar().words
	if form == formPlural {
		i := strings.LastIndexByte(phrase, ' ') + 1
		return phrase[:i] + plural(phrase[i:], words)
	}
	verb, rest, more := strings.Cut(phrase, " ")
	if form == formPast {
		verb = past(verb, words)
	} else {
		verb = participle(verb, words)
	}
	if more {
		return verb + " " + rest
	}
	return verb
}

// irregular holds the words that the rules get wrong.
type irregular struct {
	plural, past, participle map[string]string
}

func plural(noun string, w irregular) string {
	if p, ok := w.plural[noun]; ok {
		return p
	}
	switch {
	case endsIn(noun, "s", "x", "z", "ch", "sh"):
		return noun + "es"
	case consonantY(noun):
		return noun[:len(noun)-1] + "ies"
	}
	return noun + "s"
}

func past(verb string, w irregular) string {
	if p, ok := w.past[verb]; ok {
		return p
	}
	switch {
	case endsIn(verb, "e"):
		return verb + "d"
	case consonantY(verb):
		return verb[:len(verb)-1] + "ied"
	}
	return verb + "ed"
}

func participle(verb string, w irregular) string {
	if p, ok := w.participle[verb]; ok {
		return p
	}
	if endsIn(verb, "e") && !endsIn(verb, "ee") {
		return verb[:len(verb)-1] + "ing"
	}
	return verb + "ing"
}

func endsIn(word string, endings ...string) bool {
	for _, e := range endings {
		if strings.HasSuffix(word, e) {
			return true
		}
	}
	return false
}

func consonantY(word string) bool {
	n := len(word)
	return n > 1 && word[n-1] == 'y' && !isVowel(word[n-2])
}

func isVowel(c byte) bool { return strings.IndexByte("aeiou", c|0x20) >= 0 }

// raise makes the first letter a capital.
func raise(text []byte) {
	if len(text) > 0 && text[0] >= 'a' && text[0] <= 'z' {
		text[0] -= 'a' - 'A'
	}
}

// finish starts every sentence with a capital and turns a into an before a vowel sound.
func finish(text []byte) string {
	out := make([]byte, 0, len(text)+16)
	start := true
	for i, c := range text {
		if start && c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		start = c == '\n' || c == ' ' && sentenceEnd(text[:i])
		out = append(out, c)
		if (c == 'a' || c == 'A') && (i == 0 || strings.IndexByte(" \n\"", text[i-1]) >= 0) &&
			i+2 < len(text) && text[i+1] == ' ' && vowelSound(text[i+2:]) {
			out = append(out, 'n')
		}
	}
	return string(out)
}

// sentenceEnd says whether a sentence ends with text: not with a title, nor with a question or a call in quotes, which
// may go on ("Look!" said Tom).
func sentenceEnd(text []byte) bool {
	tail := string(text[max(0, len(text)-4):])
	return endsIn(tail, ".", "!", "?", ".\"") && !endsIn(tail, "Mr.", "Mrs.", "Ms.")
}

// vowelSound says whether text is read with a vowel first.
func vowelSound(text []byte) bool {
	word := strings.ToLower(string(text[:min(len(text), 4)]))
	if word == "hour" || word == "hone" && !strings.HasPrefix(string(text), "honey") {
		return true
	}
	for _, glide := range []string{"uni", "use", "one", "eu"} {
		if strings.HasPrefix(word, glide) {
			return false
		}
	}
	return isVowel(text[0])
}
