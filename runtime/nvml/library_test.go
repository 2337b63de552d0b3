//go:build linux && cgo && nvml

package nvml

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/google/go-cmp/cmp"
)

// symbols is a driver's library with some of its functions missing.
type symbols struct {
	mock.ExtendedInterface
	missing string
}

func (s *symbols) LookupSymbol(name string) error {
	if s.missing == name {
		return errors.New("undefined symbol: " + name)
	}
	return nil
}

// driver is a machine with these GPUs.
func driver(missing string, devices ...nvml.Device) *mock.Interface {
	return &mock.Interface{
		InitFunc:                          func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:                      func() nvml.Return { return nvml.SUCCESS },
		ExtensionsFunc:                    func() nvml.ExtendedInterface { return &symbols{missing: missing} },
		SystemGetDriverVersionFunc:        func() (string, nvml.Return) { return "580.65.06", nvml.SUCCESS },
		SystemGetNVMLVersionFunc:          func() (string, nvml.Return) { return "13.580.65.06", nvml.SUCCESS },
		SystemGetCudaDriverVersion_v2Func: func() (int, nvml.Return) { return 12090, nvml.SUCCESS },
		SystemGetCudaDriverVersionFunc:    func() (int, nvml.Return) { return 11080, nvml.SUCCESS },
		DeviceGetCountFunc:                func() (int, nvml.Return) { return len(devices), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if devices[i] == nil {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return devices[i], nvml.SUCCESS
		},
		DeviceGetHandleByPciBusIdFunc: func(bus string) (nvml.Device, nvml.Return) {
			if bus != "0000:65:00.0" {
				return nil, nvml.ERROR_NOT_FOUND
			}
			return devices[0], nvml.SUCCESS
		},
	}
}

// h100 answers everything; answer is what each call returns beside its value.
func h100(answer nvml.Return) *mock.Device {
	return &mock.Device{
		GetIndexFunc:                 func() (int, nvml.Return) { return 3, answer },
		GetNameFunc:                  func() (string, nvml.Return) { return "NVIDIA H100 80GB HBM3", answer },
		GetUUIDFunc:                  func() (string, nvml.Return) { return "GPU-1", answer },
		GetPciInfoFunc:               func() (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{Bus: 0x65}, answer },
		GetCudaComputeCapabilityFunc: func() (int, int, nvml.Return) { return 9, 0, answer },
		GetEccModeFunc:               func() (nvml.EnableState, nvml.EnableState, nvml.Return) { return nvml.FEATURE_ENABLED, 0, answer },
		GetMigModeFunc:               func() (int, int, nvml.Return) { return 0, 0, answer },
		GetMemoryInfoFunc:            func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 80 << 30, Used: 1 << 30}, answer },
		GetClockInfoFunc:             func(c nvml.ClockType) (uint32, nvml.Return) { return 1000 + uint32(c), answer },
		GetMaxClockInfoFunc:          func(c nvml.ClockType) (uint32, nvml.Return) { return 2000 + uint32(c), answer },
		GetCurrentClocksEventReasonsFunc: func() (uint64, nvml.Return) {
			return nvml.ClocksEventReasonSwPowerCap | nvml.ClocksEventReasonSwThermalSlowdown, answer
		},
		GetCurrentClocksThrottleReasonsFunc: func() (uint64, nvml.Return) { return nvml.ClocksEventReasonGpuIdle, answer },
		GetPowerUsageFunc:                   func() (uint32, nvml.Return) { return 123456, answer },
		GetEnforcedPowerLimitFunc:           func() (uint32, nvml.Return) { return 700000, answer },
		GetTemperatureFunc:                  func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 32, answer },
		GetUtilizationRatesFunc:             func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 0, Memory: 7}, answer },
		GetTotalEccErrorsFunc: func(kind nvml.MemoryErrorType, since nvml.EccCounterType) (uint64, nvml.Return) {
			return 10*uint64(kind) + uint64(since), answer
		},
	}
}

func TestDevices(t *testing.T) {
	l, err := open(driver("", h100(nvml.SUCCESS), nil, h100(nvml.ERROR_NOT_SUPPORTED)))
	if err != nil {
		t.Fatal(err)
	}
	devices, err := l.Devices()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(devices, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `[
  {
    "index": 0,
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-1",
    "pci_bus_id": "0000:65:00.0",
    "compute_capability": "9.0",
    "memory_total": 85899345920,
    "memory_used": 1073741824,
    "sm_clock_mhz": 1001,
    "sm_clock_max_mhz": 2001,
    "memory_clock_mhz": 1002,
    "memory_clock_max_mhz": 2002,
    "throttle": [
      "power cap",
      "temperature"
    ],
    "power_watts": 123.456,
    "power_limit_watts": 700,
    "temperature_celsius": 32,
    "utilization_percent": 0,
    "memory_utilization_percent": 7,
    "ecc": true,
    "ecc_uncorrected": 10,
    "ecc_uncorrected_ever": 11,
    "mig": false
  },
  {
    "index": 1,
    "error": "nvmlDeviceGetHandleByIndex: ERROR_GPU_IS_LOST (15)"
  },
  {
    "index": 2
  }
]`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	system, err := l.System()
	if diff := cmp.Diff(System{Driver: "580.65.06", NVML: "13.580.65.06", CUDA: "12.9"}, system); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestAt(t *testing.T) {
	l, err := open(driver("", h100(nvml.SUCCESS)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.At("0000:65:00.0")
	if err != nil || d.Index != 3 || d.Name != "NVIDIA H100 80GB HBM3" || d.BusID != "0000:65:00.0" || *d.Power != 123.456 || *d.Uncorrected != 10 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := l.At("0000:66:00.0"); err == nil || err.Error() != "nvmlDeviceGetHandleByPciBusId 0000:66:00.0: ERROR_NOT_FOUND (6)" {
		t.Error(err)
	}
	if l, err = open(driver("nvmlDeviceGetHandleByPciBusId_v2", h100(nvml.SUCCESS))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.At("0000:65:00.0"); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Error(err)
	}
}

// A function that an older driver lacks is never called.
func TestMissingSymbols(t *testing.T) {
	old := h100(nvml.SUCCESS)
	old.GetCurrentClocksEventReasonsFunc = nil // a call would panic
	l, err := open(driver("nvmlDeviceGetCurrentClocksEventReasons", old))
	if err != nil {
		t.Fatal(err)
	}
	devices, err := l.Devices()
	if err != nil || cmp.Diff([]string{"idle"}, devices[0].Throttle) != "" {
		t.Errorf("%v %v", devices[0].Throttle, err)
	}
	if l, err = open(driver("nvmlSystemGetCudaDriverVersion_v2")); err != nil {
		t.Fatal(err)
	}
	if s, err := l.System(); err != nil || s.CUDA != "11.8" {
		t.Error(s, err)
	}
}

func TestOpenFails(t *testing.T) {
	for ret, says := range map[nvml.Return]string{
		nvml.ERROR_LIBRARY_NOT_FOUND:       "its library, libnvidia-ml.so.1, is not there",
		nvml.ERROR_DRIVER_NOT_LOADED:       "the kernel module is not loaded",
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: "different versions; restart the machine",
		nvml.ERROR_NO_PERMISSION:           "permissions of /dev/nvidia*",
		nvml.ERROR_UNKNOWN:                 "nvmlInit: ERROR_UNKNOWN (999)",
	} {
		l, err := open(&mock.Interface{InitFunc: func() nvml.Return { return ret }}) // any other call would panic
		if l != nil || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v %v", ret, l, err)
		}
	}
}

// Nothing is called of a library that is not open.
func TestClosed(t *testing.T) {
	api := driver("", h100(nvml.SUCCESS))
	opened, err := open(api)
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]*Library{"closed": opened, "never open": {}} {
		_, err := l.System()
		if _, at := l.At(""); at != errClosed {
			t.Errorf("%s: %v", name, at)
		}
		if _, other := l.Devices(); err != errClosed || other != errClosed || l.Close() != nil {
			t.Errorf("%s: %v %v", name, err, other)
		}
	}
	if n := len(api.ShutdownCalls()); n != 1 {
		t.Errorf("closed %d times", n)
	}
	api = driver("")
	api.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	api.ShutdownFunc = func() nvml.Return { return nvml.ERROR_UNKNOWN }
	if opened, err = open(api); err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Devices(); err == nil || err.Error() != "nvmlDeviceGetCount: ERROR_UNKNOWN (999)" {
		t.Error(err)
	}
	if err := opened.Close(); err == nil {
		t.Error("a failing Shutdown is no error")
	}
}

// oldDriver is a library of a few functions, as an old driver has them.
const oldDriver = `
#include <string.h>
int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return RETURNS; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int r) { return "an error of the fake driver"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { strcpy(v, "525.1"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *v) { *v = 12000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)1; return 0; }
int nvmlDeviceGetName(void *d, char *name, unsigned n) { strcpy(name, "Fake"); return 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mW) { return 3; }
int nvmlDeviceGetUtilizationRates(void *d, unsigned *u) { u[0] = 40; u[1] = 5; return 0; }
`

// TestRealLibrary goes through go-nvml to a shared library, in a process of its own: a call of a symbol that the library lacks
// would end it.
func TestRealLibrary(t *testing.T) {
	if os.Getenv("NVML_TEST_CHILD") != "" {
		l, err := Open()
		if err != nil {
			os.Stdout.WriteString("open: " + err.Error() + "\n")
			return
		}
		s, err := l.System()
		if err != nil {
			t.Fatal(err)
		}
		devices, err := l.Devices()
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{"system": s, "devices": devices})
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(string(text) + "\n")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	for _, test := range []struct {
		name, returns, want string
		fails               bool
	}{
		{"an old driver", "0", `{"devices":[{"index":0,"name":"Fake","utilization_percent":40,"memory_utilization_percent":5}],"system":{"driver":"525.1","cuda":"12.0"}}`, false},
		{"no kernel module", "9", "open: the NVIDIA driver cannot be asked: its library is there, but the kernel module is not loaded", true},
		{"another failure", "99", "open: the NVIDIA driver cannot be asked: nvmlInit: an error of the fake driver (99)", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			source := filepath.Join(dir, "fake.c")
			if err := os.WriteFile(source, []byte(strings.Replace(oldDriver, "RETURNS", test.returns, 1)), 0o666); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(gcc, "-shared", "-fPIC", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), source).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			child := exec.Command(os.Args[0], "-test.run=^TestRealLibrary$")
			child.Env = append(os.Environ(), "NVML_TEST_CHILD=1", "LD_LIBRARY_PATH="+dir)
			out, err := child.CombinedOutput()
			if got, _, _ := strings.Cut(string(out), "\n"); err != nil || !strings.HasPrefix(got, test.want) || !test.fails && got != test.want {
				t.Errorf("%v\n%s\nwant %s", err, out, test.want)
			}
		})
	}
}
