package cuda

import (
	"errors"
	"fmt"
	"unsafe"
)

// Ptr is an address in device memory. Adding bytes to it gives addresses inside an allocation.
type Ptr uint64

// At returns the address so many bytes on.
func (p Ptr) At(bytes int) Ptr { return p + Ptr(bytes) }

// Alloc returns new device memory, at a multiple of 256 bytes, with garbage in it. No bytes are at address 0.
// Where there is not enough, the error is an *OutOfMemoryError.
func (c *Context) Alloc(bytes int) (Ptr, error) {
	if bytes < 0 {
		return 0, fmt.Errorf("allocation of %d bytes", bytes)
	}
	if bytes == 0 {
		return 0, nil
	}
	var p Ptr
	if err := c.do(&c.drv.memAlloc, uintptr(unsafe.Pointer(&p)), uintptr(bytes)); err != nil {
		if !isCode(err, codeOutOfMemory) {
			return 0, fmt.Errorf("allocation of %s on %s: %w", size(uint64(bytes)), c.device, earlier(err))
		}
		free, total, infoErr := c.MemInfo()
		if infoErr != nil {
			total = c.device.Memory
		}
		return 0, &OutOfMemoryError{Device: c.device, Asked: uint64(bytes), Free: free, Total: total}
	}
	c.mu.Lock()
	c.allocs[p] = uint64(bytes)
	c.mu.Unlock()
	return p, nil
}

// Free gives memory back. It waits for work that uses it. Freeing address 0 does nothing.
func (c *Context) Free(p Ptr) error {
	if p == 0 {
		return nil
	}
	c.mu.Lock()
	_, ok := c.allocs[p]
	delete(c.allocs, p)
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("device memory at %#x is not allocated, or freed already", uint64(p))
	}
	if err := c.do(&c.drv.memFree, uintptr(p)); err != nil {
		return earlier(err)
	}
	return nil
}

// Upload copies src to device memory: it waits for all work of the Context first, and returns when the copy is done. It is
// for weights and saves; streams have CopyIn.
func (c *Context) Upload(dst Ptr, src []byte) error {
	if len(src) == 0 {
		return nil
	}
	if err := c.Sync(); err != nil {
		return err
	}
	if err := c.do(&c.drv.memcpyHtoD, uintptr(dst), uintptr(unsafe.Pointer(unsafe.SliceData(src))), uintptr(len(src))); err != nil {
		return fmt.Errorf("copy of %s to %#x on %s: %w", size(uint64(len(src))), uint64(dst), c.device, earlier(err))
	}
	// From pageable memory the call returns while the last bytes are still on their way, and streams do not wait for them.
	return c.Sync()
}

// Download copies device memory to dst: it waits for all work of the Context first, and returns when the copy is done.
func (c *Context) Download(dst []byte, src Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	if err := c.Sync(); err != nil {
		return err
	}
	if err := c.do(&c.drv.memcpyDtoH, uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(src), uintptr(len(dst))); err != nil {
		return fmt.Errorf("copy of %s from %#x on %s: %w", size(uint64(len(dst))), uint64(src), c.device, earlier(err))
	}
	return nil
}

// Bytes returns the memory of s as bytes, for Upload and Download.
func Bytes[T ~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int64 | ~uint64 | ~float32 | ~float64](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(s[0])))
}

// Pinned is page-locked host memory, which streams copy from and to while Go goes on. It is not of Go's heap and does not
// move; its slices must not be used after Free.
type Pinned struct {
	ctx  *Context
	data []byte
}

// hostAllocPortable makes host memory page-locked for all contexts (CU_MEMHOSTALLOC_PORTABLE).
const hostAllocPortable = 1

// Pinned returns new page-locked host memory with garbage in it.
func (c *Context) Pinned(bytes int) (*Pinned, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("allocation of %d bytes of page-locked memory", bytes)
	}
	p := &Pinned{ctx: c}
	if bytes == 0 {
		return p, nil
	}
	var memory unsafe.Pointer
	if err := c.do(&c.drv.memHostAlloc, uintptr(unsafe.Pointer(&memory)), uintptr(bytes), hostAllocPortable); err != nil {
		return nil, fmt.Errorf("allocation of %s of page-locked host memory: %w", size(uint64(bytes)), earlier(err))
	}
	p.data = unsafe.Slice((*byte)(memory), bytes)
	c.add(p)
	return p, nil
}

// Bytes returns the memory.
func (p *Pinned) Bytes() []byte { return p.data }

// Float32s returns the memory as float32 values. Bytes at the end that are no whole value are left out.
func (p *Pinned) Float32s() []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p.data))), len(p.data)/4)
}

// Int32s returns the memory as int32 values. Bytes at the end that are no whole value are left out.
func (p *Pinned) Int32s() []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(p.data))), len(p.data)/4)
}

// Free gives the memory back. Copies that use it must be done. A second Free does nothing.
func (p *Pinned) Free() error { return p.ctx.discard(p) }

func (p *Pinned) release() error {
	memory := unsafe.SliceData(p.data)
	p.data = nil
	return p.ctx.do(&p.ctx.drv.memFreeHost, uintptr(unsafe.Pointer(memory)))
}

// span returns the address of n bytes at an offset.
func (p *Pinned) span(offset, n int) (uintptr, error) {
	if p == nil {
		return 0, errors.New("no page-locked memory")
	}
	if offset < 0 || n < 0 || n > len(p.data) || offset > len(p.data)-n {
		return 0, fmt.Errorf("bytes %d to %d of page-locked memory of %d bytes", offset, offset+n, len(p.data))
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(p.data))) + uintptr(offset), nil
}
