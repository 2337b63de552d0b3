package data

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// files is text in files.
type files struct {
	root  string
	names []string
	seen  map[string]stamp // when first read
}

// stamp tells whether a file has changed.
type stamp struct {
	size     int64
	modified int64
}

// Files returns the text of all files below the folder root (the current one when empty) that match one of the patterns (those of path.Match, such
// as texts/*.txt) and none of except, in order of their names. A file is one document, or several with Separator between
// them; it is read as it is, line breaks included, and must be UTF-8. Pieces of a long file are in memory, never all of
// it. A pattern that leads out of the root or matches no file is an error, as is a link that leads out of it.
func Files(ctx context.Context, root string, patterns, except []string) (*Text, error) {
	r, err := os.OpenRoot(filepath.Clean(root))
	if err != nil {
		return nil, fmt.Errorf("open the folder of the texts: %w", err)
	}
	defer r.Close()
	if len(patterns) == 0 {
		return nil, errors.New("no pattern says which files hold the text: give one, such as texts/*.txt")
	}
	names, err := match(r, patterns)
	if err != nil {
		return nil, err
	}
	left, err := match(r, except)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, found := slices.BinarySearch(left, name)
		return found
	})
	all := strings.Join(patterns, ", ")
	if len(names) == 0 {
		return nil, fmt.Errorf("all files of %s are left out by %s: nothing is left to learn from", all, strings.Join(except, ", "))
	}
	t, err := newText(ctx, &files{r.Name(), names, map[string]stamp{}})
	if err != nil {
		return nil, err
	}
	if t.documents == 0 {
		return nil, fmt.Errorf("the files of %s are empty: %s", all, strings.Join(names, ", "))
	}
	return t, nil
}

// match lists the files of all patterns, sorted, each once.
func match(root *os.Root, patterns []string) (names []string, err error) {
	for _, p := range patterns {
		clean := path.Clean(filepath.ToSlash(p))
		if _, err := path.Match(clean, ""); err != nil || p == "" {
			return nil, fmt.Errorf("%q is no pattern of file names: write one such as texts/*.txt", p)
		}
		if strings.Contains(clean, "**") {
			return nil, fmt.Errorf("%q: ** is not known; write a pattern for each depth of folders", p)
		}
		if !filepath.IsLocal(filepath.FromSlash(clean)) {
			return nil, fmt.Errorf("%q leads out of %s: give a pattern that starts from there, and keep the texts below it", p, root.Name())
		}
		found, err := fs.Glob(root.FS(), clean)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p, err)
		}
		some := false
		for _, name := range found {
			info, err := root.Stat(name)
			if err != nil {
				return nil, fmt.Errorf("%s, matched by %q: %w", filepath.Join(root.Name(), name), p, err)
			}
			if info.IsDir() {
				continue
			}
			if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
				return nil, fmt.Errorf("%s, matched by %q, is not a regular file", filepath.Join(root.Name(), name), p)
			}
			names = append(names, name)
			some = true
		}
		if !some {
			return nil, fmt.Errorf("no file in %s matches %q: put the texts there, or change the pattern", root.Name(), p)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (s *files) each(ctx context.Context, f func(piece []byte, end bool) error) error {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return fmt.Errorf("open the folder of the texts: %w", err)
	}
	defer root.Close()
	for _, name := range s.names {
		if err := s.file(ctx, root, name, f); err != nil {
			return err
		}
	}
	return nil
}

// file hands over the documents of one file. Errors of the file name it; those of f are left as they are.
func (s *files) file(ctx context.Context, root *os.Root, name string, f func(piece []byte, end bool) error) error {
	where := filepath.Join(s.root, name)
	file, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	now := stamp{info.Size(), info.ModTime().UnixNano()}
	if first, ok := s.seen[name]; !ok {
		s.seen[name] = now
	} else if first != now {
		return fmt.Errorf("%s was changed while the text was read: start again when it is complete", where)
	}
	var refused error
	err = cut(file, pieceSize, func(piece []byte, end bool) error {
		if refused = ctx.Err(); refused == nil {
			refused = f(piece, end)
		}
		return refused
	})
	if err != nil && refused == nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return err
}
