package cudagen_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/cudarun"
	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// began sets the numbers that a GPU gets.
var began = uint64(time.Now().Unix())

// seedOf gives a GPU fresh numbers each run, and the simulator the same.
func seedOf(seed uint64) uint64 {
	if gotest.GPU() != "" {
		return seed + began<<16
	}
	return seed
}

// compileFor compiles code for where kernels run (see gotest.GPU), and opens that. Where TFC_GPU_UNWRITTEN is set, for
// compute-sanitizer's initcheck, memory that nobody has written is left so instead of being poisoned.
func compileFor(t *testing.T, name string, code *cudagen.Code) (*cudarun.Device, *cudarun.Image) {
	t.Helper()
	file := imageFile(t, name, code)
	d, err := cudarun.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	d.Unwritten = os.Getenv("TFC_GPU_UNWRITTEN") != ""
	image, err := d.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return d, image
}

// imageFile is what code compiles to for where kernels run.
func imageFile(t *testing.T, name string, code *cudagen.Code) []byte {
	t.Helper()
	files := map[string][]byte{}
	for _, s := range code.Sources {
		files[s.Name] = s.Data
	}
	switch {
	case gotest.Building() != "":
		if err := os.WriteFile(filepath.Join(gotest.Building(), name), gotest.CompileNVCC(t, files), 0o666); err != nil {
			t.Fatal(err)
		}
		t.Skip("built")
	case gotest.GPU() != "":
		file, err := os.ReadFile(filepath.Join(gotest.GPU(), name))
		if os.IsNotExist(err) {
			return gotest.CompileNVCC(t, files)
		}
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	cudatest.New(t)
	return cudatest.File(t, files, 24)
}
