//go:build linux && (amd64 || arm64)

package cudatest

import (
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"
)

// connect opens the fake libcuda and returns its function of commands.
func connect(path string) (func(string) string, error) {
	library, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, err
	}
	address, err := purego.Dlsym(library, "tfc_fake")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func(command string) string {
		text := append([]byte(command), 0)
		answer, _, _ := purego.SyscallN(address, uintptr(unsafe.Pointer(&text[0])))
		return goString(*(**byte)(unsafe.Pointer(&answer)))
	}, nil
}

func goString(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
