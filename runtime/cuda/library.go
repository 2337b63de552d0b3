package cuda

import (
	"fmt"
	"unsafe"
)

// library is a shared library of C functions, opened at run time.
type library struct {
	name   string // as it was opened, for errors
	handle uintptr
}

// cfunc is one function of a library: its name, for errors, and its address.
type cfunc struct {
	name    string
	address uintptr
}

// symbol says where the address of a function goes and under which names the library may have it, the first one found
// counting. A function with optional set may be missing: its address is 0 then.
type symbol struct {
	to       *cfunc
	optional bool
	names    []string
}

func openLibrary(name string) (*library, error) {
	handle, err := dlopen(name)
	if err != nil {
		return nil, err
	}
	return &library{name, handle}, nil
}

// resolve finds the functions of a table. The error names the first one missing.
func (l *library) resolve(table []symbol) error {
	for _, s := range table {
		s.to.name = s.names[0]
		for _, name := range s.names {
			if address, err := dlsym(l.handle, name); err == nil {
				*s.to = cfunc{name, address}
				break
			}
		}
		if s.to.address == 0 && !s.optional {
			return fmt.Errorf("%s has no function %s", l.name, s.names[0])
		}
	}
	return nil
}

// call calls a C function whose arguments are integers and pointers, and returns its result, of which an int is the low
// half. Addresses of Go variables must be converted in the call itself: so they stay alive and in place meanwhile.
//
//go:uintptrescapes
func (f *cfunc) call(args ...uintptr) uintptr {
	return invoke(f.address, args)
}

// cString returns the text at p, which ends in a zero byte. It is empty where p is nil.
func cString(p *byte) string {
	if p == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

// cBytes returns s with the zero byte that C wants behind it.
func cBytes(s string) []byte { return append([]byte(s), 0) }
