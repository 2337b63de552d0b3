//go:build linux && (amd64 || arm64)

package cudatest

import (
	"embed"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Results of the driver.
const (
	invalidValue   = 1
	outOfMemory    = 2
	invalidHandle  = 400
	illegalState   = 401
	notReady       = 600
	illegalAddress = 700
	misaligned     = 716
	launchFailed   = 719
)

// api calls the fakes directly.
type api struct {
	t testing.TB
	*Fake
	cuda, blas uintptr // libraries
	module     uintptr
	scratch    uintptr // 16 bytes, for tests that want them
}

// open makes a context current on the test's thread, which stays its own.
func open(t testing.TB) *api {
	t.Helper()
	f := New(t)
	a := &api{t: t, Fake: f}
	var err error
	if a.cuda, err = purego.Dlopen(f.CUDA, purego.RTLD_NOW|purego.RTLD_GLOBAL); err != nil {
		t.Fatal(err)
	}
	if a.blas, err = purego.Dlopen(f.BLASLt, purego.RTLD_NOW|purego.RTLD_GLOBAL); err != nil {
		t.Fatal(err)
	}
	lockThread(t)
	a.must("cuInit", 0)
	a.makeCurrent()
	return a
}

// lockThread keeps the test on its OS thread, whose context is current.
func lockThread(t testing.TB) {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

// makeCurrent retains the context and makes it current, as after a Reset.
func (a *api) makeCurrent() {
	var context uintptr
	a.must("cuDevicePrimaryCtxRetain", addr(&context), 0)
	a.must("cuCtxSetCurrent", context)
}

// addr is the address of a variable for C. The calls keep what they got in args alive, on the heap.
func addr[T any](p *T) uintptr {
	pinned.Store(uintptr(unsafe.Pointer(p)), p)
	return uintptr(unsafe.Pointer(p))
}

var pinned sync.Map // addresses that C has seen, for the life of the test binary

func (a *api) call(name string, args ...uintptr) int {
	a.t.Helper()
	library := a.cuda
	if strings.HasPrefix(name, "cublas") {
		library = a.blas
	}
	f, err := purego.Dlsym(library, name)
	if err != nil {
		a.t.Fatal(err)
	}
	r, _, _ := purego.SyscallN(f, args...)
	return int(int32(r))
}

func (a *api) must(name string, args ...uintptr) {
	a.t.Helper()
	a.want(0, name, args...)
}

func (a *api) want(result int, name string, args ...uintptr) {
	a.t.Helper()
	if r := a.call(name, args...); r != result {
		a.t.Fatalf("%s returned %d, not %d; faults: %q", name, r, result, a.Faults())
	}
}

func (a *api) alloc(bytes int) uintptr {
	a.t.Helper()
	p := new(uintptr)
	a.must("cuMemAlloc_v2", addr(p), uintptr(bytes))
	return *p
}

func (a *api) stream() uintptr {
	a.t.Helper()
	s := new(uintptr)
	a.must("cuStreamCreate", addr(s), 1)
	return *s
}

func (a *api) event() uintptr {
	a.t.Helper()
	e := new(uintptr)
	a.must("cuEventCreate", addr(e), 0)
	return *e
}

// upload puts values into new device memory.
func upload[T any](a *api, values []T) uintptr {
	a.t.Helper()
	bytes := len(values) * int(unsafe.Sizeof(values[0]))
	p := a.alloc(bytes)
	a.must("cuMemcpyHtoD_v2", p, addr(&values[0]), uintptr(bytes))
	return p
}

// download waits for everything and reads device memory.
func download[T any](a *api, p uintptr, n int) []T {
	a.t.Helper()
	a.must("cuCtxSynchronize")
	values := make([]T, n)
	a.must("cuMemcpyDtoH_v2", addr(&values[0]), p, uintptr(n)*unsafe.Sizeof(values[0]))
	return values
}

//go:embed testdata/*.cu
var testdata embed.FS

// load compiles a file of testdata and makes it the module that run launches from. before is put in front of it.
func (a *api) load(file, before string) {
	a.t.Helper()
	text, err := testdata.ReadFile("testdata/" + file)
	if err != nil {
		a.t.Fatal(err)
	}
	device, err := os.ReadFile("../../../codegen/cuda/kernels/device.cuh")
	if err != nil {
		a.t.Fatal(err)
	}
	image := Kernels(a.t, map[string][]byte{file: append([]byte(before), text...), "device.cuh": device})
	m := new(uintptr)
	a.must("cuModuleLoadData", addr(m), addr(&image[0]))
	a.module = *m
}

func (a *api) function(name string) uintptr {
	a.t.Helper()
	f := new(uintptr)
	text := append([]byte(name), 0)
	a.must("cuModuleGetFunction", addr(f), a.module, addr(&text[0]))
	return *f
}

// shape is a launch's grid and block.
type shape struct {
	grid, block [3]int
	shared      int
	stream      uintptr
}

func oneBlock(threads int) shape { return shape{grid: [3]int{1, 1, 1}, block: [3]int{threads, 1, 1}} }

func blocks(n, threads int) shape { return shape{grid: [3]int{n, 1, 1}, block: [3]int{threads, 1, 1}} }

// launch starts a kernel and returns the result. An argument is a uintptr, an int or a float32.
func (a *api) launch(name string, s shape, args ...any) int {
	a.t.Helper()
	values := make([]uint64, len(args)+1)
	pointers := make([]uintptr, len(args)+1)
	for i, x := range args {
		switch x := x.(type) {
		case uintptr:
			values[i] = uint64(x)
		case int:
			values[i] = uint64(x)
		case uint32:
			values[i] = uint64(x)
		case float32:
			values[i] = uint64(math.Float32bits(x))
		default:
			a.t.Fatalf("argument %T", x)
		}
		pointers[i] = addr(&values[i])
	}
	return a.call("cuLaunchKernel", a.function(name), uintptr(s.grid[0]), uintptr(s.grid[1]), uintptr(s.grid[2]),
		uintptr(s.block[0]), uintptr(s.block[1]), uintptr(s.block[2]), uintptr(s.shared), s.stream, addr(&pointers[0]), 0)
}

// run starts a kernel that has to start.
func (a *api) run(name string, s shape, args ...any) {
	a.t.Helper()
	if r := a.launch(name, s, args...); r != 0 {
		a.t.Fatalf("launch of %s returned %d", name, r)
	}
}

func equal[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s is\n%v\nnot\n%v", what, got, want)
	}
}

func isNaN(x float32) bool { return x != x }
