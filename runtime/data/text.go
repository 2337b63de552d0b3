// Package data turns text into what a language model learns from: documents out of files or out of the story grammar,
// their tokens as one stream kept in a cache, and batches of windows over that stream, in an order that depends on the
// seed and the step alone.
package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"math"
	"unicode/utf8"
)

// Separator ends a document within a file. Line breaks next to it belong to it.
const Separator = "<|endoftext|>"

// source is where documents come from. each hands over every document in order, a long one in pieces of which the last
// has end set; pieces are UTF-8, valid until f returns, and the same on every call. It stops at the first error of f.
type source interface {
	each(ctx context.Context, f func(piece []byte, end bool) error) error
}

// Text is a sequence of documents, read anew each time it is needed. It does not change.
type Text struct {
	source    source
	from, to  position // the part of the source that is this text
	documents int
	bytes     int64
	hash      string
}

// position is a place in a source.
type position struct {
	document int
	byte     int64 // of the document
}

var sourceEnd = position{document: math.MaxInt}

// newText reads a source once, to check, measure and hash it.
func newText(ctx context.Context, s source) (*Text, error) {
	t := &Text{source: s, to: sourceEnd}
	sum := sha256.New()
	err := s.each(ctx, func(piece []byte, end bool) error {
		sum.Write(piece)
		t.bytes += int64(len(piece))
		if end {
			sum.Write([]byte(Separator)) // no document holds it, so other documents give another hash
			t.documents++
		}
		return nil
	})
	t.hash = hex.EncodeToString(sum.Sum(nil))
	return t, err
}

// Documents returns the number of documents.
func (t *Text) Documents() int { return t.documents }

// Bytes returns the length of all documents.
func (t *Text) Bytes() int64 { return t.bytes }

// Hash identifies the documents and, after HoldOut, where they were parted: SHA-256 in hexadecimal.
func (t *Text) Hash() string { return t.hash }

// Pieces returns the documents, those of more than a megabyte in pieces cut between words, for learning a tokenizer. The
// sequence ends early where a file cannot be read or ctx ends; err says so, after the loop.
func (t *Text) Pieces(ctx context.Context) (pieces iter.Seq[string], err func() error) {
	var failed error
	pieces = func(yield func(string) bool) {
		failed = t.each(ctx, func(piece []byte, _ bool) error {
			if !yield(string(piece)) {
				return errStop
			}
			return nil
		})
		if failed == errStop {
			failed = nil
		}
	}
	return pieces, func() error { return failed }
}

var errStop = errors.New("no more is wanted")

// each is the source's, for the part of it that is this text.
func (t *Text) each(ctx context.Context, f func(piece []byte, end bool) error) error {
	var at position
	err := t.source.each(ctx, func(piece []byte, end bool) error {
		here := at
		at.byte += int64(len(piece))
		if end {
			at = position{document: at.document + 1}
		}
		if here.document == t.to.document {
			if rest := t.to.byte - here.byte; rest <= int64(len(piece)) {
				piece, end = piece[:rest], true
			}
		}
		if here.document == t.from.document {
			skip := min(max(t.from.byte-here.byte, 0), int64(len(piece)))
			piece = piece[skip:]
		}
		if here.document >= t.from.document && (len(piece) > 0 || end) {
			if err := f(piece, end); err != nil {
				return err
			}
		}
		if t.to.byte == 0 && at.document >= t.to.document || t.to.byte > 0 && here.document == t.to.document && end {
			return errEnd
		}
		return nil
	})
	if err == errEnd {
		return nil
	}
	return err
}

var errEnd = errors.New("the end of the part")

// HoldOut parts a text in two that share nothing: the last documents, about the given share of them and at least one,
// are for evaluation. Of a single document it is the last share of its bytes, from the start of a line where it has more
// than one line.
func (t *Text) HoldOut(ctx context.Context, share float64) (train, eval *Text, err error) {
	if !(share > 0 && share < 1) {
		return nil, nil, fmt.Errorf("the share held out for evaluation is %v; it must lie between 0 and 1", share)
	}
	cut := position{}
	heldBytes := int64(0)
	if t.documents == 1 {
		if cut.byte, err = t.lineNear(ctx, t.bytes-int64(math.Ceil(share*float64(t.bytes)))); err != nil {
			return nil, nil, err
		}
		heldBytes = t.bytes - cut.byte
	} else {
		held := min(max(int(math.Round(share*float64(t.documents))), 1), t.documents-1)
		cut.document = t.documents - held
		i := 0
		if err := t.each(ctx, func(piece []byte, end bool) error {
			if i >= cut.document {
				heldBytes += int64(len(piece))
			}
			if end {
				i++
			}
			return nil
		}); err != nil {
			return nil, nil, err
		}
	}
	middle := position{t.from.document + cut.document, cut.byte}
	if cut.document == 0 {
		middle.byte += t.from.byte
	}
	part := func(from, to position, documents int, bytes int64) *Text {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d:%d to %d:%d", t.hash, from.document, from.byte, to.document, to.byte))
		return &Text{t.source, from, to, documents, bytes, hex.EncodeToString(sum[:])}
	}
	return part(t.from, middle, max(cut.document, 1), t.bytes-heldBytes),
		part(middle, t.to, max(t.documents-cut.document, 1), heldBytes), nil
}

// lineNear returns where to cut a text of one document: at the first start of a line from target on, otherwise the last
// one before it, otherwise at the character that target is in.
func (t *Text) lineNear(ctx context.Context, target int64) (int64, error) {
	before, after, char := int64(0), int64(0), int64(0)
	offset := int64(0)
	err := t.each(ctx, func(piece []byte, _ bool) error {
		start := min(max(target-offset, 0), int64(len(piece)))
		// A line that starts at target ends with the byte before it.
		for from := max(start-1, 0); after == 0 && from < int64(len(piece)); {
			i := bytes.IndexByte(piece[from:], '\n')
			if i < 0 {
				break
			}
			from += int64(i) + 1
			if at := offset + from; at >= target && at < t.bytes {
				after = at
			}
		}
		if i := bytes.LastIndexByte(piece[:max(start-1, 0)], '\n'); i >= 0 {
			before = offset + int64(i) + 1
		}
		for i := start; char == 0 && i < int64(len(piece)); i++ {
			if at := offset + i; at > 0 && utf8.RuneStart(piece[i]) {
				char = at
			}
		}
		offset += int64(len(piece))
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case after > 0:
		return after, nil
	case before > 0:
		return before, nil
	case char > 0:
		return char, nil
	}
	return 0, errors.New("the text is a single character: nothing of it can be held out for evaluation; give more text")
}
