package cpu

import (
	"syscall"
	"unsafe"
)

const (
	hugePage     = 1 << 21 // bytes of a huge page, on most machines
	pageBytes    = 1 << 16 // a multiple of any page
	madvHugePage = 14      // MADV_HUGEPAGE of the kernel's interface
)

// adviseHuge asks for huge pages under all whole pages of x. It is a wish: what the kernel answers does not matter.
func adviseHuge(x []float32) {
	if 4*len(x) < 2*hugePage {
		return
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x))
	from := -int(uintptr(unsafe.Pointer(&bytes[0]))) & (pageBytes - 1)
	bytes = bytes[from : from+(len(bytes)-from)&^(pageBytes-1)]
	_ = syscall.Madvise(bytes, madvHugePage)
}
