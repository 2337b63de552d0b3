package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// Named is a tensor in memory.
type Named struct {
	Name  string
	Shape []int
	Data  []float32
}

// WriteTensors writes a safetensors file of F32 tensors, sorted by name; the metadata gains "format": "pt", as Hugging
// Face libraries expect. The same input gives the same bytes. The file is written aside, synced and renamed, so that
// path is never half written; on an error it is as it was.
func WriteTensors(path string, tensors []Named, metadata map[string]string) error {
	sources := make([]source, len(tensors))
	for i, t := range tensors {
		if n := (Tensor{Shape: t.Shape}).Size(); n != len(t.Data) {
			return fmt.Errorf("%s: tensor %q: shape %v has %d elements, the data %d", path, t.Name, t.Shape, n, len(t.Data))
		}
		sources[i] = source{t.Name, t.Shape, func(put func([]float32) error) error { return put(t.Data) }}
	}
	return writeTensors(disk.OS{}, path, sources, metadata)
}

// ReadTensors reads all tensors of a safetensors file as float32, sorted by name.
func ReadTensors(path string) ([]Named, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list := make([]Named, len(f.tensors))
	for i, t := range f.tensors {
		list[i] = Named{t.Name, t.Shape, make([]float32, t.Size())}
		if err := f.readFloats(t, 0, list[i].Data); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b Named) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// source is a tensor to be written, whose values arrive in pieces, in order.
type source struct {
	name  string
	shape []int
	emit  func(put func([]float32) error) error
}

func (s source) bytes() int { return 4 * Tensor{Shape: s.shape}.Size() }

func writeTensors(fsys disk.FS, path string, sources []source, metadata map[string]string) error {
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.name, b.name) })
	header, err := header(sources, metadata)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return disk.WriteFile(fsys, path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		for _, s := range sources {
			if err := s.encode(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// encode writes the values in little-endian order.
func (s source) encode(w io.Writer) error {
	buf := make([]byte, 0, min(s.bytes(), 1<<16))
	return s.emit(func(values []float32) error {
		for len(values) > 0 {
			n := min(len(values), cap(buf)/4)
			buf = buf[:0]
			for _, v := range values[:n] {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			if _, err := w.Write(buf); err != nil {
				return err
			}
			values = values[n:]
		}
		return nil
	})
}

// header returns the length and the JSON that begin a file, padded with spaces so that the data starts at a multiple of 8.
func header(sources []source, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	meta := map[string]string{"format": "pt"}
	maps.Copy(meta, metadata)
	fmt.Fprintf(&b, `{"__metadata__":{`)
	for i, key := range slices.Sorted(maps.Keys(meta)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s:%s", quote(key), quote(meta[key]))
	}
	b.WriteByte('}')
	at := 0
	for i, s := range sources {
		switch {
		case s.name == "__metadata__" || !utf8.ValidString(s.name):
			return nil, fmt.Errorf("%q cannot name a tensor", s.name)
		case i > 0 && s.name == sources[i-1].name:
			return nil, fmt.Errorf("tensor %q is given twice", s.name)
		case len(s.shape) > maxRank:
			return nil, fmt.Errorf("tensor %q has %d dimensions, at most %d are allowed", s.name, len(s.shape), maxRank)
		case slices.ContainsFunc(s.shape, func(d int) bool { return d < 0 }):
			return nil, fmt.Errorf("tensor %q: shape %v has a negative dimension", s.name, s.shape)
		}
		dims := strings.ReplaceAll(fmt.Sprint(s.shape), " ", ",")
		fmt.Fprintf(&b, `,%s:{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, quote(s.name), dims, at, at+s.bytes())
		at += s.bytes()
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-8 > maxHeader {
		return nil, errors.New("too many tensors for one file: its header would pass 100 MB")
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-8))
	return b.Bytes(), nil
}

// quote writes a JSON string without the escapes of HTML that encoding/json adds by default.
func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // strings always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
