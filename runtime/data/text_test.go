package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

// folder writes files, by name.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func mustFiles(t testing.TB, root string, patterns ...string) *Text {
	t.Helper()
	text, err := Files(t.Context(), root, patterns, nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// documents reads a text, its documents put together again.
func documents(t testing.TB, text *Text) (docs []string) {
	t.Helper()
	var doc strings.Builder
	size := int64(0)
	if err := text.each(t.Context(), func(piece []byte, end bool) error {
		doc.Write(piece)
		size += int64(len(piece))
		if end {
			docs = append(docs, doc.String())
			doc.Reset()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if doc.Len() > 0 {
		t.Errorf("the last document has no end: %.40q", doc.String())
	}
	if len(docs) != text.Documents() || size != text.Bytes() {
		t.Errorf("%d documents of %d bytes, said to be %d of %d", len(docs), size, text.Documents(), text.Bytes())
	}
	return docs
}

func TestCut(t *testing.T) {
	long := strings.Repeat("many words and more ", 20)
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"one\r\ntwo\r\n", []string{"one\r\ntwo\r\n"}},
		{"\n\n", []string{"\n\n"}},
		{"a<|endoftext|>b", []string{"a", "b"}},
		{"a\n<|endoftext|>\n\nb\n", []string{"a", "b\n"}},
		{"a\r\n<|endoftext|>\r\nb\r\n<|endoftext|>\r\n", []string{"a", "b"}},
		{"<|endoftext|><|endoftext|>\n<|endoftext|> a ", []string{" a "}},
		{"<|endoftext|>\n", nil},
		{"<|endoftext <|endoftext|", []string{"<|endoftext <|endoftext|"}},
		{long + "\n\n\n\n\n\n\n\n\n\n\n\n<|endoftext|>\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n" + long, []string{long, long}},
		{strings.Repeat("ab<|endoftext|>", 50), slices.Repeat([]string{"ab"}, 50)},
		{strings.Repeat("語", 100) + " " + strings.Repeat("1 ", 100), []string{strings.Repeat("語", 100) + " " + strings.Repeat("1 ", 100)}},
		{strings.Repeat("é ", 100), []string{strings.Repeat("é ", 100)}},
	} {
		for size := 1; size < 70; size++ {
			var got []string
			var doc strings.Builder
			err := cut(iotest.OneByteReader(strings.NewReader(c.text)), size, func(piece []byte, end bool) error {
				if !end && len(piece) == 0 {
					t.Errorf("an empty piece of %.40q at size %d", c.text, size)
				}
				doc.Write(piece)
				if end {
					got = append(got, doc.String())
					doc.Reset()
				}
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) || doc.Len() > 0 {
				t.Fatalf("%.40q, pieces of %d: %q, %v; want %q", c.text, size, got, err, c.want)
			}
		}
	}
}

func TestCutBetweenWords(t *testing.T) {
	var got []string
	if err := cut(strings.NewReader("Tim had 2 red  balls . Zoë ran \n far"), 12, func(piece []byte, _ bool) error {
		got = append(got, string(piece))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"Tim had", " 2 red", "  balls", " . Zoë ran", " \n far"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestInvalidTextNamesFileAndByte(t *testing.T) {
	for _, c := range []struct {
		text string
		at   int
	}{
		{"abc\xffdef", 3}, {"\xe4\xbd", 0}, {"é\n\xc0\xafz", 3}, {"a<|endoftext|>\nb\x80", 16},
		{strings.Repeat("word ", 1<<19) + "\xed\xa0\x80 end", 5 << 19}, {"\ufffdok\xf0", 5},
	} {
		root := folder(t, map[string]string{"a.txt": "fine", "b.txt": c.text})
		_, err := Files(t.Context(), root, []string{"*.txt"}, nil)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("b.txt: byte %d is not UTF-8", c.at)) {
			t.Errorf("%.20q: %v, want byte %d", c.text, err, c.at)
		}
	}
}

func TestFilesAreSortedAndReadOnce(t *testing.T) {
	root := folder(t, map[string]string{"t/b.txt": "B", "t/a.txt": "A", "t/c.md": "C", "u/d.txt": "D", "t/sub.txt/x": "X", "t/empty.txt": ""})
	for _, c := range []struct {
		patterns, except, want []string
	}{
		{[]string{"t/*.txt"}, nil, []string{"A", "B"}},
		{[]string{"u/*.txt", "./t/*", "t/a.txt"}, nil, []string{"A", "B", "C", "D"}},
		{[]string{"*/*.txt"}, []string{"t/b*"}, []string{"A", "D"}},
		{[]string{"t/[bc].*"}, nil, []string{"B", "C"}},
	} {
		text, err := Files(t.Context(), root, c.patterns, c.except)
		if err != nil {
			t.Fatal(err)
		}
		if got := documents(t, text); !slices.Equal(got, c.want) {
			t.Errorf("%v without %v: %q, want %q", c.patterns, c.except, got, c.want)
		}
	}
	t.Chdir(root)
	if got := documents(t, mustFiles(t, "", "u/*")); !slices.Equal(got, []string{"D"}) {
		t.Errorf("in the current folder: %q", got)
	}
}

func TestFilesErrors(t *testing.T) {
	root := folder(t, map[string]string{"in/t/a.txt": "A", "in/empty.txt": "", "out.txt": "secret"})
	in := filepath.Join(root, "in")
	if err := os.Symlink("../out.txt", filepath.Join(in, "link.txt")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(in, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		patterns, except []string
		want             string
	}{
		{nil, nil, "no pattern"},
		{[]string{"t/*.md"}, nil, `matches "t/*.md"`},
		{[]string{"t"}, nil, `no file in`},
		{[]string{"t/*", "x/*"}, nil, `matches "x/*"`},
		{[]string{"../*.txt"}, nil, `leads out of`},
		{[]string{"t/../../out.txt"}, nil, `leads out of`},
		{[]string{filepath.Join(root, "out.txt")}, nil, `leads out of`},
		{[]string{"link.txt"}, nil, `link.txt`},
		{[]string{"pipe"}, nil, `pipe, matched by "pipe", is not a regular file`},
		{[]string{"t/[.txt"}, nil, `is no pattern`},
		{[]string{""}, nil, `is no pattern`},
		{[]string{"**/*.txt"}, nil, `** is not known`},
		{[]string{"empty*"}, nil, "are empty: empty.txt"},
		{[]string{"t/*"}, []string{"t/a*"}, "left out by t/a*"},
		{[]string{"t/*"}, []string{"eval/*"}, `matches "eval/*"`},
	} {
		_, err := Files(t.Context(), in, c.patterns, c.except)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v without %v: %v, want %q", c.patterns, c.except, err, c.want)
		}
	}
	if _, err := Files(t.Context(), filepath.Join(root, "none"), []string{"*"}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestFileChangedWhileRead(t *testing.T) {
	root := folder(t, map[string]string{"a.txt": "one"})
	text := mustFiles(t, root, "a.txt")
	if err := os.WriteFile(filepath.Join(root, "a.txt"), []byte("other"), 0o666); err != nil {
		t.Fatal(err)
	}
	pieces, failed := text.Pieces(t.Context())
	for p := range pieces {
		t.Errorf("%q is handed over", p)
	}
	if err := failed(); err == nil || !strings.Contains(err.Error(), "a.txt was changed") {
		t.Errorf("%v", err)
	}
}

func TestHash(t *testing.T) {
	hash := func(files map[string]string) string { return mustFiles(t, folder(t, files), "*").Hash() }
	first := hash(map[string]string{"a": "one", "b": "two"})
	if again := hash(map[string]string{"x": "one<|endoftext|>\ntwo"}); again != first {
		t.Error("the same documents in one file have another hash")
	}
	for _, files := range []map[string]string{
		{"a": "onetwo"}, {"a": "one", "b": "twO"}, {"a": "onet", "b": "wo"}, {"a": "two", "b": "one"}, {"a": "one", "b": "two\n"},
	} {
		if hash(files) == first {
			t.Errorf("%v has the hash of other documents", files)
		}
	}
}

// What is held out and what is learned from are together the text, and share nothing.
func TestHoldOut(t *testing.T) {
	many := map[string]string{}
	for i := range 40 {
		many[fmt.Sprintf("%02d", i)] = fmt.Sprintf("document %d", i)
	}
	big := strings.Repeat("a line of words here\n", 120_000)
	for _, c := range []struct {
		files map[string]string
		share float64
		held  int // documents, or bytes of a single one
	}{
		{many, 0.01, 1}, {many, 0.1, 4}, {many, 0.5, 20}, {many, 0.999, 39},
		{map[string]string{"a": "A", "b": "B"}, 0.9, 1},
		{map[string]string{"a": "one\ntwo\nthree\nfour\n"}, 0.01, 5}, // the last line
		{map[string]string{"a": "one\ntwo\nthree\nfour\n"}, 0.5, 5},  // within three
		{map[string]string{"a": "one\ntwo\n"}, 0.5, 4},               // at the line itself
		{map[string]string{"a": "one\ntwo\nthree\nfour\n"}, 0.99, 15},
		{map[string]string{"a": "one\r\ntwo\r\n"}, 0.3, 5},
		{map[string]string{"a": "a line\nand a long one without an end"}, 0.1, 29},
		{map[string]string{"a": "nolines"}, 0.3, 3},
		{map[string]string{"a": "猫猫猫"}, 0.5, 3},
		{map[string]string{"a": "猫猫"}, 0.9, 3},
		{map[string]string{"a": big}, 0.01, 1200 * 21},
		{map[string]string{"a": big}, 0.7, 84000 * 21},
	} {
		text := mustFiles(t, folder(t, c.files), "*")
		train, eval, err := text.HoldOut(t.Context(), c.share)
		if err != nil {
			t.Fatal(err)
		}
		a, b := documents(t, train), documents(t, eval)
		all, held := append(slices.Clone(a), b...), len(b)
		if text.Documents() == 1 {
			all, held = []string{a[0] + b[0]}, len(b[0])
		}
		if !slices.Equal(all, documents(t, text)) || held != c.held {
			t.Errorf("%d documents, share %v: %.40q and %.40q (%d), want %d", text.Documents(), c.share, a, b, held, c.held)
		}
		hashes := []string{text.Hash(), train.Hash(), eval.Hash()}
		slices.Sort(hashes)
		if len(slices.Compact(hashes)) != 3 {
			t.Errorf("hashes %v", hashes)
		}

		// The parts can be parted again.
		if c.held == 20 {
			inner, last, err := eval.HoldOut(t.Context(), 0.1)
			if err != nil {
				t.Fatal(err)
			}
			if got := append(documents(t, inner), documents(t, last)...); !slices.Equal(got, b) || last.Documents() != 2 {
				t.Errorf("the part in parts: %q", got)
			}
		}
	}
}

func TestHoldOutOfPartsOfOneDocument(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "1\n2\n3\n4\n5\n6\n7\n8\n"}), "*")
	first, second, err := text.HoldOut(t.Context(), 0.5)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, part := range []*Text{first, second} {
		a, b, err := part.HoldOut(t.Context(), 0.5)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, documents(t, a)...)
		got = append(got, documents(t, b)...)
	}
	if want := []string{"1\n2\n", "3\n4\n", "5\n6\n", "7\n8\n"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestHoldOutErrors(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "語"}), "*")
	if _, _, err := text.HoldOut(t.Context(), 0.5); err == nil || !strings.Contains(err.Error(), "single character") {
		t.Errorf("%v", err)
	}
	for _, share := range []float64{0, 1, -1, 2} {
		if _, _, err := text.HoldOut(t.Context(), share); err == nil || !strings.Contains(err.Error(), "between 0 and 1") {
			t.Errorf("share %v: %v", share, err)
		}
	}
}

func TestPiecesStopsEarly(t *testing.T) {
	text := mustFiles(t, folder(t, map[string]string{"a": "A", "b": "B", "c": "C"}), "*")
	pieces, failed := text.Pieces(t.Context())
	for range 2 {
		for p := range pieces {
			if p == "B" {
				break
			}
		}
	}
	if err := failed(); err != nil {
		t.Error(err)
	}
	if got := slices.Collect(pieces); !slices.Equal(got, []string{"A", "B", "C"}) {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pieces, failed = text.Pieces(ctx)
	for range pieces {
		cancel()
	}
	if !errors.Is(failed(), context.Canceled) {
		t.Errorf("%v", failed())
	}
}

// A file takes memory by its pieces, not by its size.
func TestFilesStream(t *testing.T) {
	root := folder(t, map[string]string{"a": strings.Repeat("some words and more of them\n", 1<<20)})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	text := mustFiles(t, root, "a")
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4*pieceSize {
		t.Errorf("reading %d bytes allocates %d", text.Bytes(), used)
	}
}

func TestStories(t *testing.T) {
	text, err := Stories(t.Context(), 3, 50)
	if err != nil {
		t.Fatal(err)
	}
	train, eval, err := text.HoldOut(t.Context(), 0.1)
	if err != nil {
		t.Fatal(err)
	}
	docs := documents(t, text)
	if got := append(documents(t, train), documents(t, eval)...); len(docs) != 50 || eval.Documents() != 5 || !slices.Equal(got, docs) {
		t.Errorf("%d stories, %d held out", len(docs), eval.Documents())
	}
	for _, d := range docs {
		if bytes.Contains([]byte(d), []byte(Separator)) {
			t.Errorf("a story holds the separator: %q", d)
		}
	}
	again, err := Stories(t.Context(), 3, 50)
	if err != nil || again.Hash() != text.Hash() {
		t.Errorf("the same stories have another hash: %v", err)
	}
	if other, err := Stories(t.Context(), 4, 50); err != nil || other.Hash() == text.Hash() {
		t.Errorf("other stories have the same hash: %v", err)
	}
	if _, err := Stories(t.Context(), 3, 0); err == nil {
		t.Error("no stories are a text")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Stories(ctx, 3, 1<<30); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
