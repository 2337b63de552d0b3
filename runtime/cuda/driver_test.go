package cuda_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// kernels are what the tests of the driver launch.
const kernels = `#include "sim.h"

extern "C" __global__ void scale(float *y, const float *x, float a, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i];
}

// wild writes where no memory is.
extern "C" __global__ void wild(float *y) { y[size_t(1) << 36] = 1; }

// big has more shared memory than blocks have unasked.
extern "C" __global__ void big(float *y, int n) {
    SHARED_DYNAMIC(memory);
    float *x = reinterpret_cast<float *>(memory);
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = float(i);
    __syncthreads();
    if (threadIdx.x == 0) y[0] = x[n - 1];
}
`

var (
	scaleInfo = cuda.KernelInfo{Entry: "scale", Threads: 128, About: "scale x, a.yaml:3"}
	wildInfo  = cuda.KernelInfo{Entry: "wild", Threads: 1, About: "wild, a.yaml:9"}
	bigInfo   = cuda.KernelInfo{Entry: "big", Threads: 32, Shared: 64 << 10}
)

// must ends the test on an error.
func must[T any](x T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants checks that an error has all parts in its text.
func wants(t testing.TB, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func open(t testing.TB) *cuda.Context {
	t.Helper()
	c := must(cuda.Open(0))(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDevices(t *testing.T) {
	f := newFake(t)
	f.Set("devices", 2)
	f.Set("major", 8)
	f.Set("minor", 6)
	devices := must(cuda.Devices())(t)
	if len(devices) != 2 {
		t.Fatalf("%d devices", len(devices))
	}
	d := devices[1]
	if d.Index != 1 || d.Name == "" || d.Arch() != "sm_86" || d.SMs < 1 || d.Memory == 0 || d.L2 == 0 || d.SharedMax != 99<<10 || !strings.Contains(d.PCI, ":00.0") {
		t.Errorf("%+v", d)
	}
	if s := d.String(); !strings.HasPrefix(s, "cuda:1 (") {
		t.Error(s)
	}
	_, err := cuda.Open(2)
	wants(t, err, "no device cuda:2", "cuda:0 to cuda:1")
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

func TestUnavailable(t *testing.T) {
	f := newFake(t)
	f.Set("driver", 11080)
	wants(t, cuda.Available(), "supports CUDA 11.8", "needs 12.0 or later", "update the driver")
	renew(f)
	f.Set("devices", 0)
	hidden, set := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	check(t, os.Unsetenv("CUDA_VISIBLE_DEVICES"))
	wants(t, cuda.Available(), "no CUDA device: the driver is there but finds none")
	if set {
		check(t, os.Setenv("CUDA_VISIBLE_DEVICES", hidden))
	}
	t.Setenv("CUDA_VISIBLE_DEVICES", "-1")
	wants(t, cuda.Available(), `no CUDA device: CUDA_VISIBLE_DEVICES="-1" hides every one`)
	renew(f)
	f.FailNth("cuInit", 1, 803)
	wants(t, cuda.Available(), "cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: ", "reboot")
	check(t, cuda.Available()) // the failure is not remembered
}

func TestFind(t *testing.T) {
	f := newFake(t)
	fatbin := must(os.ReadFile("testdata/archs.fatbin"))(t)
	if d, err := cuda.Find(fatbin); d.Index != 0 || d.Name == "" || err != nil {
		t.Errorf("%v, %v", d, err)
	}
	f.Set("major", 12)
	f.Set("devices", 2)
	_, err := cuda.Find(fatbin)
	if !errors.Is(err, cuda.ErrNoCode) {
		t.Error(err)
	}
	wants(t, err, "has code for sm_80, sm_90a")
}

// session does a bit of everything, as a program would: what it makes is given back by Close of the context alone.
func session(fatbin []byte) (result []float32, err error) {
	c, err := cuda.Open(0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.CheckFree(1<<10, "a test"); err != nil {
		return nil, err
	}
	m, err := c.Load(fatbin)
	if err != nil {
		return nil, err
	}
	scale, err := m.Kernel(scaleInfo)
	if err != nil {
		return nil, err
	}
	if _, err := m.Kernel(bigInfo); err != nil {
		return nil, err
	}
	const n = 300
	x, err := c.Alloc(4 * n)
	if err != nil {
		return nil, err
	}
	y, err := c.Alloc(4 * n)
	if err != nil {
		return nil, err
	}
	host, err := c.Pinned(4 * n)
	if err != nil {
		return nil, err
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i)
	}
	if err := c.Upload(x, cuda.Bytes(values)); err != nil {
		return nil, err
	}
	s, err := c.NewStream()
	if err != nil {
		return nil, err
	}
	side, err := c.NewStream()
	if err != nil {
		return nil, err
	}
	var events, marks [2]*cuda.Event
	for i := range events {
		if events[i], err = c.NewEvent(); err != nil {
			return nil, err
		}
		if marks[i], err = c.NewEvent(); err != nil {
			return nil, err
		}
	}
	launch := func(from, to cuda.Ptr, by float32) { s.Launch(scale, 3, 1, 1, to, from, cuda.Float(by), n) }
	s.Zero(y, 4*n)
	s.Record(events[0])
	launch(x, y, 2) // y = 2x
	s.Record(events[1])
	side.Wait(events[1])
	side.CopyOut(host, 0, y, 4*n)
	if err := s.Await(events[1]); err != nil {
		return nil, err
	}
	if err := side.Sync(); err != nil {
		return nil, err
	}
	g, err := s.Capture(func() {
		s.Mark(marks[0])
		launch(y, x, 3) // x = 3y
		s.Copy(y, x, 4*n)
		s.Mark(marks[1])
		s.CopyOut(host, 0, y, 4*n)
	})
	if err != nil {
		return nil, err
	}
	s.CopyIn(y, host, 0, 4*n)
	s.Run(g)
	s.Run(g)
	if err := s.Sync(); err != nil {
		return nil, err
	}
	for _, pair := range [][2]*cuda.Event{events, marks} {
		took, err := cuda.Elapsed(pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		if took <= 0 {
			return nil, fmt.Errorf("%v between two events with work between them", took)
		}
	}
	result = make([]float32, n)
	if err := c.Download(cuda.Bytes(result), y); err != nil {
		return nil, err
	}
	if !slices.Equal(result, host.Float32s()) {
		return nil, fmt.Errorf("Download and CopyOut differ: %v, %v", result[:8], host.Float32s()[:8])
	}
	for _, free := range []func() error{g.Close, g.Close, events[0].Close, side.Close, host.Free, m.Close, func() error { return c.Free(x) }} {
		if err := free(); err != nil {
			return nil, err
		}
	}
	return result, nil
}

func TestSession(t *testing.T) {
	f := newFake(t)
	f.Record()
	got := must(session(image(t)))(t)
	for i, x := range got {
		if x != float32(i)*18 {
			t.Fatalf("element %d is %g, not %d", i, x, 18*i)
		}
	}
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

// TestOrder holds the order of the driver's calls for work on a stream.
func TestOrder(t *testing.T) {
	f := newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(1024))(t)
	s := must(c.NewStream())(t)
	e := must(c.NewEvent())(t)
	host := must(c.Pinned(64))(t)
	f.Record()
	s.CopyIn(x, host, 0, 64)
	s.Launch(scale, 2, 1, 1, x, x, cuda.Float(1), 16)
	s.Record(e)
	s.Wait(e)
	s.Zero(x, 8)
	s.Copy(x+256, x, 8)
	s.CopyOut(host, 8, x, 8)
	s.Copy(x, x, 0) // nothing to do
	check(t, s.Sync())
	g := must(s.Capture(func() { s.Zero(x, 8) }))(t)
	s.Run(g)
	check(t, s.Sync())
	check(t, g.Close())
	var names []string
	for _, call := range f.Calls() {
		name := strings.FieldsFunc(call, func(r rune) bool { return r == '(' || r == ' ' })[0]
		if name != "run" && name != "cuCtxSetCurrent" {
			names = append(names, name)
		}
	}
	want := strings.Fields("cuMemcpyHtoDAsync_v2 cuLaunchKernel cuEventRecord cuStreamWaitEvent cuMemsetD8Async cuMemcpyDtoDAsync_v2 " +
		"cuMemcpyDtoHAsync_v2 cuStreamSynchronize cuStreamBeginCapture_v2 cuMemsetD8Async cuStreamEndCapture " +
		"cuGraphInstantiateWithFlags cuGraphDestroy cuGraphUpload cuGraphLaunch cuStreamSynchronize cuGraphExecDestroy")
	if !slices.Equal(names, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(names, " "), strings.Join(want, " "))
	}
}

// TestEveryCallFails lets each call of each function of the driver fail once: the session ends with an error that names the
// call, and all that was made is given back, but for what a failing call should have given back.
func TestEveryCallFails(t *testing.T) {
	f := newFake(t)
	code := image(t)
	f.Record()
	must(session(code))(t)
	counts := map[string]int{}
	for _, call := range f.Calls() {
		name := strings.FieldsFunc(call, func(r rune) bool { return r == '(' || r == ' ' })[0]
		if strings.HasPrefix(name, "cu") {
			counts[name] = f.Count(name)
		}
	}
	if len(counts) < 35 {
		t.Fatalf("the session calls %d functions: %v", len(counts), counts)
	}
	tried := 0
	for name, n := range counts {
		for nth := 1; nth <= n; nth++ {
			renew(f)
			f.FailNth(name, nth, 999)
			_, err := session(code)
			tried++
			leaks := f.Leaks()
			switch name {
			case "cuDeviceGetPCIBusId", "cuFuncGetParamInfo": // for better words only
				check(t, err)
				continue
			case "cuGraphDestroy":
				continue // the graph made of it is whole
			case "cuCtxSetCurrent", "cuMemFree_v2", "cuMemFreeHost", "cuModuleUnload", "cuStreamDestroy_v2", "cuEventDestroy_v2", "cuGraphExecDestroy", "cuDevicePrimaryCtxRelease_v2", "cuStreamEndCapture":
				if len(leaks) > 1 {
					t.Errorf("call %d of %s fails: more than one thing leaks: %v", nth, name, leaks)
				}
				leaks = nil
			}
			optional := name == "cuCtxSetCurrent" && err == nil // it was for one of the calls above
			if !optional && !strings.Contains(fmt.Sprint(err), name+": CUDA_ERROR_UNKNOWN: unknown error") {
				t.Errorf("call %d of %s fails: %v", nth, name, err)
			}
			if len(leaks) > 0 {
				t.Errorf("call %d of %s fails: leaks %v", nth, name, leaks)
			}
		}
	}
	t.Logf("%d calls of %d functions", tried, len(counts))
}

func TestSticky(t *testing.T) {
	f := newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(1024))(t)
	host := must(c.Pinned(64))(t)
	e := must(c.NewEvent())(t)
	s := must(c.NewStream())(t)
	g := must(s.Capture(func() { s.Zero(x, 8) }))(t)
	f.FailNth("cuLaunchKernel", 2, 719+282) // 1001 is no result that has a name
	s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 16)
	check(t, s.Err())
	s.Launch(scale, 5, 1, 1, x, x, cuda.Float(1), 16)
	wants(t, s.Err(), "launch of scale (scale x, a.yaml:3), grid 5×1×1, block 128, shared memory 0: cuLaunchKernel: error 1001")
	before := f.Count("cuLaunchKernel") + f.Count("cuMemsetD8Async") + f.Count("cuGraphLaunch") + f.Count("cuStreamSynchronize") + f.Count("cuEventRecord")
	first := s.Err()
	s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 16)
	s.Zero(x, 8)
	s.Copy(x, x, 8)
	s.CopyIn(x, host, 0, 1000)
	s.CopyOut(host, 0, x, -1)
	s.Record(e)
	s.Wait(e)
	s.Run(g)
	s.Fail(errors.New("another"))
	if err := s.Sync(); err != first || s.Err() != first {
		t.Errorf("the first error is not kept: %v", err)
	}
	if _, err := s.Capture(func() { t.Error("Capture calls its function") }); err != first {
		t.Error(err)
	}
	after := f.Count("cuLaunchKernel") + f.Count("cuMemsetD8Async") + f.Count("cuGraphLaunch") + f.Count("cuStreamSynchronize") + f.Count("cuEventRecord")
	if after != before {
		t.Errorf("%d calls after the error", after-before)
	}
}

// TestMisuse makes the mistakes that Go finds before the driver sees them.
func TestMisuse(t *testing.T) {
	f := newFake(t)
	f.Set("devices", 2)
	ctx, other := open(t), must(cuda.Open(1))(t)
	t.Cleanup(func() { other.Close() })
	m := must(ctx.Load(image(t)))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(ctx.Alloc(1024))(t)
	host := must(ctx.Pinned(64))(t)
	closed := must(ctx.NewEvent())(t)
	check(t, closed.Close())
	open := must(ctx.NewEvent())(t)
	there := must(other.NewStream())(t)
	theirs := must(there.Capture(func() {}))(t)
	gone := must(ctx.Load(image(t)))(t)
	old := must(gone.Kernel(scaleInfo))(t)
	check(t, gone.Close())
	for name, misuse := range map[string]struct {
		do   func(s *cuda.Stream)
		want string
	}{
		"arguments":   {func(s *cuda.Stream) { s.Launch(scale, 1, 1, 1, x) }, "1 arguments, the kernel has 4 parameters"},
		"many":        {func(s *cuda.Stream) { s.Launch(scale, 1, 1, 1, make([]cuda.Arg, 1000)...) }, "1000 arguments, at most 128"},
		"no blocks":   {func(s *cuda.Stream) { s.Launch(scale, 0, 1, 1, x, x, 0, 0) }, "grid 0×1×1"},
		"many blocks": {func(s *cuda.Stream) { s.Launch(scale, 1, 65536, 1, x, x, 0, 0) }, "grid 1×65536×1"},
		"no kernel":   {func(s *cuda.Stream) { s.Launch(cuda.Kernel{}, 1, 1, 1) }, "not found by Module.Kernel"},
		"old kernel":  {func(s *cuda.Stream) { s.Launch(old, 1, 1, 1, x, x, 0, 0) }, "module is closed"},
		"event":       {func(s *cuda.Stream) { s.Record(closed) }, "event is closed"},
		"nil event":   {func(s *cuda.Stream) { s.Wait(nil) }, "event is closed"},
		"closed mark": {func(s *cuda.Stream) { s.Mark(closed) }, "event is closed"},
		"mark":        {func(s *cuda.Stream) { s.Mark(open) }, "Mark outside of Capture"},
		"no event":    {func(s *cuda.Stream) { _ = s.Await(nil) }, "event is closed"},
		"nil graph":   {func(s *cuda.Stream) { s.Run(nil) }, "graph that is closed or of another context"},
		"their graph": {func(s *cuda.Stream) { s.Run(theirs) }, "graph that is closed or of another context"},
		"pinned":      {func(s *cuda.Stream) { s.CopyIn(x, host, 60, 8) }, "bytes 60 to 68 of page-locked memory of 64 bytes"},
		"no pinned":   {func(s *cuda.Stream) { s.CopyOut(nil, 0, x, 8) }, "no page-locked memory"},
		"overflow":    {func(s *cuda.Stream) { s.CopyIn(x, host, math.MaxInt, 8) }, "page-locked memory of 64 bytes"},
		"negative":    {func(s *cuda.Stream) { s.Zero(x, -1) }, "Zero of -1 bytes"},
		"nested": {func(s *cuda.Stream) {
			_, err := s.Capture(func() { _, _ = s.Capture(func() {}) })
			if err == nil {
				t.Error("no error of Capture inside Capture")
			}
		}, "Capture inside Capture"},
		"sync":   {func(s *cuda.Stream) { _, _ = s.Capture(func() { _ = s.Sync() }) }, "Sync inside Capture"},
		"closed": {func(s *cuda.Stream) { check(t, s.Close()); s.Zero(x, 8) }, "the stream is closed"},
		"failed": {func(s *cuda.Stream) { s.Fail(errors.New("a user's error")) }, "a user's error"},
	} {
		s := must(ctx.NewStream())(t)
		misuse.do(s)
		if !strings.Contains(fmt.Sprint(s.Err()), misuse.want) {
			t.Errorf("%s: %q is not in: %v", name, misuse.want, s.Err())
		}
	}
	if _, err := gone.Kernel(scaleInfo); err == nil {
		t.Error("a kernel of a closed module")
	}
	wants(t, closed.Sync(), "event is closed")
	for bytes, want := range map[int]string{-1: "allocation of -1 bytes", 0: ""} {
		if p, err := ctx.Alloc(bytes); p != 0 || want != "" && fmt.Sprint(err) != want {
			t.Errorf("Alloc(%d): %#x, %v", bytes, p, err)
		}
	}
	check(t, ctx.Free(0))
	check(t, ctx.Free(x))
	wants(t, ctx.Free(x), "is not allocated, or freed already")
	wants(t, ctx.Free(12345), "is not allocated, or freed already")
	none := must(ctx.Pinned(0))(t)
	if len(none.Bytes()) != 0 || len(none.Float32s()) != 0 || len(none.Int32s()) != 0 {
		t.Error("0 bytes of page-locked memory")
	}
	check(t, none.Free())
	if five := must(ctx.Pinned(5))(t); len(five.Int32s()) != 1 || len(five.Bytes()) != 5 {
		t.Error("5 bytes of page-locked memory")
	}
	s := must(ctx.NewStream())(t)
	check(t, ctx.Close())
	check(t, ctx.Close())
	wants(t, s.Err(), "the stream is closed")
	_, err := ctx.Alloc(8)
	wants(t, err, "the CUDA context is closed")
	_, err = ctx.NewStream()
	wants(t, err, "the CUDA context is closed")
}

func TestKernelErrors(t *testing.T) {
	f := newFake(t)
	c := open(t)
	_, err := c.Load(nil)
	wants(t, err, "built without nvcc", "`tfc build`")
	m := must(c.Load(image(t)))(t)
	for want, info := range map[string]cuda.KernelInfo{
		"kernel nothing (x, a.yaml:1) is not in this package's CUDA code: cuModuleGetFunction: CUDA_ERROR_NOT_FOUND": {Entry: "nothing", Threads: 1, About: "x, a.yaml:1"},
		"kernel scale: 0 threads a block, it can have 1 to 1024":                                                     {Entry: "scale"},
		"kernel scale: 2048 threads a block":                                                                         {Entry: "scale", Threads: 2048},
		"kernel big: 409600 bytes of shared memory a block (0 static, 409600 dynamic)":                               {Entry: "big", Threads: 32, Shared: 400 << 10},
		"kernel big: -4 bytes of shared memory":                                                                      {Entry: "big", Threads: 32, Shared: -4},
	} {
		_, err := m.Kernel(info)
		wants(t, err, want)
	}
	big := must(m.Kernel(bigInfo))(t)
	y := must(c.Alloc(256))(t)
	s := must(c.NewStream())(t)
	s.Launch(big, 1, 1, 1, y, 16<<10)
	check(t, s.Sync())
	got := make([]float32, 1)
	check(t, c.Download(cuda.Bytes(got), y))
	if got[0] != 16<<10-1 {
		t.Errorf("64 KiB of shared memory end in %g", got[0])
	}
	// Less than 48 KiB needs no asking.
	before := f.Count("cuFuncSetAttribute")
	must(m.Kernel(cuda.KernelInfo{Entry: "big", Threads: 32, Shared: 48 << 10}))(t)
	if f.Count("cuFuncSetAttribute") != before {
		t.Error("48 KiB were asked for")
	}
}

func TestNoCode(t *testing.T) {
	f := newFake(t)
	fatbin := must(os.ReadFile("testdata/archs.fatbin"))(t)
	f.Set("major", 12)
	c := open(t)
	_, err := c.Load(fatbin) // the fake driver has no code in a fatbin
	wants(t, err, "this package has no code for cuda:0", "it has code for sm_80, sm_90a, the device needs sm_120",
		"cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU", "write `target: {arch: [sm_120]}` in the spec and run `tfc build`")
	var no *cuda.NoCodeError
	if !errors.Is(err, cuda.ErrNoCode) || !errors.As(err, &no) || !slices.Equal(no.Archs, []string{"sm_80", "sm_90a"}) {
		t.Errorf("%#v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// With code that the driver should take, it is the driver that is too old.
	renew(f)
	c = open(t)
	_, err = c.Load(fatbin)
	wants(t, err, "refuses the code of this package", "update the driver", "with nvcc 13.0 or earlier")
	if !errors.Is(err, cuda.ErrNoCode) || errors.As(err, &no) && no.Device == c.Device() {
		t.Errorf("%#v", err)
	}
	_, err = c.Load([]byte("no image at all"))
	wants(t, err, "has no code that can be read", "CUDA_ERROR_INVALID_IMAGE")
	f.FailNth("cuModuleLoadData", 1, 2)
	_, err = c.Load(image(t))
	wants(t, err, "cannot be loaded", "CUDA_ERROR_OUT_OF_MEMORY")
	if errors.Is(err, cuda.ErrNoCode) {
		t.Error("no memory is no missing code")
	}
}

func TestOutOfMemory(t *testing.T) {
	f := newFake(t)
	f.Set("memory", 10<<20)
	c := open(t)
	check(t, c.CheckFree(8<<20, "training"))
	must(c.Alloc(4 << 20))(t)
	_, err := c.Alloc(8 << 20)
	var full *cuda.OutOfMemoryError
	if !errors.As(err, &full) || full.Asked != 8<<20 || full.Total != 10<<20 || full.Free > 6<<20 || full.Free < 5<<20 {
		t.Fatalf("%+v, %v", full, err)
	}
	wants(t, err, "out of memory on cuda:0 (", "needs 8.0 MiB", "of 10.0 MiB are free", "checkpointing: auto(...)")
	err = c.CheckFree(8<<20, "training with batch 64")
	wants(t, err, "training with batch 64 needs 8.0 MiB")
	if !errors.As(err, &full) {
		t.Error(err)
	}
	f.FailNth("cuMemAlloc_v2", 1, 700)
	_, err = c.Alloc(8)
	wants(t, err, "a kernel launched earlier failed")
	f.FailNth("cuMemHostAlloc", 1, 2)
	_, err = c.Pinned(1 << 20)
	wants(t, err, "allocation of 1.0 MiB of page-locked host memory", "CUDA_ERROR_OUT_OF_MEMORY")
}

// TestFault launches a kernel that writes where no memory is: Sync says so, and everything after fails, but ends.
func TestFault(t *testing.T) {
	newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	wild, scale := must(m.Kernel(wildInfo))(t), must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(1024))(t)
	s := must(c.NewStream())(t)
	for range 20 {
		s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 16)
	}
	check(t, s.Sync())
	s.Launch(wild, 1, 1, 1, x)
	s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 16)
	err := s.Sync()
	wants(t, err, "a kernel launched earlier failed", "CUDA_ERROR_ILLEGAL_ADDRESS",
		"launched last, the newest first: scale (scale x, a.yaml:3), wild (wild, a.yaml:9); CUDA_LAUNCH_BLOCKING=1")
	if !cuda.Fault(err) {
		t.Error("is no Fault")
	}
	if _, err := c.NewStream(); !cuda.Fault(err) {
		t.Errorf("after a fault: %v", err)
	}
	if err := c.Close(); !cuda.Fault(err) {
		t.Errorf("Close after a fault: %v", err)
	}
}

// TestCapture has a graph hold what it was told, and errors and panics leave the stream as it was.
func TestCapture(t *testing.T) {
	f := newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(64))(t)
	value := func() float32 {
		got := make([]float32, 1)
		check(t, c.Download(cuda.Bytes(got), x))
		return got[0]
	}
	check(t, c.Upload(x, cuda.Bytes([]float32{1})))
	s := must(c.NewStream())(t)
	g := must(s.Capture(func() { s.Launch(scale, 1, 1, 1, x, x, cuda.Float(2), 1) }))(t)
	if got := value(); got != 1 {
		t.Errorf("Capture ran its work: %g", got)
	}
	for range 3 {
		s.Run(g)
	}
	check(t, s.Sync())
	if got := value(); got != 8 {
		t.Errorf("three runs make %g", got)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = s.Capture(func() { s.Zero(x, 4); panic("of the user") })
	}()
	check(t, s.Err())
	s.Launch(scale, 1, 1, 1, x, x, cuda.Float(2), 1) // the stream does not capture any more
	check(t, s.Sync())
	if got := value(); got != 16 {
		t.Errorf("after a panic in Capture: %g", got)
	}
	_, err := s.Capture(func() { s.Launch(scale, 1, 1, 1, x) })
	wants(t, err, "1 arguments, the kernel has 4 parameters")
	check(t, g.Close())
	check(t, c.Close())
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

// TestAllocations holds Run, and where it can be also the rest, to no allocation in Go.
func TestAllocations(t *testing.T) {
	newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(1024))(t)
	host := must(c.Pinned(64))(t)
	e := must(c.NewEvent())(t)
	s := must(c.NewStream())(t)
	g := must(s.Capture(func() { s.Zero(x, 8) }))(t)
	for name, work := range map[string]func(){
		"Run":     func() { s.Run(g) },
		"Launch":  func() { s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 16) },
		"CopyIn":  func() { s.CopyIn(x, host, 0, 64) },
		"CopyOut": func() { s.CopyOut(host, 0, x, 64) },
		"Copy":    func() { s.Copy(x, x+512, 64) },
		"Zero":    func() { s.Zero(x, 64) },
		"Record":  func() { s.Record(e) },
		"Wait":    func() { s.Wait(e) },
		"Await":   func() { _ = s.Await(e) },
		"Sync":    func() { _ = s.Sync() },
	} {
		if n := allocations(200, work); n != 0 {
			t.Errorf("%s allocates %g times", name, n)
		}
	}
	check(t, s.Sync())
}

// TestAwait: what lies before the event is there, and the stream's error is told, that of an earlier call too.
func TestAwait(t *testing.T) {
	f := newFake(t)
	c := open(t)
	x := must(c.Alloc(64))(t)
	host := must(c.Pinned(128))(t)
	e := must(c.NewEvent())(t)
	s := must(c.NewStream())(t)
	check(t, s.Await(e)) // never recorded: reached
	s.Zero(x, 64)
	s.CopyOut(host, 0, x, 64)
	s.Record(e)
	s.CopyOut(host, 64, x, 64)
	for i := range host.Bytes()[:64] {
		host.Bytes()[i] = 1
	}
	check(t, s.Await(e))
	if i := slices.Index(host.Bytes()[:64], 1); i >= 0 {
		t.Errorf("byte %d is not there", i)
	}
	f.Quiet()
	f.FailNth("cuEventSynchronize", 1, 700)
	if err := s.Await(e); err == nil || !strings.Contains(err.Error(), "Await: a kernel launched earlier failed") || s.Err() != err || s.Await(e) != err {
		t.Errorf("%v, then %v", err, s.Err())
	}
}

// TestOthers is what other libraries of CUDA need of a context and a stream.
func TestOthers(t *testing.T) {
	f := newFake(t)
	c := open(t)
	s := must(c.NewStream())(t)
	if s.Handle() == 0 || c.Device().Arch() != "sm_90a" {
		t.Errorf("stream %#x on %v", s.Handle(), c.Device())
	}
	failure := errors.New("of another library")
	if err := c.Do(func() error { return c.Do(func() error { return failure }) }); err != failure {
		t.Error(err)
	}
	f.FailNth("cuCtxSetCurrent", 1, 201)
	wants(t, c.Do(func() error { t.Error("Do calls its function"); return nil }), "cuCtxSetCurrent: ")
	if p := cuda.Ptr(1 << 40); p.At(256)-p != 256 {
		t.Error("At")
	}
	for d, want := range map[cuda.DType]string{0: "unset", cuda.BF16: "bf16", cuda.F16: "f16", cuda.F32: "f32", 9: "unset"} {
		if d.String() != want {
			t.Errorf("%d is %v", d, d)
		}
	}
	check(t, c.Upload(0, cuda.Bytes([]float32(nil))))
	check(t, c.Download(nil, 0))
	x := must(c.Alloc(16))(t)
	wants(t, c.Upload(x, make([]byte, 1<<20)), "copy of 1.0 MiB to 0x", "CUDA_ERROR_INVALID_VALUE")
	wants(t, c.Download(make([]byte, 1<<20), x), "copy of 1.0 MiB from 0x", "CUDA_ERROR_INVALID_VALUE")
	a, b := must(c.NewEvent())(t), must(c.NewEvent())(t)
	check(t, a.Close())
	_, err := cuda.Elapsed(a, b)
	wants(t, err, "the event is closed")
}

// TestConcurrent uses one context from several goroutines, each with its stream.
func TestConcurrent(t *testing.T) {
	f := newFake(t)
	c := open(t)
	m := must(c.Load(image(t)))(t)
	var all sync.WaitGroup
	for worker := range 6 {
		all.Go(func() {
			err := func() error {
				scale, err := m.Kernel(scaleInfo)
				if err != nil {
					return err
				}
				s, err := c.NewStream()
				if err != nil {
					return err
				}
				x, err := c.Alloc(64)
				if err != nil {
					return err
				}
				host, err := c.Pinned(64)
				if err != nil {
					return err
				}
				want := float32(worker + 1)
				host.Float32s()[0] = want
				s.CopyIn(x, host, 0, 4)
				for range 20 {
					s.Launch(scale, 1, 1, 1, x, x, cuda.Float(-1), 1)
				}
				s.CopyOut(host, 8, x, 4)
				if err := s.Sync(); err != nil {
					return err
				}
				if got := host.Float32s()[2]; got != want {
					return fmt.Errorf("worker %d: %g", worker, got)
				}
				return errors.Join(c.Free(x), host.Free(), s.Close())
			}()
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	check(t, c.Close())
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

// BenchmarkLaunch measures what a launch costs in Go and purego; the fake driver does the rest.
func BenchmarkLaunch(b *testing.B) {
	newFake(b)
	c := open(b)
	m := must(c.Load(image(b)))(b)
	scale := must(m.Kernel(scaleInfo))(b)
	x := must(c.Alloc(1024))(b)
	s := must(c.NewStream())(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 1)
		if n%64 == 63 {
			check(b, s.Sync())
		}
	}
}
