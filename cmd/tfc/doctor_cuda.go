package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/nvml"
)

// cudaMachine is what doctor finds for CUDA. Each problem is a sentence, "" where there is none.
type cudaMachine struct {
	NVCC        string        `json:"nvcc"`      // path, "" where there is none that can be used
	NVCCFrom    string        `json:"nvcc_from"` // where it was found: TFC_NVCC, CUDA_HOME, CUDA_PATH, PATH or a folder
	NVCCVersion string        `json:"nvcc_version"`
	NVCCProblem string        `json:"nvcc_problem"`
	Host        string        `json:"host_compiler"` // path of the one that nvcc calls
	HostVersion string        `json:"host_compiler_version"`
	Driver      string        `json:"nvidia_driver"`  // its version
	CUDA        string        `json:"driver_cuda"`    // the newest CUDA that the driver runs
	GPUProblem  string        `json:"driver_problem"` // why no more is known of GPUs
	GPUs        []nvml.Device `json:"gpus"`
}

func examineCUDA(ctx context.Context) cudaMachine {
	m := cudaMachine{GPUs: []nvml.Device{}, Driver: driverVersion(driverFile)}
	if err := m.examineNVCC(ctx); err != nil {
		m.NVCCProblem = err.Error()
	}
	if err := m.examineGPUs(); err != nil {
		m.GPUProblem = err.Error()
	}
	return m
}

func (m *cudaMachine) examineNVCC(ctx context.Context) error {
	toolkit, err := nvcc.Find(ctx)
	if err != nil {
		return err
	}
	m.NVCC, m.NVCCFrom, m.NVCCVersion = toolkit.NVCC, toolkit.From, toolkit.Version.String()
	host, err := toolkit.Host(ctx)
	if err != nil {
		return err
	}
	m.Host, m.HostVersion = host.Path, host.Version
	return toolkit.Check(ctx, host)
}

// examineGPUs asks NVML, or where this program has none, CUDA's driver, which tells less.
func (m *cudaMachine) examineGPUs() error {
	library, err := nvml.Open()
	if errors.Is(err, nvml.ErrUnavailable) {
		devices, cudaErr := cuda.Devices()
		if cudaErr != nil {
			return cudaErr
		}
		for _, d := range devices {
			memory := d.Memory
			m.GPUs = append(m.GPUs, nvml.Device{Index: d.Index, Name: d.Name, BusID: d.PCI, Capability: fmt.Sprintf("%d.%d", d.Major, d.Minor), MemoryTotal: &memory})
		}
	}
	if err != nil {
		return err
	}
	defer library.Close()
	system, err := library.System()
	if err != nil {
		return err
	}
	m.CUDA = system.CUDA
	if system.Driver != "" {
		m.Driver = system.Driver
	}
	devices, err := library.Devices()
	if err != nil {
		return err
	}
	m.GPUs = append(m.GPUs, devices...)
	return nil
}

// rows are what doctor shows.
func (m *cudaMachine) rows() (rows [][2]string) {
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, [2]string{name, text})
		}
	}
	if m.NVCC == "" {
		add("nvcc", "none, so packages are built for the CPU alone: "+m.NVCCProblem)
	} else {
		add("nvcc", fmt.Sprintf("%s, %s (from %s)", m.NVCCVersion, m.NVCC, m.NVCCFrom))
		add("  host compiler", strings.Trim(m.HostVersion+", "+m.Host, ", "))
		add("  problem", m.NVCCProblem)
	}
	switch {
	case m.CUDA != "":
		add("nvidia driver", fmt.Sprintf("%s, for CUDA %s and older", or(m.Driver, "of an unknown version"), m.CUDA))
	case m.Driver != "":
		add("nvidia driver", m.Driver)
	default:
		add("nvidia driver", "none, so packages run on the CPU: "+m.GPUProblem)
	}
	if m.Driver != "" {
		add("  problem", m.GPUProblem)
	}
	if m.CUDA != "" && major(m.NVCCVersion) > major(m.CUDA) {
		add("  problem", fmt.Sprintf("it may refuse what nvcc %s compiles: install a driver for CUDA %d, or nvcc %d", m.NVCCVersion, major(m.NVCCVersion), major(m.CUDA)))
	}
	if m.CUDA != "" && len(m.GPUs) == 0 {
		add("gpus", "none")
	}
	for _, d := range m.GPUs {
		rows = append(rows, gpuRows(d)...)
	}
	return rows
}

// gpuRows show a GPU, and of its figures those that it tells.
func gpuRows(d nvml.Device) (rows [][2]string) {
	add := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	title := fmt.Sprintf("gpu %d", d.Index)
	if d.Error != "" {
		add(title, "does not answer: %s", d.Error)
		return rows
	}
	add(title, "%s%s", or(d.Name, "of an unknown name"), prefixed(", compute capability ", d.Capability))
	if d.BusID != "" || d.UUID != "" {
		add("  id", "%s", strings.TrimPrefix(prefixed("PCI ", d.BusID)+prefixed(", ", d.UUID), ", "))
	}
	if d.MemoryTotal != nil {
		used := ""
		if d.MemoryUsed != nil {
			used = ", " + compile.FormatBytes(int64(*d.MemoryUsed)) + " in use"
		}
		add("  memory", "%s%s", compile.FormatBytes(int64(*d.MemoryTotal)), used)
	}
	clock := func(name string, now, most *int) {
		if now != nil {
			add(name, "%d MHz%s", *now, figure(" of %d", most))
		}
	}
	clock("  sm clock", d.SMClock, d.SMClockMax)
	clock("  memory clock", d.MemoryClock, d.MemoryClockMax)
	if d.Throttle != nil {
		add("  clocks held by", "%s", or(strings.Join(d.Throttle, ", "), "nothing"))
	}
	if d.Power != nil {
		add("  power", "%.0f W%s", *d.Power, figure(" of %.0f", d.PowerLimit))
	}
	if d.Temperature != nil {
		add("  temperature", "%d °C", *d.Temperature)
	}
	if d.Utilization != nil {
		add("  in use", "%d %% of the time%s", *d.Utilization, figure(", its memory %d %%", d.MemoryUtilization))
	}
	switch {
	case d.ECC == nil:
	case !*d.ECC:
		add("  ecc", "off")
	default:
		add("  ecc", "on%s%s", figure(", %d errors not corrected since the driver was loaded", d.Uncorrected), figure(", %d ever", d.UncorrectedEver))
	}
	if d.MIG != nil && *d.MIG {
		add("  mig", "on: CUDA sees its instances")
	}
	return rows
}

// figure formats what may be absent.
func figure[T any](format string, value *T) string {
	if value == nil {
		return ""
	}
	return fmt.Sprintf(format, *value)
}

func prefixed(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// major returns the first number of a version, 0 where there is none.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}

// driverVersion reads the version line of NVIDIA's kernel module, which is there without NVML.
func driverVersion(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "NVRM version:"))
}
