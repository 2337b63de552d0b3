package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// splitter returns the length of the first piece of a text that is not empty, at least 1. The splitters are the regular
// expressions of model families, by hand: they look ahead no farther than the run of like characters that they are in.
type splitter func(text string) int

// gpt2Pattern is what a ByteLevel pre-tokenizer splits by.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// patterns are the regular expressions that a Split pre-tokenizer may name.
var patterns = map[string]splitter{
	gpt2Pattern: splitGPT2,
	// Llama 3, and cl100k_base of GPT-4
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: func(text string) int { return splitWords(text, 3) },
	// Qwen 2
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: func(text string) int { return splitWords(text, 1) },
	// o200k_base of GPT-4o
	`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
		`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`: splitCased,
}

// class is a set of kinds of characters.
type class uint8

const (
	letter  class = 1 << iota // \p{L}
	number                    // \p{N}
	space                     // \s
	newline                   // [\r\n]
	upper                     // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
	lower                     // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
	slash                     // /
)

var asciiClasses = func() (table [utf8.RuneSelf]class) {
	for c := range table {
		table[c] = classOf(rune(c))
	}
	return table
}()

func classOf(c rune) class {
	switch {
	case unicode.IsLetter(c):
		switch {
		case unicode.IsUpper(c) || unicode.IsTitle(c):
			return letter | upper
		case unicode.IsLower(c):
			return letter | lower
		}
		return letter | upper | lower
	case unicode.IsNumber(c):
		return number
	case c == '\r' || c == '\n':
		return space | newline
	case unicode.IsSpace(c):
		return space
	case unicode.IsMark(c):
		return upper | lower
	case c == '/':
		return slash
	case c < 0x80:
		return 0
	case unicode.Is(newUpper, c):
		return letter | upper
	case unicode.Is(newLower, c):
		return letter | lower
	case unicode.Is(newOtherLetter, c):
		return letter | upper | lower
	case unicode.Is(newNumber, c):
		return number
	case unicode.Is(newMark, c):
		return upper | lower
	}
	return 0
}

// first returns the class and the length of a text's first character; 0, 0 for an empty text.
func first(text string) (class, int) {
	if text == "" {
		return 0, 0
	}
	if c := text[0]; c < utf8.RuneSelf {
		return asciiClasses[c], 1
	}
	c, n := utf8.DecodeRuneInString(text)
	return classOf(c), n
}

// span returns the length of the characters at the beginning of a text that are of one of the classes.
func span(text string, of class) int {
	i := 0
	for i < len(text) {
		c, n := first(text[i:])
		if c&of == 0 {
			break
		}
		i += n
	}
	return i
}

// spanOther is span for the characters of none of the classes.
func spanOther(text string, of class) int {
	i := 0
	for i < len(text) {
		c, n := first(text[i:])
		if c&of != 0 {
			break
		}
		i += n
	}
	return i
}

func splitNothing(text string) int { return len(text) }

func splitGPT2(text string) int {
	if n := contraction(text, false); n > 0 {
		return n
	}
	from := 0
	if text[0] == ' ' {
		from = 1
	}
	switch c, _ := first(text[from:]); {
	case from == len(text) || c&space != 0:
		return spaces(text, false)
	case c&letter != 0:
		return from + span(text[from:], letter)
	case c&number != 0:
		return from + span(text[from:], number)
	}
	return from + spanOther(text[from:], letter|number|space)
}

// splitWords splits by the pattern of Llama 3 and, with digits 1, of Qwen 2.
func splitWords(text string, digits int) int {
	if n := contraction(text, true); n > 0 {
		return n
	}
	c, n := first(text)
	if c&letter != 0 {
		return span(text, letter)
	}
	if c&(newline|number) == 0 {
		if after := span(text[n:], letter); after > 0 {
			return n + after
		}
	}
	return splitRest(text, digits, newline)
}

// splitCased splits by the pattern of GPT-4o.
func splitCased(text string) int {
	c, n := first(text)
	prefix := c&(newline|letter|number) == 0
	for _, word := range []func(string) int{lowerWord, func(text string) int { return span(text, upper) }} {
		if prefix {
			if w := word(text[n:]); w > 0 {
				return n + w + contraction(text[n+w:], true)
			}
		}
		if w := word(text); w > 0 {
			return w + contraction(text[w:], true)
		}
	}
	return splitRest(text, 3, newline|slash)
}

// lowerWord matches U*L+, U being upper and L lower: after the longest U*, what follows it in L; or, where nothing does,
// as far as the last character of U* that is in L.
func lowerWord(text string) int {
	u := span(text, upper)
	if l := span(text[u:], lower); l > 0 {
		return u + l
	}
	for u > 0 {
		c, n := utf8.DecodeLastRuneInString(text[:u])
		if classOf(c)&lower != 0 {
			return u
		}
		u -= n
	}
	return 0
}

// splitRest matches what follows words in the patterns with a case for newlines: digits, symbols and the characters of
// class after that follow them, spaces.
func splitRest(text string, digits int, after class) int {
	c, n := first(text)
	if c&number != 0 {
		for digits--; digits > 0; digits-- {
			c, size := first(text[n:])
			if c&number == 0 {
				break
			}
			n += size
		}
		return n
	}
	from := 0
	if text[0] == ' ' {
		from = 1
	}
	if n := spanOther(text[from:], letter|number|space); n > 0 {
		return from + n + span(text[from+n:], after)
	}
	return spaces(text, true)
}

// spaces matches \s+(?!\S)|\s+, with lines \s*[\r\n]+|\s+(?!\S)|\s+: spaces up to the last newline among them; all
// where the text ends; all but the last, which belongs to the next word; the only one.
func spaces(text string, lines bool) int {
	n := span(text, space)
	if lines {
		if i := strings.LastIndexAny(text[:n], "\r\n"); i >= 0 {
			return i + 1
		}
	}
	if n == len(text) {
		return n
	}
	if _, last := utf8.DecodeLastRuneInString(text[:n]); last < n {
		return n - last
	}
	return n
}

// contraction matches 's 't 're 've 'm 'll 'd. Without regard to case, ſ counts as an s.
func contraction(text string, anyCase bool) int {
	if len(text) < 2 || text[0] != '\'' {
		return 0
	}
	a, b := text[1], byte(0)
	if len(text) > 2 {
		b = text[2]
	}
	if anyCase {
		if strings.HasPrefix(text[1:], "ſ") {
			return 1 + len("ſ")
		}
		a, b = toLower(a), toLower(b)
	}
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e' || a == 'v' && b == 'e' || a == 'l' && b == 'l':
		return 3
	}
	return 0
}

func toLower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
