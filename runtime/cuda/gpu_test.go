package cuda_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// TestGPU runs on a real device, where there is one: the session of the other tests, products of cuBLASLt, and their timing.
//
// It does so in a process of its own: in this one the loader would take a fake that was opened before for libcuda.so.1.
func TestGPU(t *testing.T) {
	const inside = "TFC_TEST_GPU"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestGPU$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if strings.Contains(string(out), "--- SKIP: TestGPU") {
			t.SkipNow()
		}
		check(t, err)
		return
	}
	if err := cuda.Available(); err != nil {
		t.Skip(err)
	}
	fatbin := must(os.ReadFile("testdata/archs.fatbin"))(t)
	device, err := cuda.Find(fatbin)
	if err != nil {
		t.Skip(err)
	}
	t.Logf("%+v", device)
	got := must(session(fatbin))(t)
	for i, x := range got {
		if x != float32(i)*18 {
			t.Fatalf("element %d is %g, not %d", i, x, 18*i)
		}
	}
	c := must(cuda.Open(device.Index))(t)
	t.Cleanup(func() { check(t, c.Close()) })
	t.Run("launch", func(t *testing.T) { timeLaunches(t, c, fatbin) })
	t.Run("products", func(t *testing.T) {
		for _, p := range testProducts(t, c, 2e-3) {
			t.Logf("no algorithm for %s", p)
		}
	})
	t.Run("products of 8 bits", func(t *testing.T) {
		if device.Major < 8 || device.Major == 8 && device.Minor < 9 {
			t.Skip("the GPU has none")
		}
		for _, p := range testProductsOf8Bits(t, c) {
			t.Errorf("no algorithm for %s", p)
		}
	})
	t.Run("tuning", func(t *testing.T) { tuneOnce(t, c) })
}

// timeLaunches prints what a launch costs, alone and in a graph.
func timeLaunches(t *testing.T, c *cuda.Context, fatbin []byte) {
	const n = 1000
	m := must(c.Load(fatbin))(t)
	scale := must(m.Kernel(scaleInfo))(t)
	x := must(c.Alloc(1024))(t)
	s := must(c.NewStream())(t)
	launches := func() {
		for range n {
			s.Launch(scale, 1, 1, 1, x, x, cuda.Float(1), 128)
		}
	}
	launches()
	check(t, s.Sync())
	start := time.Now()
	launches()
	check(t, s.Sync())
	alone := time.Since(start)
	g := must(s.Capture(launches))(t)
	s.Run(g)
	check(t, s.Sync())
	start = time.Now()
	s.Run(g)
	check(t, s.Sync())
	t.Logf("a launch takes %v, in a graph %v", alone/n, time.Since(start)/n)
}

// tuneOnce times products of a training step, and takes them from the lock afterwards.
func tuneOnce(t *testing.T, c *cuda.Context) {
	path := filepath.Join(t.TempDir(), "products.lock")
	forward := cuda.Product{M: 32768, N: 1536, K: 512, TransB: true, A: cuda.BF16, B: cuda.BF16, D: cuda.BF16, Epilogue: cuda.EpilogueBias}
	up := forward
	up.N, up.Epilogue = 2048, cuda.EpilogueGELUAuxBias
	gradient := cuda.Product{M: 1536, N: 512, K: 32768, TransA: true, A: cuda.BF16, B: cuda.BF16, D: cuda.F32, Beta: 1}
	decode := forward
	decode.M = 1
	for _, want := range []string{"timed", "lock"} {
		lock := cuda.OpenLock(path, "")
		lock.Tune = true
		const bytes = 32 << 20
		workspace := must(c.Alloc(bytes))(t)
		b := must(c.NewBLAS(workspace, bytes, lock))(t)
		for _, p := range []cuda.Product{forward, up, gradient, decode} {
			start := time.Now()
			prepared := must(b.Prepare(p))(t)
			t.Logf("cuBLASLt %s, %v: %s after %v", b.Version(), p, prepared.Origin(), time.Since(start))
			for _, x := range b.Timings() {
				t.Logf("choice %d of %d: %v instead of %v", x.Chosen, x.Candidates, x.Took, x.First)
			}
			if prepared.Origin() != want {
				t.Errorf("%v: %s, not %s", p, prepared.Origin(), want)
			}
		}
		lock.Save()
		check(t, b.Close())
		check(t, c.Free(workspace))
	}
	t.Logf("%s", must(os.ReadFile(path))(t))
}
