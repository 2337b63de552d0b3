package nvcc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// cache is a folder of results, ab/abcdef…, each named by the hash of what it was made from:
//
//	tfc-nvcc 1 <SHA-256 of the rest>
//	<meta as a line of JSON>
//	<data>
type cache struct{ dir string }

const (
	entryFormat = "tfc-nvcc 1 "
	scratch     = "tmp-"    // folders of work under way
	trimmed     = "trimmed" // a file as old as the last look for entries to remove
	keep        = 30 * 24 * time.Hour
)

// openCache makes the folder of the cache where it is missing.
func openCache() (cache, error) {
	dir := os.Getenv("TFC_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return cache{}, fmt.Errorf("the cache of compiled kernels has no folder: %w; set TFC_CACHE to one", err)
		}
		dir = filepath.Join(user, "tfc", "nvcc")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err != nil {
		return cache{}, fmt.Errorf("the cache of compiled kernels: %w; set TFC_CACHE to a folder that can be written", err)
	}
	return cache{dir}, nil
}

// key hashes the parts of what a result depends on.
func key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c cache) file(key string) string { return filepath.Join(c.dir, key[:2], key) }

// get reads the entry of a key, and says whether there is a sound one.
func (c cache) get(key string, meta any) (data []byte, ok bool) {
	file := c.file(key)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	head, rest, _ := bytes.Cut(text, []byte("\n"))
	sum := sha256.Sum256(rest)
	if string(head) != entryFormat+hex.EncodeToString(sum[:]) {
		return nil, false
	}
	line, data, _ := bytes.Cut(rest, []byte("\n"))
	if json.Unmarshal(line, meta) != nil {
		return nil, false
	}
	if info, err := os.Stat(file); err == nil && time.Since(info.ModTime()) > keep/10 {
		now := time.Now()
		_ = os.Chtimes(file, now, now) // the entry is good even where its age cannot be told
	}
	return data, true
}

// put writes the entry of a key, whole or not at all; work is a folder of scratch.
func (c cache) put(work, key string, meta any, data []byte) error {
	line, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	rest := append(append(line, '\n'), data...)
	sum := sha256.Sum256(rest)
	aside := filepath.Join(work, "entry")
	err = os.WriteFile(aside, append([]byte(entryFormat+hex.EncodeToString(sum[:])+"\n"), rest...), 0o666)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(c.file(key)), 0o777)
	}
	if err == nil {
		err = os.Rename(aside, c.file(key))
	}
	if err != nil {
		return fmt.Errorf("the cache of compiled kernels: %w; set TFC_CACHE to a folder that can be written", err)
	}
	return nil
}

// work makes an empty folder for one call of a compiler; the caller removes it.
func (c cache) work() (string, error) {
	dir, err := os.MkdirTemp(c.dir, scratch)
	if err != nil {
		return "", fmt.Errorf("the cache of compiled kernels: %w; set TFC_CACHE to a folder that can be written", err)
	}
	return dir, nil
}

// trim removes, at most once a day, the entries that nothing has asked for in a while, and the folders of builds that were
// killed. What cannot be removed stays.
func (c cache) trim(now time.Time) {
	mark := filepath.Join(c.dir, trimmed)
	if info, err := os.Stat(mark); err == nil && now.Sub(info.ModTime()) < 24*time.Hour {
		return
	}
	if os.WriteFile(mark, nil, 0o666) != nil || os.Chtimes(mark, now, now) != nil {
		return
	}
	_ = filepath.WalkDir(c.dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || file == c.dir {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		old := err == nil && now.Sub(info.ModTime()) > keep
		switch {
		case e.IsDir() && strings.HasPrefix(e.Name(), scratch):
			if old {
				_ = os.RemoveAll(file)
			}
			return fs.SkipDir
		case !e.IsDir() && old && len(e.Name()) == 2*sha256.Size:
			_ = os.Remove(file)
		}
		return nil
	})
}
