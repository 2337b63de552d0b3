package kernelfile

import (
	"bytes"
	"debug/elf"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func modules() []Module {
	return []Module{
		{"b.cu", []string{"z", "b"}, []byte("the fatbin of b")},
		{"a.cu", []string{"a"}, []byte("12345678")},
		{"empty.cu", []string{"e"}, []byte{}},
	}
}

func TestPack(t *testing.T) {
	file, err := Pack("13.0.88", modules())
	if err != nil {
		t.Fatal(err)
	}
	version, got, err := Unpack(file)
	if err != nil || version != "13.0.88" {
		t.Fatal(version, err)
	}
	in := modules()
	want := []Module{in[1], {"b.cu", []string{"b", "z"}, in[0].Fatbin}, in[2]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}

	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Section(".nv_fatbin")
	if s == nil || s.Offset%alignment != 0 {
		t.Fatalf("section %+v", s)
	}
	if code, err := s.Data(); err != nil || string(code) != "12345678the fatbin of b\x00" {
		t.Errorf("%q %v", code, err)
	}
	if index, err := f.Section(".tfc_kernels").Data(); err != nil || string(index) != `{"format":1,"nvcc":"13.0.88","modules":[`+
		`{"file":"a.cu","offset":0,"size":8,"crc32c":1619493018,"entries":["a"]},`+
		`{"file":"b.cu","offset":8,"size":15,"crc32c":1343156235,"entries":["b","z"]},`+
		`{"file":"empty.cu","offset":24,"size":0,"crc32c":0,"entries":["e"]}]}` {
		t.Errorf("%s %v", index, err)
	}
}

func TestUnpackErrors(t *testing.T) {
	file, err := Pack("13.0.88", modules())
	if err != nil {
		t.Fatal(err)
	}
	changed := func(old, new string) []byte { return bytes.Replace(file, []byte(old), []byte(new), 1) }
	for name, test := range map[string]struct {
		file []byte
		says string
	}{
		"empty":       {nil, "no file of kernels"},
		"another":     {[]byte("#!/bin/sh and some more of it"), "no file of kernels"},
		"damaged":     {changed("1234", "1235"), "checksum of a.cu differs"},
		"no section":  {changed(".tfc_kernels", ".tfc_kernelz"), "has no section .tfc_kernels"},
		"format":      {changed(`"format":1`, `"format":2`), "format 2, and this tfc reads 1"},
		"index":       {changed(`{"format"`, `["format"`), "the index of the file of kernels"},
		"outside":     {changed(`"offset":0`, `"offset":9`), "checksum of a.cu"},
		"far outside": {changed(`"offset":24`, `"offset":99`), "empty.cu lies outside"},
		"negative":    {changed(`"offset":24`, `"offset":-4`), "empty.cu lies outside"},
	} {
		if _, _, err := Unpack(test.file); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range file { // it may be cut anywhere
		if _, _, err := Unpack(file[:n]); err == nil {
			t.Errorf("the first %d bytes of %d are taken for a file", n, len(file))
		}
	}
}

func FuzzUnpack(f *testing.F) {
	file, err := Pack("13.0.88", modules())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(file[:100])
	f.Fuzz(func(t *testing.T, file []byte) {
		if _, modules, err := Unpack(file); err == nil {
			for _, m := range modules {
				_ = len(m.Fatbin)
			}
		}
	})
}
