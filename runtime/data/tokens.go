package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// Tokenizer is what Tokenise needs of one; *tokenizer.Tokenizer is one. Encode is called from several goroutines.
type Tokenizer interface {
	Encode(text string) []int32
	EndOfText() (id int32, ok bool) // ends every document, where there is one
	VocabSize() int                 // ids are below
	Hash() string                   // identifies the tokenizer
}

// Tokens is a text as one stream of tokens.
type Tokens struct {
	ids   []byte // little-endian, each of width bytes
	width int    // 2 where the vocabulary has at most 65536 tokens, otherwise 4
}

// Len returns the number of tokens.
func (t *Tokens) Len() int { return len(t.ids) / t.width }

// copy writes the tokens from position from on to dst.
func (t *Tokens) copy(dst []int32, from int) {
	if t.width == 2 {
		ids := t.ids[2*from:][:2*len(dst)]
		for i := range dst {
			dst[i] = int32(binary.LittleEndian.Uint16(ids[2*i:]))
		}
		return
	}
	ids := t.ids[4*from:][:4*len(dst)]
	for i := range dst {
		dst[i] = int32(binary.LittleEndian.Uint32(ids[4*i:]))
	}
}

// widthOf returns the bytes of a token.
func widthOf(vocab int) int {
	if vocab <= math.MaxUint16+1 {
		return 2
	}
	return 4
}

// Tokenise returns the tokens of a text, the tokenizer's end of text after each document. They are kept in the file
// cachePath (its folder is made if missing), if given, and read from there when the same text and tokenizer come again; a cache of other ones, or a
// damaged one, is written anew. The tokens are the same however many processors there are.
func Tokenise(ctx context.Context, text *Text, tok Tokenizer, cachePath string) (*Tokens, error) {
	t := &Tokens{width: widthOf(tok.VocabSize())}
	if cachePath == "" {
		var ids bytes.Buffer
		if err := encode(ctx, text, tok, &ids); err != nil {
			return nil, err
		}
		t.ids = ids.Bytes()
		return t, nil
	}
	key := cacheKey(text, tok)
	var err error
	if t.ids, err = readCache(cachePath, key); err == nil {
		return t, nil
	}
	if err := os.MkdirAll(filepath.Dir(cachePath), 0o777); err != nil {
		return nil, fmt.Errorf("make the folder for the tokens: %w", err)
	}
	var stopped error
	err = disk.WriteFile(disk.OS{}, cachePath, func(w io.Writer) error {
		return writeCache(w, key, func(w io.Writer) error {
			stopped = encode(ctx, text, tok, w)
			return stopped
		})
	})
	switch {
	case stopped != nil:
		return nil, stopped
	case err != nil:
		return nil, fmt.Errorf("keep the tokens of the text: %w", err)
	}
	if t.ids, err = readCache(cachePath, key); err != nil {
		return nil, fmt.Errorf("read back the tokens of the text: %w", err)
	}
	return t, nil
}

// encode writes the ids of a text. Pieces are encoded in parallel, some at a time, and written in order.
func encode(ctx context.Context, text *Text, tok Tokenizer, w io.Writer) error {
	type job struct {
		text string
		end  bool
		ids  []byte
		err  error
	}
	var (
		jobs    []job
		waiting int // bytes in jobs
		workers = runtime.GOMAXPROCS(0)
	)
	flush := func() error {
		var next atomic.Int64
		var group sync.WaitGroup
		for range min(workers, len(jobs)) {
			group.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(jobs); i = int(next.Add(1)) - 1 {
					j := &jobs[i]
					j.ids, j.err = encodePiece(tok, j.text, j.end)
				}
			})
		}
		group.Wait()
		for _, j := range jobs {
			if j.err != nil {
				return j.err
			}
			if _, err := w.Write(j.ids); err != nil {
				return err
			}
		}
		clear(jobs)
		jobs, waiting = jobs[:0], 0
		return ctx.Err()
	}
	err := text.each(ctx, func(piece []byte, end bool) error {
		jobs = append(jobs, job{text: string(piece), end: end})
		if waiting += len(piece); waiting < workers*pieceSize {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

func encodePiece(tok Tokenizer, text string, end bool) ([]byte, error) {
	ids := tok.Encode(text)
	if id, ok := tok.EndOfText(); ok && end {
		ids = append(ids, id)
	}
	vocab := tok.VocabSize()
	width := widthOf(vocab)
	out := make([]byte, 0, len(ids)*width)
	for _, id := range ids {
		if id < 0 || int(id) >= vocab {
			return nil, fmt.Errorf("the tokenizer gave token %d, its vocabulary has %d: its file is damaged", id, vocab)
		}
		if width == 2 {
			out = binary.LittleEndian.AppendUint16(out, uint16(id))
		} else {
			out = binary.LittleEndian.AppendUint32(out, uint32(id))
		}
	}
	return out, nil
}
