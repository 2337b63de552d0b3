package cuda

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// Stream is a queue of work on a device: what is put on it runs in that order, at some time until Sync. Streams run
// beside each other. The first error sticks: from then on no method does anything, and Err and Sync return it. A Stream is
// for one goroutine at a time.
type Stream struct {
	ctx       *Context
	handle    uintptr
	err       error
	capturing bool
	captured  int  // launches since Capture began
	behind    bool // a kernel: it is what was put on the stream last
	scratch   *scratch

	recent [8]*KernelInfo // what was launched last, a ring
	notes  int            // launches noted since the last Sync
}

// maxArgs is the most arguments that a kernel can have here.
const maxArgs = 128

// scratch is memory for the arguments of calls. It is pinned, and so may hold addresses of itself while C reads it.
type scratch struct {
	args        [16]uintptr             // of the C function
	params      [maxArgs]unsafe.Pointer // kernelParams: the addresses of values
	values      [maxArgs]Arg
	algorithm   algorithm
	alpha, beta float32
	rival       rivalArgs
	config      launchConfig
	early       launchAttribute
}

// launchConfig is CUlaunchConfig.
type launchConfig struct {
	grid, block [3]uint32
	shared      uint32
	stream      uintptr
	attributes  uintptr
	count       uint32 // of attributes
}

// launchAttribute is CUlaunchAttribute.
type launchAttribute struct {
	id    uint64 // in its lower half
	value [8]uint64
}

// launchEarly lets a kernel start while the one before it on the stream ends (CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION),
// on devices from overlapMajor on.
const (
	launchEarly  = 6
	overlapMajor = 9
)

// scratches keeps scratch memory that no stream uses. What was pinned once stays so and is used again.
var scratches struct {
	sync.Mutex
	pinner runtime.Pinner
	free   []*scratch
}

func takeScratch() *scratch {
	scratches.Lock()
	defer scratches.Unlock()
	if n := len(scratches.free); n > 0 {
		x := scratches.free[n-1]
		scratches.free = scratches.free[:n-1]
		return x
	}
	x := new(scratch)
	scratches.pinner.Pin(x)
	for i := range x.params {
		x.params[i] = unsafe.Pointer(&x.values[i])
	}
	return x
}

func giveScratch(x *scratch) {
	scratches.Lock()
	defer scratches.Unlock()
	scratches.free = append(scratches.free, x)
}

// streamNonBlocking keeps a stream from waiting for the legacy default stream (CU_STREAM_NON_BLOCKING).
const streamNonBlocking = 1

// NewStream makes a stream.
func (c *Context) NewStream() (*Stream, error) {
	s := &Stream{ctx: c}
	if err := c.do(&c.drv.streamCreate, uintptr(unsafe.Pointer(&s.handle)), streamNonBlocking); err != nil {
		return nil, earlier(err)
	}
	s.scratch = takeScratch()
	c.add(s)
	return s, nil
}

// Close frees the stream once its work is done, without waiting for it. A second Close does nothing.
func (s *Stream) Close() error { return s.ctx.discard(s) }

func (s *Stream) release() error {
	if s.err == nil {
		s.err = errors.New("the stream is closed")
	}
	giveScratch(s.scratch)
	s.scratch = nil
	return s.ctx.do(&s.ctx.drv.streamDestroy, s.handle)
}

// Handle returns the stream as other libraries of CUDA know it (CUstream, cudaStream_t).
func (s *Stream) Handle() uintptr { return s.handle }

// Err returns the first error of the stream, nil while there is none. Faults of work that still runs show at Sync.
func (s *Stream) Err() error { return s.err }

// Fail records an error of the stream's user, as if a call on the stream had failed: later calls do nothing.
func (s *Stream) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Sync waits until all work of the stream is done and returns the stream's error.
func (s *Stream) Sync() error {
	if s.err != nil {
		return s.err
	}
	if s.capturing {
		s.err = errors.New("Sync inside Capture")
		return s.err
	}
	s.scratch.args[0] = s.handle
	if err := s.call(&s.ctx.drv.streamSynchronize, 1); err != nil {
		s.err = s.blame(err, "Sync")
		return s.err
	}
	s.notes = 0
	return nil
}

// Arg is an argument of a kernel: an address, or a number in the low bytes. Arg(p) makes one of a Ptr, Arg(n) of an
// integer, Float(x) of a float.
type Arg = Ptr

// Float returns the argument for a float parameter.
func Float(x float32) Arg { return Arg(math.Float32bits(x)) }

// Launch puts a kernel on the stream, over x·y·z blocks. args are its parameters in order. It allocates nothing.
func (s *Stream) Launch(k Kernel, x, y, z int, args ...Arg) {
	if s.err != nil {
		return
	}
	if err := s.checkLaunch(k, x, y, z, len(args)); err != nil {
		s.err = err
		return
	}
	copy(s.scratch.values[:], args)
	s.launch(k, x, y, z, uintptr(unsafe.Pointer(&s.scratch.params)))
}

// launch puts a launch that was checked on the stream, with parameters in the scratch memory. Behind a kernel, one that waits by itself
// may start early; behind a copy or a product of cuBLASLt it may not, nor may these behind a kernel: they wait for all of it. In
// a capture the same becomes edges of the graph.
func (s *Stream) launch(k Kernel, x, y, z int, params uintptr) {
	s.note(k.info)
	s.captured++
	q := s.scratch
	f, n := &s.ctx.drv.launchKernel, 11
	if s.behind && k.info.Waits && s.ctx.device.Major >= overlapMajor {
		f, n = &s.ctx.drv.launchKernelEx, 4
		q.early.id, q.early.value[0] = launchEarly, 1
		q.config = launchConfig{
			grid: [3]uint32{uint32(x), uint32(y), uint32(z)}, block: [3]uint32{uint32(k.info.Threads), 1, 1}, shared: uint32(k.info.Shared),
			stream: s.handle, attributes: uintptr(unsafe.Pointer(&q.early)), count: 1,
		}
		q.args[0], q.args[1], q.args[2], q.args[3] = uintptr(unsafe.Pointer(&q.config)), k.handle, params, 0
	} else {
		q.args = [16]uintptr{
			k.handle,
			uintptr(x), uintptr(y), uintptr(z),
			uintptr(k.info.Threads), 1, 1,
			uintptr(k.info.Shared),
			s.handle,
			params,
			0,
		}
	}
	if err := s.call(f, n); err != nil {
		s.err = s.blame(err, describeLaunch(k.info, x, y, z))
	}
	s.behind = true
}

func (s *Stream) checkLaunch(k Kernel, x, y, z, args int) error {
	switch {
	case k.info == nil:
		return errors.New("launch of a kernel that was not found by Module.Kernel")
	case k.module.closed || k.module.ctx != s.ctx:
		return fmt.Errorf("launch of kernel %s, whose module is closed or of another context", k.info)
	case x < 1 || y < 1 || z < 1 || x > math.MaxInt32 || y > math.MaxUint16 || z > math.MaxUint16:
		return fmt.Errorf("%s: a grid has 1 to 2147483647, 65535 and 65535 blocks", describeLaunch(k.info, x, y, z))
	case args > maxArgs:
		return fmt.Errorf("%s: %d arguments, at most %d can be", describeLaunch(k.info, x, y, z), args, maxArgs)
	case k.params >= 0 && args != k.params:
		return fmt.Errorf("%s: %d arguments, the kernel has %d parameters; Go and CUDA code are not of one build, run `tfc build`",
			describeLaunch(k.info, x, y, z), args, k.params)
	}
	return nil
}

func describeLaunch(k *KernelInfo, x, y, z int) string {
	return fmt.Sprintf("launch of %s, grid %d×%d×%d, block %d, shared memory %d", k, x, y, z, k.Threads, k.Shared)
}

// Copy copies between two places of device memory, which must not overlap.
func (s *Stream) Copy(dst, src Ptr, bytes int) {
	if s.skip("Copy", bytes) {
		return
	}
	s.copy(&s.ctx.drv.memcpyDtoDAsync, uintptr(dst), uintptr(src), bytes)
}

// CopyIn copies bytes at an offset of page-locked memory to the device. The memory must not change until it is done.
func (s *Stream) CopyIn(dst Ptr, src *Pinned, offset, bytes int) {
	if s.skip("CopyIn", bytes) {
		return
	}
	from, err := src.span(offset, bytes)
	if err != nil {
		s.err = fmt.Errorf("CopyIn: %w", err)
		return
	}
	s.copy(&s.ctx.drv.memcpyHtoDAsync, uintptr(dst), from, bytes)
}

// CopyOut copies from the device to page-locked memory at an offset. The bytes are there after Sync.
func (s *Stream) CopyOut(dst *Pinned, offset int, src Ptr, bytes int) {
	if s.skip("CopyOut", bytes) {
		return
	}
	to, err := dst.span(offset, bytes)
	if err != nil {
		s.err = fmt.Errorf("CopyOut: %w", err)
		return
	}
	s.copy(&s.ctx.drv.memcpyDtoHAsync, to, uintptr(src), bytes)
}

func (s *Stream) copy(f *cfunc, dst, src uintptr, bytes int) {
	a := &s.scratch.args
	a[0], a[1], a[2], a[3] = dst, src, uintptr(bytes), s.handle
	if err := s.put(f, 4); err != nil {
		s.err = s.blame(err, fmt.Sprintf("copy of %d bytes from %#x to %#x", bytes, src, dst))
	}
}

// Zero sets bytes of device memory to 0.
func (s *Stream) Zero(dst Ptr, bytes int) {
	if s.skip("Zero", bytes) {
		return
	}
	a := &s.scratch.args
	a[0], a[1], a[2], a[3] = uintptr(dst), 0, uintptr(bytes), s.handle
	if err := s.put(&s.ctx.drv.memsetD8Async, 4); err != nil {
		s.err = s.blame(err, fmt.Sprintf("zeroing of %d bytes at %#x", bytes, uint64(dst)))
	}
}

// skip reports that there is nothing to do for so many bytes, or no use in doing it.
func (s *Stream) skip(what string, bytes int) bool {
	if s.err == nil && bytes < 0 {
		s.err = fmt.Errorf("%s of %d bytes", what, bytes)
	}
	return s.err != nil || bytes == 0
}

// Record marks what is on the stream so far as the point that e stands for.
func (s *Stream) Record(e *Event) {
	if !s.takes(e) {
		return
	}
	a := &s.scratch.args
	a[0], a[1] = e.handle, s.handle
	if err := s.put(&s.ctx.drv.eventRecord, 2); err != nil {
		s.err = s.blame(err, "Record")
	}
}

// recordExternal makes a node of a graph that records an event (CU_EVENT_RECORD_EXTERNAL).
const recordExternal = 1

// Mark, inside Capture, lets each Run of the graph record e at this place: after what the stream was given before, and before
// what it is given next. Once a Run is done, Elapsed tells the times between such events.
func (s *Stream) Mark(e *Event) {
	if !s.takes(e) {
		return
	}
	if !s.capturing {
		s.err = errors.New("Mark outside of Capture")
		return
	}
	a := &s.scratch.args
	a[0], a[1], a[2] = e.handle, s.handle, recordExternal
	if err := s.put(&s.ctx.drv.eventRecordWithFlags, 3); err != nil {
		s.err = s.blame(err, "Mark")
	}
}

// Wait lets what is put on the stream from now on wait for the point that e was recorded at.
func (s *Stream) Wait(e *Event) {
	if !s.takes(e) {
		return
	}
	a := &s.scratch.args
	a[0], a[1], a[2] = s.handle, e.handle, 0
	if err := s.put(&s.ctx.drv.streamWaitEvent, 3); err != nil {
		s.err = s.blame(err, "Wait")
	}
}

// Await waits until the point that e was recorded at is reached, and not for what was put on the stream after it. It returns
// the stream's error, and allocates nothing.
func (s *Stream) Await(e *Event) error {
	if !s.takes(e) {
		return s.err
	}
	s.scratch.args[0] = e.handle
	if err := s.call(&s.ctx.drv.eventSynchronize, 1); err != nil {
		s.err = s.blame(err, "Await")
	}
	return s.err
}

func (s *Stream) takes(e *Event) bool {
	if s.err == nil && (e == nil || e.closed) {
		s.err = errEventClosed
	}
	return s.err == nil
}

// call calls a function of the driver with the first n arguments in the scratch memory. It allocates nothing unless the
// call fails.
func (s *Stream) call(f *cfunc, n int) error {
	code, err := s.invoke(f, n)
	if code == 0 {
		return err
	}
	return s.ctx.drv.check(f, code)
}

// put is call of what puts anything but a kernel on the stream.
func (s *Stream) put(f *cfunc, n int) error {
	s.behind = false
	return s.call(f, n)
}

// invoke calls a function with the first n arguments in the scratch memory, the context being current, and returns its
// result. err is for what comes before.
func (s *Stream) invoke(f *cfunc, n int) (code int32, err error) {
	if s.ctx.closed.Load() {
		return 0, errClosed
	}
	setCurrent := &s.ctx.drv.ctxSetCurrent
	runtime.LockOSThread()
	code = int32(invoke(setCurrent.address, s.ctx.current))
	if code != 0 {
		runtime.UnlockOSThread()
		return 0, s.ctx.drv.check(setCurrent, code)
	}
	code = int32(invoke(f.address, s.scratch.args[:n]))
	runtime.UnlockOSThread()
	return code, nil
}

// note remembers a launch, for blame.
func (s *Stream) note(k *KernelInfo) {
	s.recent[s.notes%len(s.recent)] = k
	s.notes++
}

// blame says what a call was to do. A fault is one of a kernel launched earlier: those launched last are named.
func (s *Stream) blame(err error, doing string) error {
	if !Fault(err) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var last []string
	for i := s.notes - 1; i >= max(0, s.notes-len(s.recent)); i-- {
		last = append(last, s.recent[i%len(s.recent)].String())
	}
	if len(last) == 0 {
		return fmt.Errorf("%s: %w", doing, earlier(err))
	}
	return fmt.Errorf("%s: %w; launched last, the newest first: %s; CUDA_LAUNCH_BLOCKING=1 or compute-sanitizer finds which", doing,
		earlier(err), strings.Join(last, ", "))
}
