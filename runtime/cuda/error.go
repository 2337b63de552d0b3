package cuda

import (
	"errors"
	"fmt"
	"strings"
)

// Results of driver calls that are treated apart from others (CUresult in cuda.h).
const (
	codeInvalidValue          = 1
	codeOutOfMemory           = 2
	codeStubLibrary           = 34
	codeDeviceUnavailable     = 46
	codeNoDevice              = 100
	codeInvalidImage          = 200
	codeNoBinaryForGPU        = 209
	codeECCUncorrectable      = 214
	codeInvalidPTX            = 218
	codeNVLinkUncorrectable   = 220
	codeUnsupportedPTXVersion = 222
	codeInvalidSource         = 300
	codeNotFound              = 500
	codeIllegalAddress        = 700
	codeLaunchTimeout         = 702
	codeAssert                = 710
	codeHardwareStackError    = 714
	codeIllegalInstruction    = 715
	codeMisalignedAddress     = 716
	codeInvalidAddressSpace   = 717
	codeInvalidPC             = 718
	codeLaunchFailed          = 719
	codeSystemNotReady        = 802
	codeDriverMismatch        = 803
	codeCompatNotSupported    = 804
	codeUnknown               = 999
)

// Error is a call of the CUDA driver or of cuBLASLt that failed.
type Error struct {
	Call string // the C function
	Code int    // what it returned
	Name string // of the code, such as CUDA_ERROR_INVALID_VALUE; empty where the library does not know it
	Text string // the library's words for it

	cublas bool // Code is a cublasStatus_t, not a CUresult
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Call)
	b.WriteString(": ")
	if e.Name != "" {
		b.WriteString(e.Name)
	} else {
		fmt.Fprintf(&b, "error %d", e.Code)
	}
	if e.Text != "" {
		b.WriteString(": ")
		b.WriteString(e.Text)
	}
	if hint := hints[e.Code]; hint != "" && !e.cublas {
		b.WriteString("; ")
		b.WriteString(hint)
	}
	return b.String()
}

// hints say what to do about errors whose own text does not.
var hints = map[int]string{
	codeStubLibrary:           "this libcuda is the toolkit's stub: name the driver's libcuda.so.1 in TFC_LIBCUDA",
	codeDeviceUnavailable:     "another process holds the device for itself (nvidia-smi -q -d COMPUTE shows the mode)",
	codeECCUncorrectable:      "the device's memory is faulty: reset the device, and replace it if that comes again",
	codeNVLinkUncorrectable:   "the link between devices is faulty: reset them, and have them looked at if that comes again",
	codeUnsupportedPTXVersion: "the code was compiled by a newer CUDA than the driver supports: update the driver",
	codeSystemNotReady:        "the machine's nvidia-fabricmanager service does not run, or not yet",
	codeDriverMismatch:        "libcuda and the kernel's nvidia module differ in version: reboot after a driver update",
	codeCompatNotSupported:    "a forward-compatibility libcuda that this device does not support comes first in the loader's path",
	codeUnknown:               "the kernel's log (dmesg) may say more",
}

// isCode reports whether err is a call of the driver that returned code.
func isCode(err error, code int) bool {
	var e *Error
	return errors.As(err, &e) && !e.cublas && e.Code == code
}

// Fault reports whether err is a fault of the device, such as a kernel's access to memory that is not there. After a
// fault every further call fails, in all contexts of the process on that device: the process has to end.
func Fault(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.cublas {
		return false
	}
	switch e.Code {
	case codeECCUncorrectable, codeNVLinkUncorrectable, codeIllegalAddress, codeLaunchTimeout, codeAssert, codeHardwareStackError,
		codeIllegalInstruction, codeMisalignedAddress, codeInvalidAddressSpace, codeInvalidPC, codeLaunchFailed:
		return true
	}
	return false
}

// OutOfMemoryError is device memory asked for and not there.
type OutOfMemoryError struct {
	Device Device
	What   string // what it was for; empty where only the size is known
	Asked  uint64 // bytes
	Free   uint64 // bytes free on the device when it was asked for
	Total  uint64 // bytes of the device
}

func (e *OutOfMemoryError) Error() string {
	what := e.What
	if what == "" {
		what = "an allocation"
	}
	return fmt.Sprintf("out of memory on %s: %s needs %s, and %s of %s are free; end other programs on the device "+
		"(nvidia-smi lists them), or ask for less: a smaller batch or context, or `checkpointing: auto(...)` in the spec",
		e.Device, what, size(e.Asked), size(e.Free), size(e.Total))
}

// size prints bytes for people.
func size(bytes uint64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", bytes)
}
