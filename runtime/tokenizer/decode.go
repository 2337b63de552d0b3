package tokenizer

// Decode returns the text of tokens, special ones included. Bytes that are no UTF-8 become U+FFFD, one for each
// longest beginning of a character (as the Unicode standard recommends in section 3.9). Ids that are no token give nothing.
func (t *Tokenizer) Decode(ids []int32) string {
	var raw []byte
	for _, id := range ids {
		raw = append(raw, t.raw(id)...)
	}
	out, rest := appendValid(nil, raw)
	return string(appendReplacement(out, rest))
}

func (t *Tokenizer) raw(id int32) string {
	if id < 0 || int(id) >= len(t.text) {
		return ""
	}
	return t.text[id]
}

// Decoder decodes tokens one at a time. What Push and the last Flush return together is what Decode returns.
type Decoder struct {
	t       *Tokenizer
	pending []byte // the beginning of a character
	out     []byte
}

// NewDecoder returns a Decoder at the beginning of a text.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Push takes the next token and returns the text that is complete with it, whole characters only, maybe none.
func (d *Decoder) Push(id int32) string {
	d.pending = append(d.pending, d.t.raw(id)...)
	var rest []byte
	d.out, rest = appendValid(d.out[:0], d.pending)
	d.pending = d.pending[:copy(d.pending, rest)]
	return string(d.out)
}

// Flush ends the text: it returns U+FFFD if a character was left incomplete. The Decoder is then at the beginning of
// another text.
func (d *Decoder) Flush() string {
	out := appendReplacement(nil, d.pending)
	d.pending = d.pending[:0]
	return string(out)
}

func appendReplacement(out, rest []byte) []byte {
	if len(rest) > 0 {
		out = append(out, "\uFFFD"...)
	}
	return out
}

// appendValid appends raw with replacements for what is no UTF-8, up to rest: the beginning of a character at the end.
func appendValid(out, raw []byte) (valid, rest []byte) {
	for len(raw) > 0 {
		n, complete := character(raw)
		switch {
		case complete:
			out = append(out, raw[:n]...)
		case n == len(raw) && raw[0] >= 0xC2 && raw[0] <= 0xF4:
			return out, raw
		default:
			out = append(out, "\uFFFD"...)
		}
		raw = raw[n:]
	}
	return out, nil
}

// character returns the length of the character that raw begins with, or, if it is not complete, of the bytes that may
// begin one, at least 1 (table 3-7 of the Unicode standard).
func character(raw []byte) (n int, complete bool) {
	size, low, high := 0, byte(0x80), byte(0xBF) // bounds of the second byte
	switch c := raw[0]; {
	case c < 0x80:
		return 1, true
	case c < 0xC2 || c > 0xF4:
		return 1, false
	case c < 0xE0:
		size = 2
	case c < 0xF0:
		size = 3
		if c == 0xE0 {
			low = 0xA0
		} else if c == 0xED {
			high = 0x9F
		}
	default:
		size = 4
		if c == 0xF0 {
			low = 0x90
		} else if c == 0xF4 {
			high = 0x8F
		}
	}
	for n = 1; n < size; n++ {
		if n == len(raw) || raw[n] < low || raw[n] > high {
			return n, false
		}
		low, high = 0x80, 0xBF
	}
	return size, true
}
