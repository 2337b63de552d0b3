package tokenizer

import (
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// toNFC returns Unicode's normal form C (UAX 15). golang.org/x/text breaks up runs of more than 30 combining characters,
// which normal form C proper does not, so it serves as the quick check and as the tables.
func toNFC(text string) string {
	if norm.NFC.IsNormalString(text) {
		return text
	}
	var chars []rune
	var classes []uint8
	for i := 0; i < len(text); {
		p := norm.NFC.PropertiesString(text[i:])
		size := max(p.Size(), 1) // 0 for bytes that are no UTF-8
		parts := p.Decomposition()
		if parts == nil {
			parts = []byte(text[i : i+size])
		}
		i += size
		for _, c := range norm.NFD.String(string(parts)) { // Hangul decomposes by rule
			chars = append(chars, c)
			classes = append(classes, norm.NFC.PropertiesString(string(c)).CCC())
		}
	}
	order(chars, classes)
	return compose(chars, classes)
}

// order sorts each run of combining characters by class, stably (UAX 15, canonical ordering).
func order(chars []rune, classes []uint8) {
	type mark struct {
		char  rune
		class uint8
	}
	var run []mark
	for i := 0; i < len(chars); {
		start := i
		run = run[:0]
		for ; i < len(chars) && classes[i] > 0; i++ {
			run = append(run, mark{chars[i], classes[i]})
		}
		slices.SortStableFunc(run, func(a, b mark) int { return int(a.class) - int(b.class) })
		for j, m := range run {
			chars[start+j], classes[start+j] = m.char, m.class
		}
		if i == start {
			i++
		}
	}
}

// compose joins each character with the last starter before it, where the two have a composite and nothing between
// them blocks it (UAX 15, canonical composition). It overwrites chars.
func compose(chars []rune, classes []uint8) string {
	starter, n := -1, 0 // n characters are done
	last := uint8(0)    // class of the one before, where it was not joined to the starter
	for i, c := range chars {
		class := classes[i]
		if starter >= 0 && (last < class || starter == n-1) {
			if joined, ok := composite(chars[starter], c); ok {
				chars[starter] = joined
				continue
			}
		}
		if class == 0 {
			starter = n
		}
		last = class
		chars[n] = c
		n++
	}
	var b strings.Builder
	for _, c := range chars[:n] {
		b.WriteRune(c)
	}
	return b.String()
}

func composite(a, b rune) (rune, bool) {
	joined := []rune(norm.NFC.String(string([]rune{a, b})))
	return joined[0], len(joined) == 1
}
