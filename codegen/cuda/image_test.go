package cudagen_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/cudarun"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// The environment says where kernels run: in the simulator, or where TFC_GPU is set on the first GPU, from images that lie
// in that folder, or that nvcc makes where they do not. TFC_GPU_BUILD makes the images and runs nothing, for a machine with nvcc and without a GPU.
func gpuFolder() string   { return os.Getenv("TFC_GPU") }
func buildFolder() string { return os.Getenv("TFC_GPU_BUILD") }

func onGPU() bool { return gpuFolder() != "" || buildFolder() != "" }

// seedOf gives a GPU fresh numbers each run, and the simulator the same.
func seedOf(seed uint64) uint64 {
	if gpuFolder() != "" {
		return seed + uint64(time.Now().Unix())<<16
	}
	return seed
}

// compileFor compiles code for where kernels run, and opens that.
func compileFor(t *testing.T, name string, code *cudagen.Code) (*cudarun.Device, *cudarun.Image) {
	t.Helper()
	file := imageFile(t, name, code)
	d, err := cudarun.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	image, err := d.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return d, image
}

// imageFile is what code compiles to for where kernels run.
func imageFile(t *testing.T, name string, code *cudagen.Code) []byte {
	t.Helper()
	switch {
	case buildFolder() != "":
		if err := os.WriteFile(filepath.Join(buildFolder(), name), compileByNVCC(t, code), 0o666); err != nil {
			t.Fatal(err)
		}
		t.Skip("built")
	case gpuFolder() != "":
		file, err := os.ReadFile(filepath.Join(gpuFolder(), name))
		if os.IsNotExist(err) {
			return compileByNVCC(t, code)
		}
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	return simulated(t, code)
}

func compileByNVCC(t *testing.T, code *cudagen.Code) []byte {
	t.Helper()
	toolkit, err := nvcc.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job := nvcc.Job{Archs: []string{"sm_90a"}}
	for _, s := range code.Sources {
		job.Add(s.Name, s.Data, s.Arch)
	}
	r, err := toolkit.Compile(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r.Fatbin
}

// split parts the .cu files of code from the bodies.
func split(code *cudagen.Code) (sources, includes map[string]string) {
	sources, includes = map[string]string{}, map[string]string{}
	for _, s := range code.Sources {
		if strings.HasSuffix(s.Name, ".cuh") {
			includes[s.Name] = string(s.Data)
		} else {
			sources[s.Name] = string(s.Data)
		}
	}
	return sources, includes
}

// simulated compiles code for the simulator.
func simulated(t *testing.T, code *cudagen.Code) []byte {
	t.Helper()
	cudatest.New(t)
	files := map[string][]byte{}
	for _, s := range code.Sources {
		files[s.Name] = s.Data
	}
	return cudatest.File(t, files, 24)
}
