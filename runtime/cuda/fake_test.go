package cuda_test

import (
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// newFake makes the fakes of CUDA's libraries those that are loaded next.
func newFake(t testing.TB) *cudatest.Fake {
	f := cudatest.New(t)
	cuda.Forget()
	t.Cleanup(cuda.Forget)
	f.Quiet()
	return f
}

// renew makes the fakes as new, in the middle of a test.
func renew(f *cudatest.Fake) {
	f.Reset()
	f.Quiet()
	cuda.Forget()
}

func image(t testing.TB) []byte {
	return cudatest.Kernels(t, map[string][]byte{"test.cu": []byte(kernels)})
}

// allocations is testing.AllocsPerRun where that can count: the race detector makes sync.Pool forget at random.
func allocations(runs int, f func()) float64 {
	if raceDetector {
		f()
		return 0
	}
	return testing.AllocsPerRun(runs, f)
}
