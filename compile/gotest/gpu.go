package gotest

import (
	"fmt"
	"os"
	"testing"

	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// GPU is the folder of TFC_GPU: tests run CUDA code on the first GPU, with the kernels and programs that they find there. What is
// not there they make for themselves, which takes nvcc, and Go for programs. Without the variable the code runs in the simulator.
func GPU() string { return os.Getenv("TFC_GPU") }

// Building is the folder of TFC_GPU_BUILD, where tests only make what they would run on a GPU; they end as skipped.
func Building() string { return os.Getenv("TFC_GPU_BUILD") }

// OnGPU says that CUDA code is for a GPU.
func OnGPU() bool { return GPU()+Building() != "" }

// arch is the architecture of the GPUs that tests run on.
const arch = "sm_90a"

// CompileNVCC compiles the .cu files among some, by name, with the bodies among them, for the GPUs that tests run on. It
// returns the file of kernels.
func CompileNVCC(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	toolkit, err := nvcc.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job := nvcc.Job{Archs: []string{arch}}
	for name, text := range files {
		job.Add(name, text, "")
	}
	r, err := toolkit.Compile(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r.Fatbin
}

// kernels compiles a package's CUDA files for where tests run them.
func kernels(t testing.TB, files []gogen.File) gogen.File {
	t.Helper()
	texts := map[string][]byte{}
	for _, f := range files {
		texts[f.Path] = f.Data
	}
	image := gogen.File{Path: "kernels.fatbin"}
	if OnGPU() {
		image.Data = CompileNVCC(t, texts)
	} else {
		image.Data = cudatest.File(t, texts, 12)
	}
	return image
}

// Off notes in a verbose log how far off a result is, as a share of what the test allows.
func Off(t testing.TB, share float64) { t.Attr("off", fmt.Sprintf("%.3g", share)) }
