package cuda_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// starts are the launches among the fake's calls: early, or not.
func starts(f *cudatest.Fake) (all []string) {
	for _, call := range f.Calls() {
		if !strings.HasPrefix(call, "cuLaunchKernel") {
			continue
		}
		if strings.HasSuffix(call, " early") {
			all = append(all, "early")
		} else {
			all = append(all, "full")
		}
	}
	return all
}

// TestEarlyStart: a kernel that waits by itself starts early behind a kernel, within and outside of a graph, and behind nothing else; on
// devices that cannot do that, never.
func TestEarlyStart(t *testing.T) {
	for _, major := range []int{8, 9} {
		f := newFake(t)
		f.Set("major", major)
		c := open(t)
		m := must(c.Load(image(t)))(t)
		waiting := scaleInfo
		waiting.Waits = true
		waits, plain := must(m.Kernel(waiting))(t), must(m.Kernel(scaleInfo))(t)
		ours := rivals(t, c)
		ours[0].Kernel = must(must(c.Load(cudatest.Kernels(t, map[string][]byte{"rival.cu": []byte(rivalKernel)})))(t).Kernel(cuda.KernelInfo{Entry: "rival", Threads: 32, Waits: true}))(t)
		b := newBLAS(t, c, nil)
		rival, product := must(b.PrepareRival(plainProduct, ours[0]))(t), must(b.Prepare(plainProduct))(t)
		s, e := must(c.NewStream())(t), must(c.NewEvent())(t)
		host, x := must(c.Pinned(64))(t), must(c.Alloc(1<<20))(t)
		launch := func(k cuda.Kernel) { s.Launch(k, 2, 1, 1, x+4096, x, cuda.Float(2), 200) }
		graph := must(s.Capture(func() { s.Zero(x+8192, 8) }))(t)

		cases := []struct {
			name   string
			before func()
			after  func()
			want   string
		}{
			{"two kernels", func() { launch(waits) }, func() { launch(waits) }, "full early"},
			{"a kernel that does not wait", func() { launch(waits) }, func() { launch(plain) }, "full full"},
			{"behind it", func() { launch(plain) }, func() { launch(waits) }, "full early"},
			{"a chain", func() { launch(waits); launch(waits) }, func() { launch(waits) }, "full early early"},
			{"a product of our own", func() { launch(waits); s.Multiply(rival, x+65536, x, x, 0, 0, 0, 1) }, func() { launch(waits) }, "full early early"},
			{"behind a product of cuBLASLt", func() { launch(waits); s.Multiply(product, x+65536, x, x, 0, 0, 0, 1) }, func() { launch(waits) }, "full full"},
			{"behind zeros", func() { launch(waits); s.Zero(x, 8) }, func() { launch(waits) }, "full full"},
			{"behind a copy", func() { launch(waits); s.Copy(x, x+4096, 8) }, func() { launch(waits) }, "full full"},
			{"behind a copy to the device", func() { launch(waits); s.CopyIn(x, host, 0, 8) }, func() { launch(waits) }, "full full"},
			{"behind a copy to the host", func() { launch(waits); s.CopyOut(host, 0, x, 8) }, func() { launch(waits) }, "full full"},
			{"behind a copy of nothing", func() { launch(waits); s.Copy(x, x+4096, 0) }, func() { launch(waits) }, "full early"},
		}
		run := func(name, want string, f2 func()) {
			t.Helper()
			f.Record()
			f2()
			check(t, s.Sync())
			if major < 9 {
				want = strings.ReplaceAll(want, "early", "full")
			}
			if got := starts(f); !slices.Equal(got, strings.Fields(want)) {
				t.Errorf("compute capability %d, %s: %v, not %s", major, name, got, want)
			}
		}
		for _, x := range cases {
			s.Record(e) // so that nothing is behind the case before
			run(x.name, x.want, func() { x.before(); x.after() })
			s.Record(e)
			run(x.name+", in a graph", x.want, func() {
				g := must(s.Capture(func() { x.before(); x.after() }))(t)
				s.Run(g)
				check(t, s.Sync())
				check(t, g.Close())
			})
		}
		s.Record(e)
		run("behind a recorded event", "full full", func() { launch(waits); s.Record(e); launch(waits) })
		s.Record(e)
		run("behind a wait for an event", "full full", func() { launch(waits); s.Wait(e); launch(waits) })
		s.Record(e)
		run("behind a graph", "full full", func() { launch(waits); s.Run(graph); launch(waits) })
		run("in a capture behind a kernel, and after it", "full full full", func() {
			s.Record(e)
			launch(waits)
			check(t, must(s.Capture(func() { launch(waits) }))(t).Close())
			launch(waits)
		})
		s.Record(e)
		run("behind the mark of a graph", "full full", func() {
			check(t, must(s.Capture(func() { launch(waits); s.Mark(e); launch(waits) }))(t).Close())
		})
	}
}

// TestEarlyStartFails: an early launch that fails says what it was to do, and one that does not allocates nothing.
func TestEarlyStartFails(t *testing.T) {
	f := newFake(t)
	c := open(t)
	waiting := scaleInfo
	waiting.Waits = true
	k := must(must(c.Load(image(t)))(t).Kernel(waiting))(t)
	s := must(c.NewStream())(t)
	x := must(c.Alloc(4096))(t)
	f.FailNth("cuLaunchKernelEx", 1, 701)
	s.Launch(k, 2, 1, 1, x, x, cuda.Float(2), 200)
	check(t, s.Err())
	s.Launch(k, 5, 1, 1, x, x, cuda.Float(2), 200)
	wants(t, s.Err(), "launch of scale (scale x, a.yaml:3), grid 5×1×1, block 128, shared memory 0", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")
	s = must(c.NewStream())(t)
	if n := allocations(100, func() { s.Launch(k, 2, 1, 1, x, x, cuda.Float(2), 200) }); n != 0 {
		t.Errorf("an early launch allocates %v times", n)
	}
	check(t, s.Sync())
}
