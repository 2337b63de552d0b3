package weights

import (
	"bytes"
	"fmt"
)

// otherKinds are the files that people hand over in place of safetensors, known by how they begin.
var otherKinds = []struct{ magic, what string }{
	{"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the weights it points to: fetch them with git lfs pull"},
	{"PK\x03\x04", "a zip archive, most likely a PyTorch checkpoint (pickle), which can run code when read: convert it to safetensors first"},
	{"\x80\x02", "a Python pickle, which can run code when read: convert it to safetensors first"},
	{"\x80\x03", "a Python pickle, which can run code when read: convert it to safetensors first"},
	{"\x80\x04", "a Python pickle, which can run code when read: convert it to safetensors first"},
	{"\x80\x05", "a Python pickle, which can run code when read: convert it to safetensors first"},
	{"GGUF", "a GGUF file: give the model's safetensors folder instead"},
	{"ggml", "a GGML file: give the model's safetensors folder instead"},
	{"\x89HDF\r\n\x1a\n", "an HDF5 file: convert it to safetensors first"},
	{"\x93NUMPY", "a NumPy array: convert it to safetensors first"},
	{"\x1f\x8b", "a gzip archive: unpack it first"},
	{"<!DOCTYPE", "a web page, most likely an error page saved by a download"},
	{"<html", "a web page, most likely an error page saved by a download"},
	{"{", "JSON text without the 8 bytes of length that begin safetensors"},
}

// otherKind says what a file that is not safetensors seems to be, in a phrase to follow "it is", or "".
func otherKind(start []byte) string {
	for _, k := range otherKinds {
		if bytes.HasPrefix(start, []byte(k.magic)) {
			return k.what
		}
	}
	return ""
}

// notSafetensors is the error for a file that is not framed as safetensors.
func notSafetensors(start []byte, format string, args ...any) error {
	err := fmt.Errorf("not a safetensors file: "+format, args...)
	if kind := otherKind(start); kind != "" {
		err = fmt.Errorf("%w; it is %s", err, kind)
	}
	return err
}
