package cuda

import (
	"fmt"
	"unsafe"
)

// Module is the compiled code of a package on a device. It is safe for use by several goroutines at once, except Close.
type Module struct {
	ctx    *Context
	handle uintptr
	image  []byte // the driver may load functions from it later
	closed bool
}

// Load loads a fatbin. Where it has no code for the device, or the driver cannot load what it has, errors.Is(err, ErrNoCode)
// holds, and the error names the command that makes some.
func (c *Context) Load(fatbin []byte) (*Module, error) {
	if len(fatbin) == 0 {
		return nil, fmt.Errorf("this package has no CUDA code: it was built without nvcc; install CUDA's compiler and run `tfc build`")
	}
	// The copy is aligned as the driver reads it, ends in zeros as PTX must, and stays.
	m := &Module{ctx: c, image: append(make([]byte, 0, len(fatbin)+8), fatbin...)[:len(fatbin)+8]}
	err := c.do(&c.drv.moduleLoadData, uintptr(unsafe.Pointer(&m.handle)), uintptr(unsafe.Pointer(&m.image[0])))
	if err != nil {
		return nil, c.loadError(err, fatbin)
	}
	c.add(m)
	return m, nil
}

// loadError explains why the driver took no code of an image.
func (c *Context) loadError(err error, fatbin []byte) error {
	for _, code := range []int{codeNoBinaryForGPU, codeInvalidImage, codeInvalidPTX, codeUnsupportedPTXVersion, codeInvalidSource} {
		if !isCode(err, code) {
			continue
		}
		archs, _ := Archs(fatbin)
		if len(archs) == 0 || c.device.Runs(fatbin) != nil {
			return &NoCodeError{Device: c.device, Archs: archs, Err: err}
		}
		return &refusedError{fmt.Errorf("the driver of %s, for CUDA %s, refuses the code of this package, which a newer CUDA may have "+
			"compiled: %w; update the driver, or run `tfc build` with nvcc %s or earlier",
			c.device, versionText(c.drv.version), err, versionText(c.drv.version))}
	}
	return fmt.Errorf("this package's code cannot be loaded on %s: %w", c.device, earlier(err))
}

// refusedError is an ErrNoCode where there is code, but none that this driver takes.
type refusedError struct{ error }

func (e *refusedError) Is(target error) bool { return target == ErrNoCode }
func (e *refusedError) Unwrap() error        { return e.error }

// Close unloads the code. Work that uses it must be done. A second Close does nothing.
func (m *Module) Close() error { return m.ctx.discard(m) }

func (m *Module) release() error {
	m.closed = true
	return m.ctx.do(&m.ctx.drv.moduleUnload, m.handle)
}

// KernelInfo describes an entry of a module.
type KernelInfo struct {
	Entry   string // the extern "C" function
	Threads int    // of a block, in one dimension
	Shared  int    // bytes of dynamic shared memory of a block
	Waits   bool   // it waits for what is before it on the stream by itself (griddepcontrol.wait), and so may be started while that runs
	About   string // op and place in the spec, for errors
}

func (k *KernelInfo) String() string {
	if k.About == "" {
		return k.Entry
	}
	return k.Entry + " (" + k.About + ")"
}

// Kernel is an entry ready to be launched, for as long as its Module is open.
type Kernel struct {
	module *Module
	handle uintptr
	info   *KernelInfo
	params int // of the function; -1 where the driver does not tell
}

// Attributes of functions (CUfunction_attribute).
const (
	functionMaxThreads    = 0
	functionStaticShared  = 1
	functionDynamicShared = 8
)

// sharedByDefault is the most shared memory of a block that a function has without asking.
const sharedByDefault = 48 << 10

// Kernel finds an entry and prepares it: more shared memory than 48 KiB is asked for here.
func (m *Module) Kernel(info KernelInfo) (Kernel, error) {
	if m.closed {
		return Kernel{}, fmt.Errorf("kernel %s: its module is closed", &info)
	}
	c := m.ctx
	k := Kernel{module: m, info: &info, params: -1}
	name := cBytes(info.Entry)
	if err := c.do(&c.drv.moduleGetFunction, uintptr(unsafe.Pointer(&k.handle)), m.handle, uintptr(unsafe.Pointer(&name[0]))); err != nil {
		switch {
		case isCode(err, codeNotFound):
			return Kernel{}, fmt.Errorf("kernel %s is not in this package's CUDA code: %w; Go and CUDA code are not of one build, "+
				"run `tfc build`", &info, err)
		case isCode(err, codeNoBinaryForGPU):
			return Kernel{}, c.loadError(err, m.image)
		}
		return Kernel{}, fmt.Errorf("kernel %s: %w", &info, earlier(err))
	}
	most, err := k.attribute(functionMaxThreads)
	if err != nil {
		return Kernel{}, err
	}
	if info.Threads < 1 || info.Threads > most {
		return Kernel{}, fmt.Errorf("kernel %s: %d threads a block, it can have 1 to %d", &info, info.Threads, most)
	}
	if err := k.askForShared(); err != nil {
		return Kernel{}, err
	}
	k.countParams()
	return k, nil
}

func (k *Kernel) attribute(which uintptr) (int, error) {
	drv := k.module.ctx.drv
	var v int32
	if err := k.module.ctx.do(&drv.funcGetAttribute, uintptr(unsafe.Pointer(&v)), which, k.handle); err != nil {
		return 0, fmt.Errorf("kernel %s: %w", k.info, earlier(err))
	}
	return int(v), nil
}

func (k *Kernel) askForShared() error {
	if k.info.Shared == 0 {
		return nil
	}
	c := k.module.ctx
	static, err := k.attribute(functionStaticShared)
	if err != nil {
		return err
	}
	if sum := static + k.info.Shared; k.info.Shared < 0 || sum > c.device.SharedMax {
		return fmt.Errorf("kernel %s: %d bytes of shared memory a block (%d static, %d dynamic), %s has %d", k.info,
			sum, static, k.info.Shared, c.device, c.device.SharedMax)
	} else if sum <= sharedByDefault {
		return nil
	}
	if err := c.do(&c.drv.funcSetAttribute, k.handle, functionDynamicShared, uintptr(k.info.Shared)); err != nil {
		return fmt.Errorf("kernel %s: %d bytes of shared memory: %w", k.info, k.info.Shared, earlier(err))
	}
	return nil
}

// countParams asks the driver for the number of parameters, so that a launch with other arguments is an error and not
// garbage in the kernel: Go and CUDA code may be of two builds. The number is where the driver says invalid value, which
// compute-sanitizer reports unless it is run with --report-api-errors no.
func (k *Kernel) countParams() {
	c := k.module.ctx
	f := &c.drv.funcGetParamInfo
	if f.address == 0 {
		return
	}
	for n := 0; n <= maxArgs; n++ {
		var offset, bytes uint64
		err := c.do(f, k.handle, uintptr(n), uintptr(unsafe.Pointer(&offset)), uintptr(unsafe.Pointer(&bytes)))
		if err != nil {
			if isCode(err, codeInvalidValue) { // there is no parameter n
				k.params = n
			}
			return
		}
	}
}
