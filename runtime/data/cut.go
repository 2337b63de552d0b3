package data

import (
	"bytes"
	"fmt"
	"io"
	"unicode"
	"unicode/utf8"
)

// pieceSize is the size of the pieces that a long document is cut into.
const pieceSize = 1 << 20

// cut reads a file's documents: the text between separators, or all of it. Empty ones are left out. A document longer
// than size is cut into pieces between a letter and the space that follows: byte-level tokenizers end a word there
// whatever stands around it, so that the tokens of the pieces are those of the whole. Where no such place is in reach,
// the piece grows until there is one. An error about the text names the byte.
func cut(r io.Reader, size int, f func(piece []byte, end bool) error) error {
	var (
		buf    = make([]byte, 0, size)
		start  = 0        // of what is left in buf
		offset = int64(0) // of buf in the file
		after  = false    // only line breaks were read since the separator
		eof    = false
	)
	emit := func(piece []byte, end bool) error {
		if !utf8.Valid(piece) {
			return fmt.Errorf("byte %d is not UTF-8 text: convert the file to UTF-8, or leave it out", offset+int64(start+invalid(piece)))
		}
		if len(piece) == 0 { // an empty document: the rest of one in pieces begins with a space
			return nil
		}
		return f(piece, end)
	}
	for {
		n := copy(buf, buf[start:])
		buf, offset, start = buf[:n], offset+int64(start), 0
		for len(buf) < cap(buf) && !eof {
			n, err := r.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			eof = err == io.EOF
			if err != nil && !eof {
				return err
			}
		}
		for {
			if after {
				rest := bytes.TrimLeft(buf[start:], "\r\n")
				start, after = len(buf)-len(rest), len(rest) == 0
			}
			i := bytes.Index(buf[start:], []byte(Separator))
			if i < 0 {
				break
			}
			if err := emit(bytes.TrimRight(buf[start:start+i], "\r\n"), true); err != nil {
				return err
			}
			start += i + len(Separator)
			after = true
		}
		if eof {
			return emit(buf[start:], true)
		}
		if start > 0 {
			continue // there is room to read on
		}
		n = wordEnd(buf)
		if n == 0 {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
			continue
		}
		if err := emit(buf[:n], false); err != nil {
			return err
		}
		start = n
	}
}

// wordEnd returns the last place in text between a letter and a space, or 0.
func wordEnd(text []byte) int {
	for {
		i := bytes.LastIndexByte(text, ' ')
		if i <= 0 {
			return 0
		}
		text = text[:i]
		if r, _ := utf8.DecodeLastRune(text); unicode.IsLetter(r) {
			return i
		}
	}
}

// invalid returns where text stops being UTF-8.
func invalid(text []byte) int {
	i := 0
	for i < len(text) {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		i += n
	}
	return i
}
