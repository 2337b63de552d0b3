// Package cuda runs compiled kernels on NVIDIA GPUs: devices, memory, modules, streams and graphs of the CUDA driver API,
// and matrix products of cuBLASLt. Both libraries are opened at run time: without them, or without a GPU, Available and
// Open say why, and nothing else happens. There is no cgo.
//
// A program opens a Context, loads its Module, takes the Kernels by name, and puts launches on a Stream. A Stream keeps its
// first error and does nothing from then on, so that straight code needs one check, at Sync. What is put on a Stream inside
// Capture becomes a Graph, which Run replays in one call.
//
// Environment: TFC_LIBCUDA and TFC_LIBCUBLASLT name the libraries where the loader should not look for them; TFC_CACHE names
// the folder of MachineLock.
// CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER and CUDA_LAUNCH_BLOCKING work as everywhere.
package cuda

import (
	"bytes"
	"fmt"
	"unsafe"
)

// Device is a GPU as the driver shows it.
type Device struct {
	Index        int    // among the devices that the driver shows, which CUDA_VISIBLE_DEVICES chooses and orders
	Name         string // such as "NVIDIA H100 80GB HBM3"
	PCI          string // bus address such as "0000:3B:00.0", by which other tools know it; empty where unknown
	Major, Minor int    // compute capability
	Memory       uint64 // bytes
	SMs          int    // streaming multiprocessors
	L2           int    // bytes of the level 2 cache
	SharedMax    int    // bytes of shared memory that one block can have at most
}

// String returns the device as a person chooses and knows it, such as "cuda:0 (NVIDIA H100 80GB HBM3)".
func (d Device) String() string { return fmt.Sprintf("cuda:%d (%s)", d.Index, d.Name) }

// Arch returns the target to compile for: "sm_80", "sm_86", "sm_89", …, and "sm_90a" for compute capability 9.0, whose
// own instructions only that target has.
func (d Device) Arch() string {
	if d.Major == 9 && d.Minor == 0 {
		return "sm_90a"
	}
	return fmt.Sprintf("sm_%d%d", d.Major, d.Minor)
}

// Available returns nil where there is a driver and a device, and otherwise a sentence that says what is missing and what
// to do.
func Available() error {
	_, err := Devices()
	return err
}

// Devices lists the devices that the driver shows, at least one where there is no error.
func Devices() ([]Device, error) {
	drv, err := openDriver()
	if err != nil {
		return nil, err
	}
	var n int32
	if err := drv.do(&drv.deviceGetCount, uintptr(unsafe.Pointer(&n))); err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, errNoDevice()
	}
	devices := make([]Device, n)
	for i := range devices {
		if devices[i], _, err = drv.device(i); err != nil {
			return nil, fmt.Errorf("cuda:%d: %w", i, err)
		}
	}
	return devices, nil
}

// Attributes of devices (CUdevice_attribute).
const (
	attributeSMs       = 16
	attributeL2        = 38
	attributeMajor     = 75
	attributeMinor     = 76
	attributeSharedMax = 97
)

// device asks the driver about its i-th device. The handle is the driver's CUdevice.
func (drv *driver) device(i int) (d Device, handle int32, err error) {
	d.Index = i
	if err := drv.do(&drv.deviceGet, uintptr(unsafe.Pointer(&handle)), uintptr(i)); err != nil {
		return d, 0, err
	}
	var text [256]byte
	if err := drv.do(&drv.deviceGetName, uintptr(unsafe.Pointer(&text)), uintptr(len(text)), uintptr(handle)); err != nil {
		return d, 0, err
	}
	d.Name = untilZero(text[:])
	if err := drv.do(&drv.deviceTotalMem, uintptr(unsafe.Pointer(&d.Memory)), uintptr(handle)); err != nil {
		return d, 0, err
	}
	for _, a := range []struct {
		to        *int
		attribute uintptr
	}{
		{&d.Major, attributeMajor}, {&d.Minor, attributeMinor},
		{&d.SMs, attributeSMs}, {&d.L2, attributeL2}, {&d.SharedMax, attributeSharedMax},
	} {
		var v int32
		if err := drv.do(&drv.deviceGetAttribute, uintptr(unsafe.Pointer(&v)), a.attribute, uintptr(handle)); err != nil {
			return d, 0, err
		}
		*a.to = int(v)
	}
	if drv.deviceGetPCIBusID.address != 0 {
		clear(text[:])
		if drv.do(&drv.deviceGetPCIBusID, uintptr(unsafe.Pointer(&text)), uintptr(len(text)), uintptr(handle)) == nil {
			d.PCI = untilZero(text[:])
		}
	}
	return d, handle, nil
}

func untilZero(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}
