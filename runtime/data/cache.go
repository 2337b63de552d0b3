package data

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// A cache of tokens is the key (SHA-256 of what the tokens were made from), the ids, and SHA-256 of all that.

// cacheKey identifies the tokens of a text. The version changes with the format and with how text is cut.
func cacheKey(text *Text, tok Tokenizer) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "tokens version 1\n%s\n%s\n%d\n", text.Hash(), tok.Hash(), tok.VocabSize()))
}

// writeCache writes a cache whose ids come from write.
func writeCache(w io.Writer, key [sha256.Size]byte, write func(io.Writer) error) error {
	sum := sha256.New()
	both := io.MultiWriter(w, sum)
	if _, err := both.Write(key[:]); err != nil {
		return err
	}
	if err := write(both); err != nil {
		return err
	}
	_, err := w.Write(sum.Sum(nil))
	return err
}

// readCache returns the ids in a cache of this key, undamaged.
func readCache(path string, key [sha256.Size]byte) ([]byte, error) {
	f, err := disk.OS{}.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - 2*sha256.Size
	if size < 0 {
		return nil, fmt.Errorf("%s is cut short", path)
	}
	var found, want [sha256.Size]byte
	if _, err := io.ReadFull(f, found[:]); err != nil {
		return nil, err
	}
	if found != key {
		return nil, fmt.Errorf("%s holds the tokens of another text or tokenizer", path)
	}
	ids := make([]byte, size)
	if _, err := io.ReadFull(f, ids); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return nil, err
	}
	sum := sha256.New()
	sum.Write(key[:])
	sum.Write(ids)
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		return nil, errors.New(path + " is damaged: its checksum is wrong")
	}
	return ids, nil
}
