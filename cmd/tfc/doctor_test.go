package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tfc-dev/tfc/runtime/nvml"
)

func ptr[T any](v T) *T { return &v }

// Each machine is shown with what is known of it, and nothing in place of the rest.
func TestDoctorCUDA(t *testing.T) {
	for _, test := range []struct {
		name    string
		machine cudaMachine
		want    string
	}{
		{"nothing", cudaMachine{NVCCProblem: "nvcc was not found", GPUProblem: "its library is not there"}, `
nvcc: none, so packages are built for the CPU alone: nvcc was not found
nvidia driver: none, so packages run on the CPU: its library is not there`},
		{"a build without NVML", cudaMachine{NVCC: "/c/nvcc", NVCCFrom: "PATH", NVCCVersion: "12.4.131", NVCCProblem: "no gcc", Driver: "NVIDIA module 580", GPUProblem: "built without it"}, `
nvcc: 12.4.131, /c/nvcc (from PATH)
  problem: no gcc
nvidia driver: NVIDIA module 580
  problem: built without it`},
		{"an old driver without GPUs", cudaMachine{NVCC: "/c/nvcc", NVCCFrom: "/c", NVCCVersion: "13.0.88", Host: "/bin/gcc", HostVersion: "gcc 12", Driver: "550.54", CUDA: "12.4"}, `
nvcc: 13.0.88, /c/nvcc (from /c)
  host compiler: gcc 12, /bin/gcc
nvidia driver: 550.54, for CUDA 12.4 and older
  problem: it may refuse what nvcc 13.0.88 compiles: install a driver for CUDA 13, or nvcc 12
gpus: none`},
		{"GPUs", cudaMachine{NVCC: "/c/nvcc", NVCCFrom: "/c", NVCCVersion: "12.4.131", Host: "/bin/gcc", HostVersion: "gcc 12", Driver: "580.65.06", CUDA: "13.0", GPUs: []nvml.Device{
			{
				Index: 0, Name: "NVIDIA H100 80GB HBM3", UUID: "GPU-1", BusID: "0000:65:00.0", Capability: "9.0", MemoryTotal: ptr(uint64(80 << 30)), MemoryUsed: ptr(uint64(1 << 29)),
				SMClock: ptr(345), SMClockMax: ptr(1980), MemoryClock: ptr(2619), MemoryClockMax: ptr(2619), Throttle: []string{"idle", "power cap"},
				Power: ptr(71.6), PowerLimit: ptr(700.0), Temperature: ptr(32), Utilization: ptr(0), MemoryUtilization: ptr(7),
				ECC: ptr(true), Uncorrected: ptr(uint64(0)), UncorrectedEver: ptr(uint64(2)), MIG: ptr(true),
			},
			{Index: 1, Error: "GPU is lost"},
			{Index: 2, Name: "GeForce", SMClock: ptr(210), Throttle: []string{}, ECC: ptr(false), MIG: ptr(false)},
			{Index: 3, UUID: "GPU-4"},
		}}, `
nvcc: 12.4.131, /c/nvcc (from /c)
  host compiler: gcc 12, /bin/gcc
nvidia driver: 580.65.06, for CUDA 13.0 and older
gpu 0: NVIDIA H100 80GB HBM3, compute capability 9.0
  id: PCI 0000:65:00.0, GPU-1
  memory: 80 GiB, 512 MiB in use
  sm clock: 345 MHz of 1980
  memory clock: 2619 MHz of 2619
  clocks held by: idle, power cap
  power: 72 W of 700
  temperature: 32 °C
  in use: 0 % of the time, its memory 7 %
  ecc: on, 0 errors not corrected since the driver was loaded, 2 ever
  mig: on: CUDA sees its instances
gpu 1: does not answer: GPU is lost
gpu 2: GeForce
  sm clock: 210 MHz
  clocks held by: nothing
  ecc: off
gpu 3: of an unknown name
  id: GPU-4`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got strings.Builder
			for _, row := range test.machine.rows() {
				fmt.Fprintf(&got, "\n%s: %s", row[0], row[1])
			}
			if diff := cmp.Diff(test.want, got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDriver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "version")
	if got := driverVersion(file); got != "" {
		t.Errorf("of no file: %q", got)
	}
	if err := os.WriteFile(file, []byte("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06\nGCC version:\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := driverVersion(file); got != "NVIDIA UNIX Open Kernel Module for x86_64  580.65.06" {
		t.Errorf("%q", got)
	}
}
