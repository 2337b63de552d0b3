//go:build linux && cgo && nvml

package nvml

import (
	"errors"
	"fmt"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Library is an initialised NVML. Only Open makes one that works: a call to NVML before its Init, or after Close, would end
// the process. It may be used by several goroutines.
type Library struct {
	mu  sync.Mutex
	api nvml.Interface // nil before Open and after Close
	has func(symbol string) bool
}

var errClosed = errors.New("NVML is closed")

// opening guards go-nvml's table of functions, which every Init fills anew.
var opening sync.Mutex

// Open loads the driver's library and initialises it. Where that cannot be, the error wraps ErrUnavailable.
func Open() (*Library, error) { return open(nvml.New()) }

func open(api nvml.Interface) (*Library, error) {
	opening.Lock()
	defer opening.Unlock()
	switch ret := api.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		return nil, fmt.Errorf("%w: its library, libnvidia-ml.so.1, is not there; a machine with an NVIDIA GPU needs NVIDIA's driver, "+
			"and a container must be given it (--gpus all)", ErrUnavailable)
	case nvml.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("%w: its library is there, but the kernel module is not loaded (modprobe nvidia), or this container "+
			"was given no GPU (--gpus all)", ErrUnavailable)
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		return nil, fmt.Errorf("%w: its library and the kernel module are of different versions; restart the machine", ErrUnavailable)
	case nvml.ERROR_NO_PERMISSION:
		return nil, fmt.Errorf("%w: this user may not ask it; look at the permissions of /dev/nvidia*", ErrUnavailable)
	default:
		return nil, fmt.Errorf("%w: nvmlInit: %s", ErrUnavailable, describe(ret))
	}
	extensions := api.Extensions()
	return &Library{api: api, has: func(symbol string) bool { return extensions.LookupSymbol(symbol) == nil }}, nil
}

func describe(ret nvml.Return) string { return fmt.Sprintf("%v (%d)", ret, int(ret)) }

// Close lets go of the driver's library. Later calls of other methods are errors.
func (l *Library) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api == nil {
		return nil
	}
	opening.Lock()
	defer opening.Unlock()
	ret := l.api.Shutdown()
	l.api = nil
	if ret != nvml.SUCCESS {
		return fmt.Errorf("nvmlShutdown: %s", describe(ret))
	}
	return nil
}

// System returns the driver's versions.
func (l *Library) System() (System, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api == nil {
		return System{}, errClosed
	}
	var s System
	if v := ask(l, "nvmlSystemGetDriverVersion", l.api.SystemGetDriverVersion); v != nil {
		s.Driver = *v
	}
	if v := ask(l, "nvmlSystemGetNVMLVersion", l.api.SystemGetNVMLVersion); v != nil {
		s.NVML = *v
	}
	cuda := ask(l, "nvmlSystemGetCudaDriverVersion_v2", l.api.SystemGetCudaDriverVersion_v2)
	if cuda == nil {
		cuda = ask(l, "nvmlSystemGetCudaDriverVersion", l.api.SystemGetCudaDriverVersion)
	}
	if cuda != nil {
		s.CUDA = fmt.Sprintf("%d.%d", *cuda/1000, *cuda%1000/10)
	}
	return s, nil
}

// Devices asks all GPUs for all that they tell. It takes some milliseconds a GPU.
func (l *Library) Devices() ([]Device, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api == nil {
		return nil, errClosed
	}
	n, ret := l.api.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("nvmlDeviceGetCount: %s", describe(ret))
	}
	devices := make([]Device, n)
	for i := range devices {
		devices[i].Index = i
		d, ret := l.api.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			devices[i].Error = "nvmlDeviceGetHandleByIndex: " + describe(ret)
			continue
		}
		l.identify(&devices[i], d)
		l.measure(&devices[i], d)
	}
	return devices, nil
}

// At asks the GPU at a PCI bus id, as CUDA writes it: CUDA's ordinals depend on CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER,
// NVML's indexes do not. Of a MIG instance it is the whole GPU.
func (l *Library) At(busID string) (Device, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.api == nil {
		return Device{}, errClosed
	}
	if !l.has("nvmlDeviceGetHandleByPciBusId_v2") {
		return Device{}, errors.New("the driver's NVML does not find a GPU by its PCI bus: it is too old")
	}
	d, ret := l.api.DeviceGetHandleByPciBusId(busID)
	if ret != nvml.SUCCESS {
		return Device{}, fmt.Errorf("nvmlDeviceGetHandleByPciBusId %s: %s", busID, describe(ret))
	}
	var to Device
	if v := ask(l, "nvmlDeviceGetIndex", d.GetIndex); v != nil {
		to.Index = *v
	}
	l.identify(&to, d)
	l.measure(&to, d)
	return to, nil
}

// identify fills in what a GPU is.
func (l *Library) identify(to *Device, d nvml.Device) {
	if v := ask(l, "nvmlDeviceGetName", d.GetName); v != nil {
		to.Name = *v
	}
	if v := ask(l, "nvmlDeviceGetUUID", d.GetUUID); v != nil {
		to.UUID = *v
	}
	if v := ask(l, "nvmlDeviceGetPciInfo_v3", d.GetPciInfo); v != nil {
		to.BusID = fmt.Sprintf("%04x:%02x:%02x.0", v.Domain, v.Bus, v.Device) // a GPU is function 0
	}
	if v := ask(l, "nvmlDeviceGetCudaComputeCapability", func() (string, nvml.Return) {
		major, minor, ret := d.GetCudaComputeCapability()
		return fmt.Sprintf("%d.%d", major, minor), ret
	}); v != nil {
		to.Capability = *v
	}
	to.ECC = ask(l, "nvmlDeviceGetEccMode", func() (bool, nvml.Return) {
		now, _, ret := d.GetEccMode()
		return now == nvml.FEATURE_ENABLED, ret
	})
	to.MIG = ask(l, "nvmlDeviceGetMigMode", func() (bool, nvml.Return) {
		now, _, ret := d.GetMigMode()
		return now == nvml.DEVICE_MIG_ENABLE, ret
	})
}

// measure fills in what changes.
func (l *Library) measure(to *Device, d nvml.Device) {
	if v := ask(l, "nvmlDeviceGetMemoryInfo", d.GetMemoryInfo); v != nil {
		to.MemoryTotal, to.MemoryUsed = &v.Total, &v.Used
	}
	clock := func(symbol string, get func(nvml.ClockType) (uint32, nvml.Return), which nvml.ClockType) *int {
		return ask(l, symbol, func() (int, nvml.Return) {
			mhz, ret := get(which)
			return int(mhz), ret
		})
	}
	to.SMClock = clock("nvmlDeviceGetClockInfo", d.GetClockInfo, nvml.CLOCK_SM)
	to.MemoryClock = clock("nvmlDeviceGetClockInfo", d.GetClockInfo, nvml.CLOCK_MEM)
	to.SMClockMax = clock("nvmlDeviceGetMaxClockInfo", d.GetMaxClockInfo, nvml.CLOCK_SM)
	to.MemoryClockMax = clock("nvmlDeviceGetMaxClockInfo", d.GetMaxClockInfo, nvml.CLOCK_MEM)

	reasons := ask(l, "nvmlDeviceGetCurrentClocksEventReasons", d.GetCurrentClocksEventReasons)
	if reasons == nil { // drivers before 535 know it by another name
		reasons = ask(l, "nvmlDeviceGetCurrentClocksThrottleReasons", d.GetCurrentClocksThrottleReasons)
	}
	if reasons != nil {
		to.Throttle = throttleWords(*reasons)
	}
	watts := func(symbol string, get func() (uint32, nvml.Return)) *float64 {
		return ask(l, symbol, func() (float64, nvml.Return) {
			milliwatts, ret := get()
			return float64(milliwatts) / 1000, ret
		})
	}
	to.Power = watts("nvmlDeviceGetPowerUsage", d.GetPowerUsage)
	to.PowerLimit = watts("nvmlDeviceGetEnforcedPowerLimit", d.GetEnforcedPowerLimit)
	to.Temperature = ask(l, "nvmlDeviceGetTemperature", func() (int, nvml.Return) {
		celsius, ret := d.GetTemperature(nvml.TEMPERATURE_GPU)
		return int(celsius), ret
	})
	if v := ask(l, "nvmlDeviceGetUtilizationRates", d.GetUtilizationRates); v != nil {
		gpu, memory := int(v.Gpu), int(v.Memory)
		to.Utilization, to.MemoryUtilization = &gpu, &memory
	}
	if to.ECC != nil && *to.ECC {
		errors := func(since nvml.EccCounterType) *uint64 {
			return ask(l, "nvmlDeviceGetTotalEccErrors", func() (uint64, nvml.Return) {
				return d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, since)
			})
		}
		to.Uncorrected, to.UncorrectedEver = errors(nvml.VOLATILE_ECC), errors(nvml.AGGREGATE_ECC)
	}
}

// ask calls a function of NVML, unless the driver's library lacks its symbol, which would end the process. It returns nil where
// there is no answer.
func ask[T any](l *Library, symbol string, get func() (T, nvml.Return)) *T {
	if !l.has(symbol) {
		return nil
	}
	v, ret := get()
	if ret != nvml.SUCCESS {
		return nil
	}
	return &v
}
