// Package tokenizer turns text into tokens and back: byte-level byte-pair encoding (Sennrich et al., "Neural Machine
// Translation of Rare Words with Subword Units", ACL 2016; over bytes as in Radford et al., "Language Models are
// Unsupervised Multitask Learners", 2019), learned from text or read from a tokenizer.json of Hugging Face's library,
// whose results it reproduces id for id.
package tokenizer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"iter"
	"sync"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// EndOfText is the token that ends a document in tokenizers made by Train.
const EndOfText = "<|endoftext|>"

// endOfText lists what families of models call the token that ends a document, in the order they are looked for.
var endOfText = []string{EndOfText, "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>"}

// Tokenizer is one tokenizer. It does not change, and any number of goroutines may use it.
type Tokenizer struct {
	file   []byte           // tokenizer.json
	ids    map[string]int32 // by name; names of the model's tokens spell bytes as byteRunes
	names  []string         // by id
	text   []string         // by id, the bytes that a token stands for
	bytes  [256]int32       // ids of the single bytes
	merges map[pair]merge

	ignoreMerges bool // a word that is a token is that token, whatever the merges make of it
	nfc          bool // text is brought into normal form C first
	splits       []splitter
	prefixSpace  bool // each part of the text that has no space in front gets one
	wordSplit    splitter
	added        [2]addedSet // found in the text as given, and in the text after normalisation
	end          int32       // -1 without one

	mu    sync.RWMutex
	words map[string][]int32 // short words met before
}

// Words longer than maxCachedWord bytes are not kept, nor more words than maxCachedWords.
const (
	maxCachedWord  = 32
	maxCachedWords = 1 << 16
)

// Train learns a tokenizer from documents: words are cut by GPT-2's rules, and the pair of neighbouring tokens that is
// seen most often becomes a token, over and over; among equals, the pair of lower ids (the older tokens) goes first.
// The ids are those of the special tokens in the order given, the 256 bytes, and the merges in the order learned.
// Where the text does not support VocabSize tokens, the tokenizer has fewer. The same text gives the same tokenizer.
func Train(ctx context.Context, docs iter.Seq[string], o Options) (*Tokenizer, error) {
	file, err := train(ctx, docs, o)
	if err != nil {
		return nil, err
	}
	return parse(file)
}

// Save writes the tokenizer as tokenizer.json, whole or not at all. One that was read is written as it was.
func (t *Tokenizer) Save(path string) error {
	return disk.WriteFile(disk.OS{}, path, func(w io.Writer) error {
		_, err := w.Write(t.file)
		return err
	})
}

// Hash identifies the tokenizer: SHA-256 of its tokenizer.json, in hexadecimal.
func (t *Tokenizer) Hash() string {
	sum := sha256.Sum256(t.file)
	return hex.EncodeToString(sum[:])
}

// VocabSize returns the number of tokens; ids run from 0 to VocabSize()-1.
func (t *Tokenizer) VocabSize() int { return len(t.names) }

// Token returns a token's name as tokenizer.json spells it (a space is Ġ), or "" for an id that is none.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.names) {
		return ""
	}
	return t.names[id]
}

// ID returns the id of the token that tokenizer.json spells so.
func (t *Tokenizer) ID(token string) (id int32, ok bool) {
	id, ok = t.ids[token]
	return id, ok
}

// EndOfText returns the token that ends a document, if the tokenizer has one.
func (t *Tokenizer) EndOfText() (id int32, ok bool) { return t.end, t.end >= 0 }

// Encode returns the tokens of a text. The name of a special token in the text is text like any other, so no input can
// pose as one. Bytes that are no UTF-8 are encoded as they are.
func (t *Tokenizer) Encode(text string) []int32 { return t.encode(text, false) }

// EncodeSpecial is Encode, except that special tokens spelled out in the text become these tokens.
func (t *Tokenizer) EncodeSpecial(text string) []int32 { return t.encode(text, true) }

func (t *Tokenizer) encode(text string, special bool) []int32 {
	e := encoder{t: t, out: make([]int32, 0, len(text)/4+1)}
	t.added[0].cut(text, special, e.token, func(part string) {
		if t.nfc {
			part = toNFC(part)
		}
		t.added[1].cut(part, special, e.token, func(part string) { e.split(t.splits, part) })
	})
	return e.out
}

// encoder collects the tokens of one text.
type encoder struct {
	t   *Tokenizer
	out []int32
	merger
}

func (e *encoder) token(id int32) { e.out = append(e.out, id) }

// split cuts a text by one splitter after the other, and its parts into words.
func (e *encoder) split(splits []splitter, text string) {
	if len(splits) > 0 {
		for text != "" {
			n := splits[0](text)
			e.split(splits[1:], text[:n])
			text = text[n:]
		}
		return
	}
	if e.t.prefixSpace && text[0] != ' ' {
		text = " " + text
	}
	for text != "" {
		n := e.t.wordSplit(text)
		e.word(text[:n])
		text = text[n:]
	}
}

func (e *encoder) word(word string) {
	t := e.t
	if len(word) > maxCachedWord {
		e.out = e.merge(t, word, e.out)
		return
	}
	t.mu.RLock()
	ids, ok := t.words[word]
	full := len(t.words) >= maxCachedWords
	t.mu.RUnlock()
	if ok {
		e.out = append(e.out, ids...)
		return
	}
	from := len(e.out)
	e.out = e.merge(t, word, e.out)
	if !full {
		ids = append([]int32(nil), e.out[from:]...)
		t.mu.Lock()
		t.words[string([]byte(word))] = ids // a copy: the word must not keep the whole text in memory
		t.mu.Unlock()
	}
}
