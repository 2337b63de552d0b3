package weights

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// file builds the bytes of a safetensors file from its header's text.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func tensor(name, dtype, shape string, begin, end uint64) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func put(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// badFiles are the attacks and accidents that have broken readers of weights, each with words of its error.
var badFiles = []struct {
	name string
	data []byte
	want string
}{
	{"empty", nil, "0 bytes are too few"},
	{"seven bytes", make([]byte, 7), "7 bytes are too few"},
	{"header longer than the file", append(binary.LittleEndian.AppendUint64(nil, 1000), "{}"...), "given as 1000 bytes, after which the file has only 2"},
	{"header over 100 MB", append(binary.LittleEndian.AppendUint64(nil, 100_000_001), "{}"...), "at most 100000000 are allowed"},
	{"header of 2^63", append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), "at most 100000000"},
	{"header of 2^64-1", append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "{}"...), "at most 100000000"},
	{"header of 2^64-8", append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64-7), "{}"...), "at most 100000000"},
	{"header of no bytes", file("", 8), "does not begin with {"},
	{"header not an object", file("[]", 0), "does not begin with {"},
	{"header begins with a space", file(" {}", 0), "does not begin with {"},
	{"header ends in a newline", file("{}\n", 0), "other than spaces follows"},
	{"header ends in NUL", file("{}\x00", 0), "other than spaces follows"},
	{"two objects", file("{}{}", 0), "more text after the end"},
	{"newline between braces and padding", file("{}\n{}", 0), "more text after the end"},
	{"bad UTF-8", file("{\"\xff\":1}", 0), "not valid UTF-8"},
	{"half a surrogate", file(`{"\ud800":{}}`, 0), "surrogate"},
	{"unfinished", file(`{"__metadata__":{}`, 0), "the text ends"},
	{"data without tensors", file("{}", 1), "1 bytes follow the last tensor"},
	{"bytes after the last tensor", file("{"+tensor("a", "F32", "[1]", 0, 4)+"}", 5), "1 bytes follow the last tensor"},
	{"duplicate tensor", file("{"+tensor("a", "U8", "[4]", 0, 4)+","+tensor("a", "F32", "[1]", 0, 4)+"}", 4), `"a" is given twice`},
	{"duplicate tensor by an escape", file("{"+tensor("a", "U8", "[4]", 0, 4)+`,"\u0061":{}}`, 4), `"a" is given twice`},
	{"duplicate dtype", file(`{"a":{"dtype":"U8","dtype":"F32","shape":[4],"data_offsets":[0,4]}}`, 4), `"dtype" is given twice`},
	{"duplicate metadata", file(`{"__metadata__":{"a":"","a":""}}`, 0), `"a" is given twice`},
	{"metadata of numbers", file(`{"__metadata__":{"a":1}}`, 0), "is expected to open a string"},
	{"dtype in capitals", file(`{"a":{"DType":"U8","shape":[4],"data_offsets":[0,4]}}`, 4), `unknown field "DType"`},
	{"unknown dtype", file("{"+tensor("a", "F128", "[1]", 0, 16)+"}", 16), `tensor "a": unknown dtype "F128"`},
	{"no dtype", file(`{"a":{"shape":[4],"data_offsets":[0,4]}}`, 4), "no dtype"},
	{"no shape", file(`{"a":{"dtype":"U8","data_offsets":[0,4]}}`, 4), "no shape"},
	{"no offsets", file(`{"a":{"dtype":"U8","shape":[4]}}`, 4), "not two numbers"},
	{"one offset", file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[4]}}`, 4), "not two numbers"},
	{"three offsets", file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,8]}}`, 4), "more than two data_offsets"},
	{"a number for a tensor", file(`{"a":1}`, 0), `tensor "a"`},
	{"null for a tensor", file(`{"a":null}`, 0), `tensor "a"`},
	{"rank 9", file("{"+tensor("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1)+"}", 1), "more than 8 dimensions"},
	{"negative dimension", file("{"+tensor("a", "U8", "[-1]", 0, 1)+"}", 1), "-1 is not a whole number"},
	{"fractional dimension", file("{"+tensor("a", "U8", "[1.0]", 0, 1)+"}", 1), "1.0 is not a whole number"},
	{"dimension of 2^63", file("{"+tensor("a", "U8", "[9223372036854775808]", 0, 1)+"}", 1), "out of range"},
	{"dimension of 2^64", file("{"+tensor("a", "U8", "[18446744073709551616]", 0, 1)+"}", 1), "not a whole number"},
	{"product wraps to 4", file("{"+tensor("a", "U8", "[4194305,4194305,211106198978564]", 0, 4)+"}", 4), "more elements than can be counted"},
	{"product wraps to 0", file("{"+tensor("a", "F32", "[4294967296,4294967296]", 0, 0)+"}", 0), "more elements than can be counted"},
	{"bytes wrap to 0", file("{"+tensor("a", "F32", "[4611686018427387904]", 0, 0)+"}", 0), "more bytes than can be counted"},
	{"product wraps before a zero", file("{"+tensor("a", "F32", "[4294967296,4294967296,0]", 0, 0)+"}", 0), "more elements than can be counted"},
	{"size is not shape by dtype", file("{"+tensor("a", "F32", "[2,3]", 0, 20)+"}", 20), "takes 24 bytes, data_offsets [0, 20] give 20"},
	{"half a byte", file("{"+tensor("a", "F4", "[3]", 0, 1)+"}", 1), "does not fill whole bytes"},
	{"offsets backwards", file("{"+tensor("a", "U8", "[4]", 4, 0)+"}", 4), "run backwards"},
	{"offsets after the end", file("{"+tensor("a", "F32", "[2]", 0, 8)+"}", 4), "end after the data, which has 4 bytes"},
	{"offsets near 2^64", file("{"+tensor("a", "U8", "[4]", math.MaxUint64-4, math.MaxUint64)+"}", 4), "end after the data"},
	{"negative offset", file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}`, 4), "-4 is not a whole number"},
	{"hole at the start", file("{"+tensor("a", "U8", "[4]", 4, 8)+"}", 8), "leave a hole of 4 bytes"},
	{"hole in the middle", file("{"+tensor("a", "U8", "[4]", 0, 4)+","+tensor("b", "U8", "[2]", 6, 8)+"}", 8), `tensor "b": data_offsets [6, 8] leave a hole of 2 bytes`},
	{"overlap", file("{"+tensor("a", "U8", "[4]", 0, 4)+","+tensor("b", "U8", "[4]", 2, 6)+"}", 6), `tensor "b": data_offsets [2, 6] overlap`},
	{"same bytes twice", file("{"+tensor("a", "U8", "[4]", 0, 4)+","+tensor("b", "F32", "[1]", 0, 4)+"}", 4), "overlap"},
	{"deep nesting", file(`{"__metadata__":{"a":`+strings.Repeat("[", 100_000)+"}}", 0), "is expected to open a string"},

	{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"), "a Git LFS pointer"},
	{"zip", append([]byte("PK\x03\x04\x00\x00\x08\x08"), make([]byte, 100)...), "a zip archive, most likely a PyTorch checkpoint"},
	{"pickle", []byte("\x80\x02}q\x00(X\x05\x00\x00\x00model"), "a Python pickle"},
	{"old PyTorch", []byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "a Python pickle"},
	{"GGUF", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "a GGUF file"},
	{"HDF5", []byte("\x89HDF\r\n\x1a\n\x00\x00"), "an HDF5 file"},
	{"error page", []byte("<!DOCTYPE html><html>404"), "a web page"},
	{"JSON", []byte(`{"weight_map": {}}`), "JSON text"},
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range badFiles {
		t.Run(c.name, func(t *testing.T) {
			path := put(t, "bad.safetensors", c.data)
			f, err := Open(path)
			if err == nil {
				f.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path+": ") {
				t.Errorf("error %q does not begin with the file and say %q", err, c.want)
			}
		})
	}
}

// A header's length or a shape that asks for gigabytes is refused before memory is taken for it.
func TestOpenRefusesWithoutMemory(t *testing.T) {
	for _, c := range badFiles {
		path := put(t, "bad.safetensors", c.data)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		Open(path)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%s: %d bytes allocated for a file of %d", c.name, grown, len(c.data))
		}
	}
}

func TestOpenAcceptsTheCorners(t *testing.T) {
	cases := map[string][]byte{
		"no tensors":          file("{}", 0),
		"padding":             file("{}      ", 0),
		"rank 0":              file("{"+tensor("a", "F32", "[]", 0, 4)+"}", 4),
		"rank 8":              file("{"+tensor("a", "U8", "[1,1,1,1,1,1,1,2]", 0, 2)+"}", 2),
		"empty tensors":       file("{"+tensor("b", "F32", "[0,7]", 0, 0)+","+tensor("a", "F32", "[0]", 0, 0)+","+tensor("c", "U8", "[1]", 0, 1)+"}", 1),
		"any order of names":  file("{"+tensor("b", "U8", "[1]", 0, 1)+","+tensor("a", "U8", "[1]", 1, 2)+"}", 2),
		"case counts":         file("{"+tensor("A", "U8", "[1]", 0, 1)+","+tensor("a", "U8", "[1]", 1, 2)+"}", 2),
		"six bits an element": file("{"+tensor("a", "F6_E2M3", "[4]", 0, 3)+"}", 3),
	}
	for name, data := range cases {
		f, err := Open(put(t, "good.safetensors", data))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
	f, err := Open(put(t, "good.safetensors", cases["empty tensors"]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names string
	for _, t := range f.Tensors() {
		names += t.Name
	}
	if names != "abc" {
		t.Errorf("empty tensors in the order %s, want abc", names)
	}
}

func TestEveryDTypeOpens(t *testing.T) {
	for name, d := range dtypes {
		size := d.bits // of 8 elements, in bytes
		f, err := Open(put(t, "one.safetensors", file("{"+tensor("a", name, "[8]", 0, size)+"}", int(size))))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err, errInts := f.Read("a", make([]float32, 8)), f.ReadInts("a", make([]int64, 8))
		if (err == nil) != (d.toFloat != nil) || (errInts == nil) != (d.toInt != nil) {
			t.Errorf("%s: Read gives %v, ReadInts %v", name, err, errInts)
		}
		for _, err := range []error{err, errInts} {
			if err != nil && (!strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), `"a"`)) {
				t.Errorf("%s: error %q names neither the tensor nor the type", name, err)
			}
		}
		f.Close()
	}
}

func TestReadConverts(t *testing.T) {
	inf := float32(math.Inf(1))
	le := binary.LittleEndian
	cases := []struct {
		dtype string
		data  []byte
		want  []float32
	}{
		{"F32", le.AppendUint32(le.AppendUint32(nil, 0x3f800000), 0x80000000), []float32{1, float32(math.Copysign(0, -1))}},
		{"F64", le.AppendUint64(le.AppendUint64(nil, math.Float64bits(0.1)), math.Float64bits(1e300)), []float32{0.1, inf}},
		{"BF16", []byte{0x80, 0x3f, 0x49, 0xc0, 0x80, 0x7f}, []float32{1, -3.140625, inf}},
		{"F16", []byte{0x00, 0x3c, 0x01, 0x00, 0xff, 0x03, 0x00, 0x04, 0xff, 0x7b, 0x00, 0xfc, 0x00, 0x80},
			[]float32{1, 0x1p-24, 1023 * 0x1p-24, 0x1p-14, 65504, -inf, float32(math.Copysign(0, -1))}},
	}
	for _, c := range cases {
		data := append(file("{"+tensor("a", c.dtype, fmt.Sprintf("[%d]", len(c.want)), 0, uint64(len(c.data)))+"}", 0), c.data...)
		f, err := Open(put(t, "one.safetensors", data))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(c.want))
		if err := f.Read("a", got); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(c.want[i]) {
				t.Errorf("%s: element %d is %v, want %v", c.dtype, i, got[i], c.want[i])
			}
		}
		f.Close()
	}
	if v := fromF16(0x7e01); v == v || math.Float32bits(v) != 0x7fc02000 {
		t.Errorf("a half NaN with payload became %x", math.Float32bits(v))
	}
}

func TestReadInts(t *testing.T) {
	cases := []struct {
		dtype string
		data  []byte
		want  []int64
	}{
		{"I64", []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []int64{-2}},
		{"I32", []byte{0xfe, 0xff, 0xff, 0xff}, []int64{-2}},
		{"U32", []byte{0xfe, 0xff, 0xff, 0xff}, []int64{1<<32 - 2}},
		{"I16", []byte{0xfe, 0xff, 1, 2}, []int64{-2, 513}},
		{"U16", []byte{0xfe, 0xff}, []int64{65534}},
		{"I8", []byte{0xfe, 1}, []int64{-2, 1}},
		{"U8", []byte{0xfe}, []int64{254}},
		{"BOOL", []byte{0, 1}, []int64{0, 1}},
	}
	for _, c := range cases {
		data := append(file("{"+tensor("a", c.dtype, fmt.Sprintf("[%d]", len(c.want)), 0, uint64(len(c.data)))+"}", 0), c.data...)
		f, err := Open(put(t, "one.safetensors", data))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]int64, len(c.want))
		if err := f.ReadInts("a", got); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", c.dtype, got, err, c.want)
		}
		f.Close()
	}
}

func TestReadErrors(t *testing.T) {
	path := put(t, "one.safetensors", file("{"+tensor("a", "F32", "[2,2]", 0, 16)+"}", 16))
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	check(f.Read("b", nil), `no tensor "b"`)
	check(f.Read("a", make([]float32, 3)), "has 4 elements, the destination 3")
	if err := os.Truncate(path, 100); err != nil { // cut while open: an error, not a signal
		t.Fatal(err)
	}
	if err := os.Truncate(path, 60); err != nil {
		t.Fatal(err)
	}
	check(f.Read("a", make([]float32, 4)), "has become shorter")
}

func TestOpenNothing(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "absent")} {
		if _, err := Open(path); err == nil || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What opens has sizes that add up, and survives a rewrite.
func FuzzOpen(f *testing.F) {
	for _, c := range badFiles {
		if len(c.data) < 1000 {
			f.Add(c.data)
		}
	}
	f.Add(append(file("{"+tensor("a", "BF16", "[2,2]", 0, 8)+","+tensor("b", "I64", "[1]", 8, 16)+"}", 0), "0123456789abcdef"...))
	f.Add(file(`{"__metadata__":{"format":"pt"},`+tensor("é", "F32", "[]", 0, 4)+"}   ", 4))
	open := func(data []byte) (*File, error) {
		f := &File{path: "fuzzed", data: bytes.NewReader(data)}
		return f, f.readHeader(int64(len(data)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := open(data)
		if err != nil {
			return
		}
		total := uint64(0)
		var sources []source
		for _, tensor := range file.Tensors() {
			total += tensor.end - tensor.begin
			if dtypes[tensor.DType].toFloat == nil {
				continue
			}
			values := make([]float32, tensor.Size())
			if err := file.Read(tensor.Name, values); err != nil {
				t.Fatal(err)
			}
			sources = append(sources, source{tensor.Name, tensor.Shape, func(put func([]float32) error) error { return put(values) }})
		}
		if want := uint64(len(data)) - uint64(file.start); total != want {
			t.Fatalf("tensors of %d bytes in %d bytes of data", total, want)
		}
		head, err := header(sources, file.Metadata())
		if err != nil {
			t.Fatal(err)
		}
		copied := bytes.NewBuffer(head)
		for _, s := range sources {
			if err := s.encode(copied); err != nil {
				t.Fatal(err)
			}
		}
		again, err := open(copied.Bytes())
		if err != nil {
			t.Fatalf("what was written does not open: %v", err)
		}
		if len(again.tensors) != len(sources) {
			t.Fatalf("%d tensors written, %d read", len(sources), len(again.tensors))
		}
	})
}
