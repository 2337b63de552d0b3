package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Context is a device in use. It is safe for use by several goroutines at once, except Close; what it makes (streams,
// modules, …) is for one goroutine at a time unless its own comment says otherwise.
type Context struct {
	drv     *driver
	device  Device
	handle  int32     // CUdevice
	current []uintptr // the argument of cuCtxSetCurrent; only read
	closed  atomic.Bool

	mu     sync.Mutex
	made   []resource     // in the order in which they were made
	allocs map[Ptr]uint64 // bytes of device memory by address
}

// resource is what a Context made and must give back before it ends.
type resource interface{ release() error }

// Open makes a device ready for use. The device's primary context is used, the one that the libraries of CUDA share.
func Open(device int) (*Context, error) {
	devices, err := Devices()
	if err != nil {
		return nil, err
	}
	if err := checkIndex(device, len(devices)); err != nil {
		return nil, err
	}
	drv, err := openDriver()
	if err != nil {
		return nil, err
	}
	c := &Context{drv: drv, allocs: map[Ptr]uint64{}}
	if c.device, c.handle, err = drv.device(device); err != nil {
		return nil, err
	}
	var handle uintptr
	if err := drv.do(&drv.primaryCtxRetain, uintptr(unsafe.Pointer(&handle)), uintptr(c.handle)); err != nil {
		return nil, fmt.Errorf("%s cannot be opened: %w", c.device, err)
	}
	c.current = []uintptr{handle}
	if err := c.Do(func() error { return nil }); err != nil { // that it can be used at all is better known now
		return nil, errors.Join(fmt.Errorf("%s cannot be used: %w", c.device, err),
			drv.do(&drv.primaryCtxRelease, uintptr(c.handle)))
	}
	return c, nil
}

// Close frees all that was made in the Context and not yet closed, memory as well, and lets go of the device. Work still
// on a stream is waited for. Nothing made in the Context may be used afterwards; a second Close does nothing.
func (c *Context) Close() error {
	if c.closed.Load() {
		return nil
	}
	err := c.Sync()
	c.mu.Lock()
	made := c.made
	c.made = nil
	pointers := make([]Ptr, 0, len(c.allocs))
	for p := range c.allocs {
		pointers = append(pointers, p)
	}
	c.mu.Unlock()
	// Only the first error counts: after a fault of the device every call repeats it.
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	for _, r := range slices.Backward(made) {
		keep(r.release())
	}
	slices.Sort(pointers)
	for _, p := range pointers {
		keep(c.Free(p))
	}
	c.closed.Store(true)
	keep(c.drv.do(&c.drv.primaryCtxRelease, uintptr(c.handle)))
	return err
}

// Device returns the device opened.
func (c *Context) Device() Device { return c.device }

// MemInfo returns the bytes of device memory that are free, and that there are.
func (c *Context) MemInfo() (free, total uint64, err error) {
	err = c.do(&c.drv.memGetInfo, uintptr(unsafe.Pointer(&free)), uintptr(unsafe.Pointer(&total)))
	return free, total, err
}

// CheckFree returns an *OutOfMemoryError where fewer than need bytes of device memory are free. what says what they are
// for, such as "training with batch 64". It is for the start of a run: an answer before the work instead of a failure in it.
func (c *Context) CheckFree(need int, what string) error {
	free, total, err := c.MemInfo()
	if err != nil {
		return err
	}
	if need > 0 && uint64(need) > free {
		return &OutOfMemoryError{Device: c.device, What: what, Asked: uint64(need), Free: free, Total: total}
	}
	return nil
}

// Do calls f with the context current on the thread that f runs on, for other libraries of CUDA.
func (c *Context) Do(f func() error) error {
	if c.closed.Load() {
		return errClosed
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if code := int32(invoke(c.drv.ctxSetCurrent.address, c.current)); code != 0 {
		return c.drv.check(&c.drv.ctxSetCurrent, code)
	}
	return f()
}

var errClosed = errors.New("the CUDA context is closed")

// do calls a function of the driver in the context. As for cfunc.call, addresses of Go variables must be converted in the
// call itself.
//
//go:uintptrescapes
func (c *Context) do(f *cfunc, args ...uintptr) error {
	return c.Do(func() error { return c.drv.check(f, int32(invoke(f.address, args))) })
}

// Sync waits for all work of the Context.
func (c *Context) Sync() error {
	if err := c.do(&c.drv.ctxSynchronize); err != nil {
		return earlier(err)
	}
	return nil
}

// earlier says of a fault that the call which reports it is not the one that caused it.
func earlier(err error) error {
	if Fault(err) {
		return fmt.Errorf("a kernel launched earlier failed: %w", err)
	}
	return err
}

func (c *Context) add(r resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made = append(c.made, r)
}

// remove takes r out of what the Context must give back. It is false where r was given back already.
func (c *Context) remove(r resource) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.made, r)
	if i < 0 {
		return false
	}
	c.made = slices.Delete(c.made, i, i+1)
	return true
}

// discard is Close of everything that a Context makes: it gives r back if that is still to be done.
func (c *Context) discard(r resource) error {
	if !c.remove(r) {
		return nil
	}
	return r.release()
}
