package cpu

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const largePage = 2 << 20

// largePages returns zeros, from the start of a large page on where they fill one. That the system has none to give, or no
// such pages, is no error.
func largePages(n int) []byte {
	if n < largePage {
		return make([]byte, n)
	}
	n = ceil(n, largePage) * largePage
	all := make([]byte, n+largePage)
	skip := -int(uintptr(unsafe.Pointer(&all[0]))) & (largePage - 1)
	pages := all[skip:][:n]
	_ = unix.Madvise(pages, unix.MADV_HUGEPAGE)
	return pages
}
