//go:build linux && (amd64 || arm64)

package cudatest

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestContexts(t *testing.T) {
	a := open(t)
	a.Set("devices", 2)
	a.Set("major", 8)
	a.Set("minor", 6)
	n := new(int32)
	a.must("cuDeviceGetCount", addr(n))
	if *n != 2 {
		t.Errorf("%d devices", *n)
	}
	for attribute, want := range map[uintptr]int32{75: 8, 76: 6, 97: 99 << 10, 1: 1024, 10: 32} {
		a.must("cuDeviceGetAttribute", addr(n), attribute, 1)
		if *n != want {
			t.Errorf("attribute %d is %d, not %d", attribute, *n, want)
		}
	}
	name := make([]byte, 64)
	a.must("cuDeviceGetName", addr(&name[0]), 64, 0)
	if !strings.HasPrefix(string(name), "Simulated GPU 8.6\x00") {
		t.Errorf("name %q", name)
	}
	a.want(101, "cuDeviceGet", addr(n), 2)
	a.must("cuCtxSetCurrent", 0)
	a.want(201, "cuMemAlloc_v2", addr(new(uintptr)), 16)
	a.want(201, "cuCtxSetCurrent", addr(n))
	a.makeCurrent()
	done := make(chan int)
	go func() { // another thread has no context
		runtime.LockOSThread()
		done <- a.call("cuMemAlloc_v2", addr(new(uintptr)), 16)
	}()
	if r := <-done; r != 201 {
		t.Errorf("a thread without a context allocates: %d", r)
	}
	a.Set("devices", 0)
	a.want(100, "cuInit", 0)

	text := new(*byte)
	a.must("cuGetErrorName", 700, addr(text))
	if s := goString(*text); s != "CUDA_ERROR_ILLEGAL_ADDRESS" {
		t.Errorf("error 700 is %s", s)
	}
	a.want(invalidValue, "cuGetErrorName", 12345, addr(text))
}

func TestMemory(t *testing.T) {
	a := open(t)
	a.Quiet()
	a.Set("memory", 1<<20)
	p := a.alloc(1000)
	if p%256 != 0 {
		t.Errorf("allocation at %#x", p)
	}
	free, total := new(uint64), new(uint64)
	a.must("cuMemGetInfo_v2", addr(free), addr(total))
	if *free != 1<<20-1024 || *total != 1<<20 {
		t.Errorf("%d of %d bytes are free", *free, *total)
	}
	a.want(outOfMemory, "cuMemAlloc_v2", addr(new(uintptr)), 1<<20-1000)
	a.want(invalidValue, "cuMemAlloc_v2", addr(new(uintptr)), 0)
	host := make([]byte, 2000)
	a.want(invalidValue, "cuMemcpyDtoH_v2", addr(&host[0]), p, 1001)
	a.want(invalidValue, "cuMemcpyHtoD_v2", p+500, addr(&host[0]), 501)
	a.must("cuMemcpyHtoD_v2", p+500, addr(&host[0]), 500)
	a.must("cuMemsetD32Async", p, 0x01020304, 2, 0)
	a.must("cuMemsetD8Async", p+8, 9, 2, 0)
	equal(t, "filled memory", download[uint8](a, p, 12), []uint8{4, 3, 2, 1, 4, 3, 2, 1, 9, 9, 0xff, 0xff})

	pinned := new(uintptr)
	a.must("cuMemHostAlloc", addr(pinned), 100, 1)
	a.want(invalidValue, "cuMemFree_v2", *pinned)
	equal(t, "leaks", a.Leaks(), []string{"device memory, 1000 bytes", "pinned memory, 100 bytes", "1 contexts"})
	a.must("cuMemFreeHost", *pinned)

	a.load("basic.cu", "")
	a.run("scale", oneBlock(2), p+996, p, float32(1), 2) // into the room to 256 bytes
	a.must("cuMemFree_v2", p)
	a.want(invalidValue, "cuMemFree_v2", p)
	equal(t, "faults", a.Faults(), []string{"something wrote 0 bytes past the end of 1000 bytes of device memory"})
}

// From memory that is not pinned a copy reads at once and arrives later.
func TestPageableCopies(t *testing.T) {
	a := open(t)
	p, s := a.alloc(4), a.stream()
	out := new(uintptr)
	a.must("cuMemHostAlloc", addr(out), 4, 0)
	host := []float32{1}
	a.must("cuMemcpyHtoD_v2", p, addr(&host[0]), 4)
	host[0] = 2
	a.must("cuMemcpyDtoHAsync_v2", *out, p, 4, s)
	a.must("cuStreamSynchronize", s) // which does not wait for the null stream
	result := (*float32)(*(*unsafe.Pointer)(unsafe.Pointer(out)))
	if !isNaN(*result) {
		t.Errorf("the copy has arrived: %v", *result)
	}
	equal(t, "the copy", download[float32](a, p, 1), []float32{1})
}

func TestStreams(t *testing.T) {
	a := open(t)
	a.load("basic.cu", "")
	x := upload(a, []float32{1, 2, 3})
	y, z := a.alloc(12), a.alloc(12)
	a.must("cuCtxSynchronize")
	s1, s2, e := a.stream(), a.stream(), a.event()
	on := func(s uintptr) shape {
		sh := blocks(1, 3)
		sh.stream = s
		return sh
	}
	a.Record()
	a.run("scale", on(s1), y, x, float32(2), 3)
	a.run("scale", on(s2), z, y, float32(2), 3) // misses an event
	if slices.Contains(a.Calls(), "run scale") {
		t.Error("work runs before anything waits for it")
	}
	a.must("cuStreamSynchronize", s2)
	if got := download[float32](a, z, 3); !isNaN(got[0]) {
		t.Errorf("the missing event does not show: %v", got)
	}
	a.run("scale", on(s1), y, x, float32(10), 3)
	a.must("cuEventRecord", e, s1)
	a.run("scale", on(s1), x, x, float32(0), 3) // after the event
	a.must("cuStreamWaitEvent", s2, e, 0)
	a.run("scale", on(s2), z, y, float32(2), 3)
	a.must("cuStreamSynchronize", s2)
	a.must("cuStreamSynchronize", s2) // again
	a.must("cuMemcpyDtoDAsync_v2", y, x, 12, s2)
	a.must("cuStreamSynchronize", s2)
	equal(t, "z", download[float32](a, z, 3), []float32{20, 40, 60})
	equal(t, "y, which did not wait for what followed the event", download[float32](a, y, 3), []float32{1, 2, 3})

	a.must("cuStreamDestroy_v2", s1)
	a.want(invalidHandle, "cuStreamSynchronize", s1)
	a.must("cuStreamDestroy_v2", s2)
	a.must("cuEventDestroy_v2", e)
	a.want(invalidHandle, "cuEventRecord", e, 0)
}

// The null stream and those that block with it wait for each other.
func TestNullStream(t *testing.T) {
	a := open(t)
	s := new(uintptr)
	a.must("cuStreamCreate", addr(s), 0)
	p := a.alloc(1)
	out := make([]byte, 1)
	a.must("cuMemsetD8Async", p, 1, 1, *s)
	a.must("cuMemcpyDtoH_v2", addr(&out[0]), p, 1)
	if out[0] != 1 {
		t.Error("the null stream does not wait for a stream that blocks with it")
	}
	a.must("cuMemsetD8Async", p, 2, 1, 0)
	pinned := new(uintptr)
	a.must("cuMemHostAlloc", addr(pinned), 1, 0)
	a.must("cuMemcpyDtoHAsync_v2", *pinned, p, 1, *s)
	a.must("cuStreamSynchronize", *s)
	if got := *(*byte)(*(*unsafe.Pointer)(unsafe.Pointer(pinned))); got != 2 {
		t.Errorf("a stream that blocks with the null stream does not wait for it: %d", got)
	}
}

func TestEvents(t *testing.T) {
	a := open(t)
	s, from, to, untimed := a.stream(), a.event(), a.event(), new(uintptr)
	p, ms := a.alloc(1<<20), new(float32)
	a.want(invalidHandle, "cuEventElapsedTime", addr(ms), from, to)
	a.must("cuEventQuery", from) // nothing to wait for
	a.must("cuEventRecord", from, s)
	a.must("cuMemsetD8Async", p, 1, 1<<20, s)
	a.must("cuEventRecord", to, s)
	a.want(notReady, "cuEventElapsedTime", addr(ms), from, to)
	a.want(notReady, "cuEventQuery", to)
	a.must("cuEventQuery", to)
	a.must("cuEventElapsedTime", addr(ms), from, to)
	if *ms <= 0 || *ms > 1e4 {
		t.Errorf("%v ms between events", *ms)
	}
	a.must("cuEventCreate", addr(untimed), 2)
	a.must("cuEventRecord", *untimed, s)
	a.must("cuEventSynchronize", *untimed)
	a.want(invalidHandle, "cuEventElapsedTime", addr(ms), from, *untimed)
	a.must("cuMemsetD8Async", p, 1, 1<<20, s)
	a.want(notReady, "cuStreamQuery", s)
	a.must("cuStreamQuery", s)
}

func TestGraphs(t *testing.T) {
	a := open(t)
	a.load("basic.cu", "")
	x := upload(a, []float32{1, 2, 3})
	y := a.alloc(12)
	a.must("cuCtxSynchronize")
	s, side, fork, join := a.stream(), a.stream(), a.event(), a.event()
	const mode = 1 // of this thread
	sh := blocks(1, 3)
	a.must("cuStreamBeginCapture_v2", s, mode)
	sh.stream = s
	a.run("scale", sh, x, x, float32(2), 3)
	a.must("cuEventRecord", fork, s)
	a.must("cuStreamWaitEvent", side, fork, 0)
	sh.stream = side
	a.run("scale", sh, y, x, float32(10), 3)
	a.must("cuEventRecord", join, side)
	a.must("cuStreamWaitEvent", s, join, 0)
	status := new(int32)
	a.must("cuStreamIsCapturing", side, addr(status))
	if *status != 1 {
		t.Errorf("the stream that joined has status %d", *status)
	}
	a.want(illegalState, "cuStreamBeginCapture_v2", s, mode)
	g, exec := new(uintptr), new(uintptr)
	a.must("cuStreamEndCapture", s, addr(g))
	a.must("cuGraphInstantiateWithFlags", addr(exec), *g, 0)
	nodes := new(uint64)
	a.must("cuGraphGetNodes", *g, 0, addr(nodes))
	if *nodes != 2 {
		t.Errorf("%d nodes", *nodes)
	}
	a.must("cuGraphDestroy", *g)
	equal(t, "x after the capture", download[float32](a, x, 3), []float32{1, 2, 3})
	a.must("cuGraphUpload", *exec, s)
	for range 3 {
		a.must("cuGraphLaunch", *exec, s)
	}
	a.must("cuStreamSynchronize", s)
	equal(t, "x", download[float32](a, x, 3), []float32{8, 16, 24})
	equal(t, "y", download[float32](a, y, 3), []float32{80, 160, 240})
	a.must("cuGraphExecDestroy", *exec)
	a.want(invalidHandle, "cuGraphLaunch", *exec, s)
	for _, l := range a.Leaks() {
		if strings.Contains(l, "graph") {
			t.Errorf("leak: %s", l)
		}
	}
}

// An event that a graph records is recorded by each of its launches, and not before.
func TestGraphEvents(t *testing.T) {
	a := open(t)
	p, ms := a.alloc(1<<20), new(float32)
	s, from, to := a.stream(), a.event(), a.event()
	a.want(invalidValue, "cuEventRecordWithFlags", from, s, 1) // outside of a capture
	a.must("cuEventRecordWithFlags", from, s, 0)
	a.must("cuStreamBeginCapture_v2", s, 1)
	a.must("cuEventRecordWithFlags", from, s, 1)
	a.must("cuMemsetD8Async", p, 1, 1<<20, s)
	a.must("cuEventRecordWithFlags", to, s, 1)
	g, exec := new(uintptr), new(uintptr)
	a.must("cuStreamEndCapture", s, addr(g))
	a.must("cuGraphInstantiateWithFlags", addr(exec), *g, 0)
	a.want(invalidHandle, "cuEventElapsedTime", addr(ms), from, to) // never recorded
	for range 2 {
		a.must("cuGraphLaunch", *exec, s)
		a.want(notReady, "cuEventElapsedTime", addr(ms), from, to)
		a.must("cuStreamSynchronize", s)
		a.must("cuEventSynchronize", to)
		a.must("cuEventElapsedTime", addr(ms), from, to)
		if *ms <= 0 || *ms > 1e4 {
			t.Errorf("%v ms between events", *ms)
		}
	}
}

// Without its event, work of a graph on a second stream runs in the wrong order.
func TestGraphOrder(t *testing.T) {
	a := open(t)
	p := a.alloc(1)
	s, side, fork, join := a.stream(), a.stream(), a.event(), a.event()
	a.must("cuStreamBeginCapture_v2", s, 1)
	a.must("cuEventRecord", fork, s)
	a.must("cuMemsetD8Async", p, 1, 1, s)
	a.must("cuStreamWaitEvent", side, fork, 0) // before the fill
	a.must("cuMemsetD8Async", p, 2, 1, side)
	a.must("cuEventRecord", join, side)
	a.must("cuStreamWaitEvent", s, join, 0)
	g, exec := new(uintptr), new(uintptr)
	a.must("cuStreamEndCapture", s, addr(g))
	a.must("cuGraphInstantiateWithFlags", addr(exec), *g, 0)
	a.must("cuGraphLaunch", *exec, s)
	equal(t, "what was filled twice", download[uint8](a, p, 1), []uint8{1})
}

func TestCaptureErrors(t *testing.T) {
	g := new(uintptr)
	for name, c := range map[string]struct {
		mode   uintptr
		do     func(a *api, s uintptr)
		result int // of the end
	}{
		"wait": {1, func(a *api, s uintptr) { a.want(900, "cuStreamSynchronize", s) }, 901},
		"allocation": {1, func(a *api, s uintptr) {
			a.want(900, "cuMemAlloc_v2", addr(new(uintptr)), 16)
			a.want(901, "cuMemsetD8Async", a.someMemory(), 0, 1, s)
		}, 901},
		"allocation in relaxed mode": {2, func(a *api, s uintptr) { a.alloc(16) }, 0},
		"other stream's work": {1, func(a *api, s uintptr) {
			e := a.event()
			a.must("cuEventRecord", e, a.stream())
			a.want(905, "cuStreamWaitEvent", s, e, 0)
		}, 901},
		"not joined": {1, func(a *api, s uintptr) {
			e, side := a.event(), a.stream()
			a.must("cuEventRecord", e, s)
			a.must("cuStreamWaitEvent", side, e, 0)
			a.must("cuMemsetD8Async", a.someMemory(), 0, 1, side)
		}, 904},
		"event": {1, func(a *api, s uintptr) {
			e := a.event()
			a.must("cuEventRecord", e, s)
			a.want(907, "cuEventSynchronize", e)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t)
			a.scratch = a.alloc(16)
			s := a.stream()
			a.must("cuStreamBeginCapture_v2", s, c.mode)
			c.do(a, s)
			a.want(c.result, "cuStreamEndCapture", s, addr(g))
			a.want(illegalState, "cuStreamEndCapture", s, addr(g))
			a.must("cuStreamSynchronize", s)
		})
	}
	a := open(t)
	s := new(uintptr)
	a.must("cuStreamCreate", addr(s), 0)
	p := a.alloc(16)
	a.must("cuStreamBeginCapture_v2", *s, 2)
	a.want(906, "cuMemsetD8Async", p, 0, 1, 0) // the null stream would wait for it
	a.want(901, "cuStreamEndCapture", *s, addr(g))
	a.want(900, "cuStreamBeginCapture_v2", 0, 1)
}

// someMemory is 16 bytes of device memory that a test may write to.
func (a *api) someMemory() uintptr { return a.scratch }

func TestLaunches(t *testing.T) {
	a := open(t)
	a.load("basic.cu", "")
	p := a.alloc(1024)
	for name, c := range map[string]struct {
		kernel string
		shape  shape
		result int
	}{
		"no blocks":          {"lines", blocks(0, 32), invalidValue},
		"no threads":         {"lines", blocks(1, 0), invalidValue},
		"2048 threads":       {"dynamic", blocks(1, 2048), invalidValue},
		"beyond the bound":   {"lines", blocks(1, 33), 701},
		"y of grid":          {"lines", shape{grid: [3]int{1, 65536, 1}, block: [3]int{1, 1, 1}}, invalidValue},
		"shared memory":      {"dynamic", shape{grid: [3]int{1, 1, 1}, block: [3]int{1, 1, 1}, shared: 48<<10 + 1}, invalidValue},
		"48 KiB":             {"dynamic", shape{grid: [3]int{1, 1, 1}, block: [3]int{1, 1, 1}, shared: 48 << 10}, 0},
		"three dimensions":   {"dynamic", shape{grid: [3]int{2, 2, 2}, block: [3]int{2, 2, 2}, shared: 4}, 0},
		"stream is a number": {"lines", shape{grid: [3]int{1, 1, 1}, block: [3]int{1, 1, 1}, stream: 12345}, invalidHandle},
	} {
		if r := a.launch(c.kernel, c.shape, p); r != c.result {
			t.Errorf("%s: %d, not %d", name, r, c.result)
		}
	}
	a.must("cuCtxSynchronize")
	f := a.function("dynamic")
	a.Set("major", 8)
	a.Set("minor", 6)
	a.want(invalidValue, "cuFuncSetAttribute", f, 8, 100<<10)
	a.must("cuFuncSetAttribute", f, 8, 99<<10)
	a.run("dynamic", shape{grid: [3]int{1, 1, 1}, block: [3]int{1, 1, 1}, shared: 99 << 10}, p)
	a.must("cuCtxSynchronize")
	value := new(int32)
	for attribute, want := range map[uintptr]int32{0: 64, 8: 48 << 10} {
		a.must("cuFuncGetAttribute", addr(value), attribute, a.function("scale"))
		if *value != want {
			t.Errorf("attribute %d of scale is %d, not %d", attribute, *value, want)
		}
	}
	var places [][2]uint64
	offset, size := new(uint64), new(uint64)
	for i := uintptr(0); a.call("cuFuncGetParamInfo", a.function("mixed"), i, addr(offset), addr(size)) == 0; i++ {
		places = append(places, [2]uint64{*offset, *size})
	}
	equal(t, "parameters", places, [][2]uint64{{0, 8}, {8, 1}, {16, 8}, {24, 2}, {32, 8}, {40, 8}})
	a.run("mixed", oneBlock(1), p, 1, 20, 300, 0, uintptr(0x40af400000000000)) // 4000
	equal(t, "sum of the arguments", download[float64](a, p, 1), []float64{4321})
	a.run("lines", oneBlock(32), p)
	got := download[int32](a, p, 32)
	slices.Reverse(got)
	if !slices.IsSorted(got) || got[31] != 31 {
		t.Errorf("lines wrote %v", got)
	}
}

// Static and dynamic shared memory share what there is.
func TestSharedMemory(t *testing.T) {
	a := open(t)
	a.load("alone.cu", "")
	f, p, value := a.function("alone"), a.alloc(128), new(int32)
	for attribute, want := range map[uintptr]int32{1: 128, 8: 48<<10 - 128} {
		a.must("cuFuncGetAttribute", addr(value), attribute, f)
		if *value != want {
			t.Errorf("attribute %d is %d, not %d", attribute, *value, want)
		}
	}
	s := oneBlock(32)
	s.shared = 48 << 10
	if r := a.launch("alone", s, p); r != invalidValue {
		t.Errorf("a launch with more than 48 KiB: %d", r)
	}
	a.want(invalidValue, "cuFuncSetAttribute", f, 8, 227<<10)
	a.must("cuFuncSetAttribute", f, 8, 227<<10-128)
	a.run("alone", s, p)
	a.must("cuCtxSynchronize")
}

func TestModules(t *testing.T) {
	a := open(t)
	a.Quiet()
	m := new(uintptr)
	for text, want := range map[string]int{"\x50\xed\x55\xba": 209, "hello": 200, "TFCSIM:/nowhere/k.so\x00": 303} {
		a.want(want, "cuModuleLoadData", addr(m), addr(&[]byte(text + "\x00\x00\x00\x00\x00\x00\x00")[0]))
	}
	a.load("basic.cu", "")
	f := a.function("lines")
	name := []byte("missing\x00")
	a.want(500, "cuModuleGetFunction", addr(m), a.module, addr(&name[0]))
	a.must("cuModuleUnload", a.module)
	a.want(invalidHandle, "cuModuleGetFunction", addr(m), a.module, addr(&name[0]))
	a.want(invalidHandle, "cuFuncGetAttribute", addr(new(int32)), 0, f)
}

func TestControl(t *testing.T) {
	a := open(t)
	a.FailNth("cuMemAlloc_v2", 2, outOfMemory)
	a.FailNth("cuCtxSynchronize", 1, illegalAddress)
	a.Record()
	a.alloc(16)
	a.want(outOfMemory, "cuMemAlloc_v2", addr(new(uintptr)), 32)
	a.want(invalidValue, "cuMemAlloc_v2", addr(new(uintptr)), 0)
	a.want(illegalAddress, "cuCtxSynchronize")
	p := a.alloc(64)
	a.must("cuMemsetD8Async", p, 0, 64, 0)
	a.must("cuCtxSynchronize")
	equal(t, "calls", a.Calls(), []string{
		"cuMemAlloc_v2 bytes=16", "cuMemAlloc_v2 bytes=32 = 2, as told", "cuMemAlloc_v2 bytes=0 = 1", "cuCtxSynchronize  = 700, as told",
		"cuMemAlloc_v2 bytes=64", "cuMemsetD8Async value=0 count=64", "run fill", "cuCtxSynchronize",
	})
	if n := a.Count("cuMemAlloc_v2"); n != 4 {
		t.Errorf("%d calls of cuMemAlloc_v2", n)
	}
	f := new(uintptr)
	name := []byte("cuMemAlloc\x00")
	a.must("cuGetProcAddress_v2", addr(&name[0]), addr(f), 13000, 0, 0)
	if *f == 0 {
		t.Error("cuGetProcAddress does not find cuMemAlloc")
	}
	a.Fault(illegalAddress)
	for range 2 {
		a.want(illegalAddress, "cuCtxSynchronize")
		a.want(illegalAddress, "cuStreamCreate", addr(f), 0)
	}
	a.Reset()
	if n := a.Count("cuMemAlloc_v2"); n != 0 {
		t.Errorf("%d calls after the reset", n)
	}
	equal(t, "leaks after the reset", a.Leaks(), []string{})
}

// A process can be told by its environment.
func TestEnvironment(t *testing.T) {
	if os.Getenv("TFC_FAKE") == "" {
		f := New(t)
		cmd := exec.Command(os.Args[0], "-test.run", "^TestEnvironment$", "-test.v")
		cmd.Env = append(os.Environ(), f.Environ("set devices 3", "fail cuDeviceGetCount 2 999")...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	a := open(t)
	n := new(int32)
	a.must("cuDeviceGetCount", addr(n))
	if *n != 3 {
		t.Errorf("%d devices", *n)
	}
	a.want(999, "cuDeviceGetCount", addr(n))
}
