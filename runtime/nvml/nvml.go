// Package nvml asks NVIDIA's driver about GPUs: names, memory, clocks, power, temperature, errors. It is for people and
// logs; work on a GPU goes through package cuda, which needs none of this.
//
// It stands on go-nvml, which loads libnvidia-ml.so.1 when asked to, and needs cgo and the tag nvml: in other builds Open
// says that it is missing. The tag is asked for because a program with go-nvml leaves NVML's functions to be found at their
// first call. Where all are looked for at the start, because LD_BIND_NOW is set or the linker was told -z now, as some
// distributions' compilers are by default, it does not start on a machine without a driver ("undefined symbol: nvml…").
// Against -z now there is
//
//	go build -tags nvml -ldflags '-extldflags=-Wl,-z,lazy' ./cmd/tfc
//
// The C compiler's warnings about deprecated functions, when go-nvml is built for the first time, are of no consequence;
// CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" silences them.
package nvml

import (
	"errors"
	"fmt"
)

// ErrUnavailable says that there is no NVML here. Errors of Open that wrap it tell why in a sentence.
var ErrUnavailable = errors.New("the NVIDIA driver cannot be asked")

// System is what a driver says of itself. What it does not tell is "".
type System struct {
	Driver string `json:"driver,omitempty"` // its version, as 580.65.06
	NVML   string `json:"nvml,omitempty"`
	CUDA   string `json:"cuda,omitempty"` // the newest CUDA that it runs, as 13.0
}

// Device is a GPU at a moment. What it or its driver does not support is absent: nil, or "".
type Device struct {
	Index      int    `json:"index"`                        // by PCI bus, as nvidia-smi counts; CUDA may count otherwise, see At
	Error      string `json:"error,omitempty"`              // why nothing else is known of it, as for a GPU that fell off the bus
	Name       string `json:"name,omitempty"`               // as NVIDIA H100 80GB HBM3
	UUID       string `json:"uuid,omitempty"`               // as GPU-1b2c3d4e-…
	BusID      string `json:"pci_bus_id,omitempty"`         // as 0000:65:00.0, the way CUDA writes it
	Capability string `json:"compute_capability,omitempty"` // as 9.0

	MemoryTotal *uint64 `json:"memory_total,omitempty"` // bytes
	MemoryUsed  *uint64 `json:"memory_used,omitempty"`  // bytes, with what the driver keeps

	SMClock        *int `json:"sm_clock_mhz,omitempty"`
	SMClockMax     *int `json:"sm_clock_max_mhz,omitempty"`
	MemoryClock    *int `json:"memory_clock_mhz,omitempty"`
	MemoryClockMax *int `json:"memory_clock_max_mhz,omitempty"`
	// Throttle names what keeps the clocks from going higher, "idle" among it; nil where it is not told.
	Throttle []string `json:"throttle,omitzero"`

	Power       *float64 `json:"power_watts,omitempty"`
	PowerLimit  *float64 `json:"power_limit_watts,omitempty"`
	Temperature *int     `json:"temperature_celsius,omitempty"`

	Utilization       *int `json:"utilization_percent,omitempty"`        // of the last moment, the time in which a kernel ran
	MemoryUtilization *int `json:"memory_utilization_percent,omitempty"` // and that in which memory was read or written

	ECC             *bool   `json:"ecc,omitempty"`             // whether memory errors are corrected
	Uncorrected     *uint64 `json:"ecc_uncorrected,omitempty"` // errors that could not be, since the driver was loaded
	UncorrectedEver *uint64 `json:"ecc_uncorrected_ever,omitempty"`
	MIG             *bool   `json:"mig,omitempty"` // split into instances, which CUDA sees instead of the GPU
}

// throttles names the bits of nvmlClocksEventReasons.
var throttles = []string{
	"idle", "application clocks", "power cap", "hardware slowdown", "sync boost", "temperature", "temperature (hardware)",
	"power brake", "display clocks", "board limit", "reliability",
}

// throttleWords turns a mask of reasons into words.
func throttleWords(mask uint64) []string {
	words := []string{}
	for bit := range 64 {
		switch {
		case mask&(1<<bit) == 0:
		case bit < len(throttles):
			words = append(words, throttles[bit])
		default:
			words = append(words, fmt.Sprintf("reason %#x", uint64(1)<<bit))
		}
	}
	return words
}
