//go:build linux && (amd64 || arm64)

package cuda

import "github.com/ebitengine/purego"

// dlopen resolves all symbols at once, so that a broken library is an error here and not the end of the process later,
// and shares them with libraries opened afterwards.
func dlopen(name string) (uintptr, error) {
	return purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_GLOBAL)
}

func dlsym(library uintptr, name string) (uintptr, error) { return purego.Dlsym(library, name) }

// invoke calls a C function. It keeps nothing of args.
func invoke(function uintptr, args []uintptr) uintptr {
	result, _, _ := purego.SyscallN(function, args...)
	return result
}
