package cuda

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// minVersion is the oldest CUDA that the driver must support, as cuDriverGetVersion counts: 1000*major + 10*minor.
const minVersion = 12000

// driver is the CUDA driver API, libcuda. The functions are named as in cuda.h, less cu and the version at the end; the
// table says which version it is. The signatures are those of CUDA 12 and 13.
type driver struct {
	library *library
	version int // of the newest CUDA that it supports, 1000*major + 10*minor

	init, driverGetVersion, getErrorName, getErrorString cfunc

	deviceGetCount, deviceGet, deviceGetName, deviceGetAttribute, deviceTotalMem, deviceGetPCIBusID cfunc

	primaryCtxRetain, primaryCtxRelease, ctxSetCurrent, ctxSynchronize cfunc

	memGetInfo, memAlloc, memFree, memHostAlloc, memFreeHost                                 cfunc
	memcpyHtoD, memcpyDtoH, memcpyHtoDAsync, memcpyDtoHAsync, memcpyDtoDAsync, memsetD8Async cfunc

	moduleLoadData, moduleUnload, moduleGetFunction      cfunc
	funcGetAttribute, funcSetAttribute, funcGetParamInfo cfunc
	launchKernel, launchKernelEx                         cfunc
	tensorMapEncodeTiled                                 cfunc

	streamCreate, streamDestroy, streamSynchronize, streamWaitEvent, streamBeginCapture, streamEndCapture cfunc
	eventCreate, eventDestroy, eventRecord, eventRecordWithFlags, eventSynchronize, eventElapsedTime      cfunc
	graphInstantiate, graphUpload, graphLaunch, graphExecDestroy, graphDestroy                            cfunc
}

// basics are what every driver has, however old.
func (d *driver) basics() []symbol {
	return []symbol{
		{to: &d.init, names: []string{"cuInit"}},
		{to: &d.driverGetVersion, names: []string{"cuDriverGetVersion"}},
		{to: &d.getErrorName, names: []string{"cuGetErrorName"}},
		{to: &d.getErrorString, names: []string{"cuGetErrorString"}},
	}
}

func (d *driver) functions() []symbol {
	return []symbol{
		{to: &d.deviceGetCount, names: []string{"cuDeviceGetCount"}},
		{to: &d.deviceGet, names: []string{"cuDeviceGet"}},
		{to: &d.deviceGetName, names: []string{"cuDeviceGetName"}},
		{to: &d.deviceGetAttribute, names: []string{"cuDeviceGetAttribute"}},
		{to: &d.deviceTotalMem, names: []string{"cuDeviceTotalMem_v2"}},
		{to: &d.deviceGetPCIBusID, names: []string{"cuDeviceGetPCIBusId"}, optional: true},
		{to: &d.primaryCtxRetain, names: []string{"cuDevicePrimaryCtxRetain"}},
		{to: &d.primaryCtxRelease, names: []string{"cuDevicePrimaryCtxRelease_v2"}},
		{to: &d.ctxSetCurrent, names: []string{"cuCtxSetCurrent"}},
		{to: &d.ctxSynchronize, names: []string{"cuCtxSynchronize"}},
		{to: &d.memGetInfo, names: []string{"cuMemGetInfo_v2"}},
		{to: &d.memAlloc, names: []string{"cuMemAlloc_v2"}},
		{to: &d.memFree, names: []string{"cuMemFree_v2"}},
		{to: &d.memHostAlloc, names: []string{"cuMemHostAlloc"}},
		{to: &d.memFreeHost, names: []string{"cuMemFreeHost"}},
		{to: &d.memcpyHtoD, names: []string{"cuMemcpyHtoD_v2"}},
		{to: &d.memcpyDtoH, names: []string{"cuMemcpyDtoH_v2"}},
		{to: &d.memcpyHtoDAsync, names: []string{"cuMemcpyHtoDAsync_v2"}},
		{to: &d.memcpyDtoHAsync, names: []string{"cuMemcpyDtoHAsync_v2"}},
		{to: &d.memcpyDtoDAsync, names: []string{"cuMemcpyDtoDAsync_v2"}},
		{to: &d.memsetD8Async, names: []string{"cuMemsetD8Async"}},
		{to: &d.moduleLoadData, names: []string{"cuModuleLoadData"}},
		{to: &d.moduleUnload, names: []string{"cuModuleUnload"}},
		{to: &d.moduleGetFunction, names: []string{"cuModuleGetFunction"}},
		{to: &d.funcGetAttribute, names: []string{"cuFuncGetAttribute"}},
		{to: &d.funcSetAttribute, names: []string{"cuFuncSetAttribute"}},
		{to: &d.funcGetParamInfo, names: []string{"cuFuncGetParamInfo"}, optional: true}, // since 12.4
		{to: &d.launchKernel, names: []string{"cuLaunchKernel"}},
		{to: &d.launchKernelEx, names: []string{"cuLaunchKernelEx"}},
		{to: &d.tensorMapEncodeTiled, names: []string{"cuTensorMapEncodeTiled"}, optional: true}, // where only cuBLASLt multiplies, nobody needs it
		{to: &d.streamCreate, names: []string{"cuStreamCreate"}},
		{to: &d.streamDestroy, names: []string{"cuStreamDestroy_v2"}},
		{to: &d.streamSynchronize, names: []string{"cuStreamSynchronize"}},
		{to: &d.streamWaitEvent, names: []string{"cuStreamWaitEvent"}},
		{to: &d.streamBeginCapture, names: []string{"cuStreamBeginCapture_v2"}},
		{to: &d.streamEndCapture, names: []string{"cuStreamEndCapture"}},
		{to: &d.eventCreate, names: []string{"cuEventCreate"}},
		{to: &d.eventDestroy, names: []string{"cuEventDestroy_v2"}},
		{to: &d.eventRecord, names: []string{"cuEventRecord"}},
		{to: &d.eventRecordWithFlags, names: []string{"cuEventRecordWithFlags"}},
		{to: &d.eventSynchronize, names: []string{"cuEventSynchronize"}},
		// The second version came with CUDA 12.8 and has the same signature.
		{to: &d.eventElapsedTime, names: []string{"cuEventElapsedTime_v2", "cuEventElapsedTime"}},
		{to: &d.graphInstantiate, names: []string{"cuGraphInstantiateWithFlags"}},
		{to: &d.graphUpload, names: []string{"cuGraphUpload"}},
		{to: &d.graphLaunch, names: []string{"cuGraphLaunch"}},
		{to: &d.graphExecDestroy, names: []string{"cuGraphExecDestroy"}},
		{to: &d.graphDestroy, names: []string{"cuGraphDestroy"}},
	}
}

// loaded is the driver of the process, once it could be loaded.
var loaded struct {
	sync.Mutex
	path   string
	driver *driver
}

// openDriver returns the driver. A failure is not remembered: the next call tries again.
func openDriver() (*driver, error) {
	path := os.Getenv("TFC_LIBCUDA")
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.driver != nil && loaded.path == path {
		return loaded.driver, nil
	}
	d, err := loadDriver(path)
	if err != nil {
		return nil, err
	}
	loaded.path, loaded.driver = path, d
	return d, nil
}

// loadDriver opens the library at path, or where path is empty libcuda.so.1 wherever the loader finds it.
func loadDriver(path string) (*driver, error) {
	name := path
	if name == "" {
		name = "libcuda.so.1"
	}
	l, err := openLibrary(name)
	if err != nil {
		if path != "" {
			return nil, fmt.Errorf("the CUDA driver cannot be loaded from TFC_LIBCUDA: %w", err)
		}
		return nil, fmt.Errorf("no NVIDIA driver: %w; install one for CUDA %s or later (in a container, pass the GPUs on), "+
			"or name its libcuda.so.1 in TFC_LIBCUDA", err, versionText(minVersion))
	}
	d := &driver{library: l}
	if err := l.resolve(d.basics()); err != nil {
		return nil, fmt.Errorf("%w: it is not the library of an NVIDIA driver", err)
	}
	var version int32
	if err := d.do(&d.driverGetVersion, uintptr(unsafe.Pointer(&version))); err != nil {
		return nil, err
	}
	d.version = int(version)
	if d.version < minVersion {
		return nil, fmt.Errorf("the NVIDIA driver supports CUDA %s, tfc needs %s or later: update the driver",
			versionText(d.version), versionText(minVersion))
	}
	if err := l.resolve(d.functions()); err != nil {
		return nil, fmt.Errorf("%w, though the driver supports CUDA %s: reinstall or update the driver", err, versionText(d.version))
	}
	if err := d.do(&d.init, 0); err != nil {
		if isCode(err, codeNoDevice) {
			return nil, errNoDevice()
		}
		return nil, err
	}
	return d, nil
}

// errNoDevice says that there is no device, and who may be to blame.
func errNoDevice() error {
	if visible, set := os.LookupEnv("CUDA_VISIBLE_DEVICES"); set {
		return fmt.Errorf("no CUDA device: CUDA_VISIBLE_DEVICES=%q hides every one of this machine; unset it, or list "+
			"those to use, such as CUDA_VISIBLE_DEVICES=0", visible)
	}
	return errors.New("no CUDA device: the driver is there but finds none; nvidia-smi says more, and a container must be " +
		"started with its GPUs")
}

// visibleNote ends a sentence about devices missing where CUDA_VISIBLE_DEVICES may be why.
func visibleNote() string {
	if visible, set := os.LookupEnv("CUDA_VISIBLE_DEVICES"); set {
		return fmt.Sprintf(" (CUDA_VISIBLE_DEVICES=%q)", visible)
	}
	return ""
}

func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// do calls a function of the driver; an error is an *Error. As for cfunc.call, addresses of Go variables must be
// converted in the call itself.
//
//go:uintptrescapes
func (d *driver) do(f *cfunc, args ...uintptr) error {
	return d.check(f, int32(f.call(args...)))
}

// check turns what f returned into an error.
func (d *driver) check(f *cfunc, code int32) error {
	if code == 0 {
		return nil
	}
	e := &Error{Call: f.name, Code: int(code)}
	var text *byte
	if d.getErrorName.call(uintptr(code), uintptr(unsafe.Pointer(&text))) == 0 {
		e.Name = cString(text)
	}
	if d.getErrorString.call(uintptr(code), uintptr(unsafe.Pointer(&text))) == 0 {
		e.Text = cString(text)
	}
	return e
}
