package cuda_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// A rival that says that it ran, and where its matrices are: what rivals compute is tested where they are written.
const rivalKernel = `#include "sim.h"
extern "C" __global__ void rival(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap d,
                                 const __grid_constant__ TensorMap other, const bf16 *bias, float *sums, int rows) {
    if (blockIdx.x > 0 || sums == nullptr) return;
    sums[0] = float(a.sizes[1]), sums[1] = float(a.sizes[0]), sums[2] = float(b.sizes[1]), sums[3] = float(b.sizes[0]), sums[4] = float(b.tile[1]);
    sums[5] = float(d.strides[0]), sums[6] = float(other.base - d.base), sums[7] = float(rows), sums[8] = float(gridDim.x), sums[9] = float(a.tile[1]);
}
`

func rivals(t *testing.T, c *cuda.Context) []cuda.Rival {
	m := must(c.Load(cudatest.Kernels(t, map[string][]byte{"rival.cu": []byte(rivalKernel)})))(t)
	k := must(m.Kernel(cuda.KernelInfo{Entry: "rival", Threads: 32, About: "linear qkv, a.yaml:7"}))(t)
	return []cuda.Rival{{Kernel: k, Rows: 128, Cols: 128}, {Kernel: k, Rows: 128, Cols: 256}}
}

// plainProduct is one that rivals can make.
var plainProduct = cuda.Product{M: 200, N: 64, K: 32, TransB: true, A: cuda.BF16, B: cuda.BF16, D: cuda.BF16, Align: 16, About: "linear qkv, a.yaml:7"}

// TestRivalsAreTimed: the fastest of cuBLASLt's algorithms and the program's kernels is taken, kept by the lock, and asked for anew where a
// build has no such kernel.
func TestRivalsAreTimed(t *testing.T) {
	f := newFake(t)
	f.Set("algorithms", 2)
	f.Set("flops", 1<<40)
	f.Set("pace0", 50)
	f.Set("pace1", 40)
	c := open(t)
	path := filepath.Join(t.TempDir(), "products.json")
	tuning := func() *cuda.Lock {
		lock := cuda.OpenLock(path, "")
		lock.Tune = true
		return lock
	}
	ours := rivals(t, c)
	lock := tuning()
	b := newBLAS(t, c, lock)
	must(b.Prepare(plainProduct, ours...))(t)
	if timing := b.Timings()[0]; timing.Candidates != 4 || timing.Chosen != 3 {
		t.Errorf("%d of %d candidates was chosen", timing.Chosen, timing.Candidates)
	}
	lock.Save()
	check(t, b.Close())

	b = newBLAS(t, c, tuning())
	if p := must(b.Prepare(plainProduct, ours...))(t); p.Origin() != "lock" {
		t.Error(p.Origin())
	}
	s := must(c.NewStream())(t)
	x := must(c.Alloc(1 << 20))(t)
	launches := f.Count("cuLaunchKernel")
	s.Multiply(must(b.Prepare(plainProduct, ours...))(t), x, x, x, 0, 0, 0, 1)
	check(t, s.Sync())
	if f.Count("cuLaunchKernel") != launches+1 {
		t.Error("the product was not made by the kernel that the lock has")
	}
	check(t, b.Close())

	b = newBLAS(t, c, tuning()) // another build
	if p := must(b.Prepare(plainProduct))(t); p.Origin() != "timed" {
		t.Error(p.Origin())
	}
}

// TestRivalsArguments: a kernel gets the matrices as the product says, and only what it can take.
func TestRivalsArguments(t *testing.T) {
	f := newFake(t)
	c := open(t)
	ours := rivals(t, c)
	b := newBLAS(t, c, nil)
	s := must(c.NewStream())(t)
	x, sums := must(c.Alloc(1<<20))(t), must(c.Alloc(1<<12))(t)
	own := plainProduct
	own.Own, own.Act, own.Sums, own.LDAux = cuda.OwnTimes, "silu", true, 72
	for _, transB := range []bool{true, false} {
		own.TransB = transB
		p := must(b.Prepare(own, ours...))(t)
		s.MultiplySums(p, x, x+65536, x+131072, 0, 0, x+262144, sums)
		check(t, s.Sync())
		got := make([]byte, 40)
		check(t, c.Download(got, sums))
		want := "[200 32 64 32 128 128 262144 200 2 128]"
		if !transB {
			want = "[200 32 32 64 64 128 262144 200 2 128]"
		}
		if text := fmt.Sprint(decode(got, cuda.F32)); text != want {
			t.Errorf("the kernel got %s, not %s", text, want)
		}
	}
	p := must(b.Prepare(own, ours...))(t)
	own.Sums = false
	scaled := must(b.Prepare(own, ours...))(t)
	for name, x := range map[string]struct {
		do    func(*cuda.Stream)
		wants string
	}{
		"no sums":  {func(s *cuda.Stream) { s.Multiply(p, x, x, x, 0, 0, x, 1) }, "sums at 0x0"},
		"no other": {func(s *cuda.Stream) { s.MultiplySums(p, x, x, x, 0, 0, 0, sums) }, "aux at 0x0"},
		"alpha":    {func(s *cuda.Stream) { s.Multiply(scaled, x, x, x, 0, 0, x, 2) }, "takes 1"},
		"maps": {func(s *cuda.Stream) {
			f.FailNth("cuTensorMapEncodeTiled", 3, 1)
			s.MultiplySums(p, x, x, x, 0, 0, x, sums)
		}, "linear qkv, a.yaml:7"},
		"launch": {func(s *cuda.Stream) {
			f.FailNth("cuLaunchKernel", 1, 1)
			s.MultiplySums(p, x, x, x, 0, 0, x, sums)
		}, "launch of rival (linear qkv, a.yaml:7)"},
	} {
		s := must(c.NewStream())(t)
		x.do(s)
		if s.Err() == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wants(t, s.Err(), x.wants)
	}
	bad := plainProduct
	bad.Own = cuda.OwnTimes
	_, err := b.Prepare(bad)
	wants(t, err, "it needs a kernel of the program's own, and there is none for ", "run tfc build again with the architecture of this GPU in target.arch", "linear qkv, a.yaml:7")
	for name, change := range map[string]func(*cuda.Product){
		"rows":  func(p *cuda.Product) { p.LDA = 36 },
		"type":  func(p *cuda.Product) { p.A, p.B, p.D = cuda.F32, cuda.F32, cuda.F32 },
		"align": func(p *cuda.Product) { p.Align = 8 },
		"A":     func(p *cuda.Product) { p.TransA = true },
	} {
		q := plainProduct
		change(&q)
		if _, err := b.Prepare(q, ours...); err == nil {
			t.Errorf("%s: a kernel takes what it cannot", name)
		}
	}
}

// TestQuantizingRival: a product that quantises hands its kernel tiles of bytes in the order that it wants, and what there is beside its matrices; what the
// kernel does not take is no such product.
func TestQuantizingRival(t *testing.T) {
	newFake(t)
	c := open(t)
	const kernel = `#include "sim.h"
extern "C" __global__ void quantizing(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap q,
                                      const __grid_constant__ TensorMap t, const bf16 *bias, void *kept, const float *a_scale, const float *b_scale, float *scale,
                                      float *sums, unsigned *history, const unsigned *amax, unsigned *top, int rows) {
    if (blockIdx.x > 0) return;
    const long of[] = {long(a.rank), long(a.sizes[3]), long(b.rank), long(b.tile[4]), long(q.swizzle), long(q.sizes[1]), long(t.strides[1]), kept == nullptr, amax == nullptr,
                       top == nullptr, rows, long(gridDim.x), long(bias != nullptr), long(history - reinterpret_cast<unsigned *>(scale))};
    for (long v : of) *sums++ = float(v);
}
`
	m := must(c.Load(cudatest.Kernels(t, map[string][]byte{"quantizing.cu": []byte(kernel)})))(t)
	ours := cuda.Rival{Kernel: must(m.Kernel(cuda.KernelInfo{Entry: "quantizing", Threads: 32, About: "linear up, a.yaml:7"}))(t), Rows: 128, Cols: 128}
	b := newBLAS(t, c, nil)
	product := cuda.Product{M: 208, N: 64, K: 32, TransB: true, A: cuda.E4M3, B: cuda.E4M3, D: cuda.E4M3, Own: cuda.OwnSlope, Act: "silu", Gated: true, Sums: true, Epilogue: cuda.EpilogueBias,
		Align: 16, About: "linear up, a.yaml:7"}
	s := must(c.NewStream())(t)
	x, sums := must(c.Alloc(1<<20))(t), must(c.Alloc(1<<12))(t)
	beside := cuda.Quantized{Transposed: x + 65536, Scale: x + 131072, History: x + 131072 + 8}
	run := func(p *cuda.Prepared, q cuda.Quantized) error {
		s.MultiplyQuantized(p, x, x, x, x, x, x, x, sums, q)
		return s.Sync()
	}
	check(t, run(must(b.Prepare(product, ours))(t), beside))
	got := make([]byte, 4*14)
	check(t, c.Download(got, sums))
	if text, want := fmt.Sprint(decode(got, cuda.F32)), "[4 13 5 4 64 1 6656 0 1 1 208 2 1 2]"; text != want {
		t.Errorf("the kernel got %s, not %s", text, want)
	}
	wants(t, run(must(b.Prepare(product, ours))(t), cuda.Quantized{Transposed: x, Scale: x}), "history at 0x0")
	for want, change := range map[string]func(p *cuda.Product){
		"it can be bf16 or f32":                  func(p *cuda.Product) { p.Own, p.Gated, p.Sums = cuda.OwnNone, false, false },
		"is for e4m3":                            func(p *cuda.Product) { p.A = cuda.E5M2 },
		"gives 8 bits":                           func(p *cuda.Product) { p.D, p.Gated = cuda.BF16, false },
		"rows of 32 elements follow one another": func(p *cuda.Product) { p.LDD = 48 },
		"wants a multiple of 32":                 func(p *cuda.Product) { p.N = 80 },
	} {
		bad := product
		change(&bad)
		_, err := b.Prepare(bad, ours)
		wants(t, err, want)
	}
}
