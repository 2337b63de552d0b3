package tokenizer

import "unicode/utf8"

// byteRunes is GPT-2's spelling of bytes: printable characters of Latin-1 stand for themselves, and the other bytes, in
// their order, are U+0100 and up. So a space is Ġ.
var byteRunes, runeBytes = func() (runes [256]rune, bytes map[rune]byte) {
	bytes = make(map[rune]byte, 256)
	next := rune(256)
	for b := range 256 {
		c := rune(b)
		if b < '!' || b > '~' && b < 0xA1 || b == 0xAD {
			c = next
			next++
		}
		runes[b] = c
		bytes[c] = byte(b)
	}
	return runes, bytes
}()

// spell returns the name of a token of these bytes.
func spell(text string) string {
	name := make([]byte, 0, 2*len(text))
	for i := range len(text) {
		name = utf8.AppendRune(name, byteRunes[text[i]])
	}
	return string(name)
}

// unspell returns the bytes that a token's name stands for. As in Hugging Face's decoder, a name with a character that
// spells no byte, as an added token may have, stands for itself.
func unspell(name string) string {
	text := make([]byte, 0, len(name))
	for _, c := range name {
		b, ok := runeBytes[c]
		if !ok {
			return name
		}
		text = append(text, b)
	}
	return string(text)
}
