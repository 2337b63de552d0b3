package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

const (
	maxHeader = 100_000_000 // bytes, the format's own limit
	maxRank   = 8
	readChunk = 1 << 20 // bytes
)

// Tensor describes one tensor of a file.
type Tensor struct {
	Name  string
	DType string // as the file names it: F32, BF16, I64, …
	Shape []int

	begin, end uint64 // bytes, from the end of the header
}

// Size returns the number of elements.
func (t Tensor) Size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// File is an open safetensors file (https://github.com/huggingface/safetensors, "Format"). Its methods may be called by
// several goroutines.
type File struct {
	path     string
	data     io.ReaderAt
	close    func() error
	start    int64 // of the tensors' data
	tensors  []Tensor
	index    map[string]int
	metadata map[string]string
}

// Open opens a safetensors file and checks all of its header before anything else is read: lengths, names, types, and
// that the tensors fill the file without hole or overlap. Values are read with pread and never mapped, so that a file
// that shrinks meanwhile is an error and not a crash. Memory is in proportion to the header, which is at most 100 MB and
// never longer than the file.
func Open(path string) (*File, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, pathless(err))
	}
	return f, nil
}

func openFile(path string) (*File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for its writer
		return nil, errors.New("not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, data: file, close: file.Close}
	if info, err = file.Stat(); err == nil {
		err = f.readHeader(info.Size())
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

// pathless drops the path from an error of the operating system, where the caller names it already.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func (f *File) readHeader(size int64) error {
	start := make([]byte, min(size, 64))
	if _, err := f.data.ReadAt(start, 0); err != nil && len(start) > 0 {
		return shorter(err)
	}
	if len(start) < 8 {
		return notSafetensors(start, "%d bytes are too few for one", len(start))
	}
	n := binary.LittleEndian.Uint64(start)
	switch {
	case n > maxHeader:
		return notSafetensors(start, "the header's length is given as %d bytes, at most %d are allowed", n, maxHeader)
	case n > uint64(size-8):
		return notSafetensors(start, "the header's length is given as %d bytes, after which the file has only %d", n, size-8)
	case n < 2 || start[8] != '{':
		return notSafetensors(start, "the header does not begin with {")
	}
	header := make([]byte, n)
	if _, err := f.data.ReadAt(header, 8); err != nil {
		return shorter(err)
	}
	f.start = 8 + int64(n)
	if err := f.parseHeader(header); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := f.checkLayout(uint64(size - f.start)); err != nil {
		return err
	}
	f.index = make(map[string]int, len(f.tensors))
	for i, t := range f.tensors {
		f.index[t.Name] = i
	}
	return nil
}

func (f *File) parseHeader(header []byte) error {
	body := bytes.TrimRight(header, " ")
	if body[len(body)-1] != '}' {
		return errors.New("something other than spaces follows the closing brace")
	}
	r := strictjson.NewReader(body)
	err := r.Object(func(name string) error {
		if name == "__metadata__" {
			f.metadata = map[string]string{}
			return r.Object(func(key string) (err error) {
				f.metadata[key], err = r.String()
				return err
			})
		}
		t, err := parseTensor(r, name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		f.tensors = append(f.tensors, t)
		return nil
	})
	if err != nil {
		return err
	}
	return r.End()
}

// parseTensor reads {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}.
func parseTensor(r *strictjson.Reader, name string) (t Tensor, err error) {
	t.Name = name
	var offsets []uint64
	var hasShape bool
	err = r.Object(func(field string) (err error) {
		switch field {
		case "dtype":
			t.DType, err = r.String()
		case "shape":
			hasShape = true
			err = r.Array(func(i int) error {
				if i == maxRank {
					return fmt.Errorf("more than %d dimensions", maxRank)
				}
				d, err := r.Uint()
				if err == nil && d > math.MaxInt {
					err = fmt.Errorf("dimension %d is out of range", d)
				}
				t.Shape = append(t.Shape, int(d))
				return err
			})
		case "data_offsets":
			err = r.Array(func(i int) error {
				o, err := r.Uint()
				if i == 2 {
					err = errors.New("more than two data_offsets")
				}
				offsets = append(offsets, o)
				return err
			})
		default:
			err = fmt.Errorf("unknown field %q", field)
		}
		return err
	})
	switch {
	case err != nil:
		return t, err
	case t.DType == "":
		return t, errors.New("no dtype")
	case !hasShape:
		return t, errors.New("no shape")
	case len(offsets) != 2:
		return t, errors.New("data_offsets are not two numbers")
	}
	t.begin, t.end = offsets[0], offsets[1]
	return t, t.checkSize()
}

// checkSize compares the bytes a tensor claims with those its shape needs, in arithmetic that cannot wrap around.
func (t Tensor) checkSize() error {
	d, known := dtypes[t.DType]
	if !known {
		return fmt.Errorf("unknown dtype %q", t.DType)
	}
	if t.begin > t.end {
		return fmt.Errorf("data_offsets [%d, %d] run backwards", t.begin, t.end)
	}
	n := uint64(1)
	var over uint64
	for _, dim := range t.Shape {
		if over, n = bits.Mul64(n, uint64(dim)); over != 0 || n > math.MaxInt {
			return fmt.Errorf("shape %v has more elements than can be counted", t.Shape)
		}
	}
	over, size := bits.Mul64(n, d.bits)
	if over != 0 {
		return fmt.Errorf("shape %v of %s has more bytes than can be counted", t.Shape, t.DType)
	}
	if size%8 != 0 {
		return fmt.Errorf("shape %v of %s does not fill whole bytes", t.Shape, t.DType)
	}
	if size/8 != t.end-t.begin {
		return fmt.Errorf("shape %v of %s takes %d bytes, data_offsets [%d, %d] give %d",
			t.Shape, t.DType, size/8, t.begin, t.end, t.end-t.begin)
	}
	return nil
}

// checkLayout sorts the tensors by place and checks that they fill the data exactly. Empty tensors at the same place are
// ordered by name.
func (f *File) checkLayout(size uint64) error {
	slices.SortFunc(f.tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), strings.Compare(a.Name, b.Name))
	})
	at := uint64(0)
	for _, t := range f.tensors {
		switch {
		case t.end > size:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] end after the data, which has %d bytes; is the file cut short?", t.Name, t.begin, t.end, size)
		case t.begin > at:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] leave a hole of %d bytes before it", t.Name, t.begin, t.end, t.begin-at)
		case t.begin < at:
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] overlap the tensor before it, which ends at %d", t.Name, t.begin, t.end, at)
		}
		at = t.end
	}
	if at != size {
		return fmt.Errorf("%d bytes follow the last tensor", size-at)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error { return f.close() }

// Tensors lists the tensors in the order of their data.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Metadata returns the file's __metadata__.
func (f *File) Metadata() map[string]string { return f.metadata }

// Tensor finds a tensor by name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Read reads a tensor of F64, F32, F16 or BF16 as float32; F64 is rounded to nearest. len(dst) must be its size.
func (f *File) Read(name string, dst []float32) error {
	t, err := f.find(name, len(dst))
	if err != nil {
		return err
	}
	return f.readFloats(t, 0, dst)
}

// ReadInts reads a tensor of I64, I32, I16, I8, U32, U16, U8 or BOOL. len(dst) must be its size.
func (f *File) ReadInts(name string, dst []int64) error {
	t, err := f.find(name, len(dst))
	if err != nil {
		return err
	}
	convert := dtypes[t.DType].toInt
	if convert == nil {
		return f.errorf(t, "%s cannot be read as integers", t.DType)
	}
	return readAs(f, t, 0, dst, convert)
}

func (f *File) find(name string, size int) (Tensor, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return t, fmt.Errorf("%s: no tensor %q", f.path, name)
	}
	if t.Size() != size {
		return t, f.errorf(t, "shape %v has %d elements, the destination %d", t.Shape, t.Size(), size)
	}
	return t, nil
}

func (f *File) errorf(t Tensor, format string, args ...any) error {
	return fmt.Errorf("%s: tensor %q: "+format, append([]any{f.path, t.Name}, args...)...)
}

// readFloats reads len(dst) elements of a tensor from element first on.
func (f *File) readFloats(t Tensor, first int, dst []float32) error {
	convert := dtypes[t.DType].toFloat
	if convert == nil {
		return f.errorf(t, "%s cannot be read as float32; F64, F32, F16 and BF16 can", t.DType)
	}
	if t.DType == "F32" && littleEndian {
		convert = nil
	}
	return inPieces(len(dst), pieceFloats, func(from, to int) error { return readAs(f, t, first+from, dst[from:to], convert) })
}

// pieceFloats is what one processor reads at least where several share a tensor.
const pieceFloats = 1 << 20

// littleEndian says whether numbers lie in memory as in a file.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// readAs reads elements and converts them; with a nil convert they are in the file as in memory.
func readAs[E float32 | int64](f *File, t Tensor, first int, dst []E, convert func([]E, []byte)) error {
	width := int(dtypes[t.DType].bits / 8)
	if convert == nil {
		if len(dst) == 0 {
			return nil
		}
		whole := unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), len(dst)*width)
		if _, err := f.data.ReadAt(whole, f.start+int64(t.begin)+int64(first)*int64(width)); err != nil {
			return f.errorf(t, "%w", shorter(err))
		}
		return nil
	}
	buf := make([]byte, min(readChunk, len(dst)*width))
	at := f.start + int64(t.begin) + int64(first)*int64(width)
	for len(dst) > 0 {
		n := min(len(dst), len(buf)/width)
		if _, err := f.data.ReadAt(buf[:n*width], at); err != nil {
			return f.errorf(t, "%w", shorter(err))
		}
		convert(dst[:n], buf)
		dst, at = dst[n:], at+int64(n*width)
	}
	return nil
}

// shorter explains the end of a file where there was more when it was opened.
func shorter(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file has become shorter since it was opened")
	}
	return pathless(err)
}
