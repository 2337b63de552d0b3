package gpu

import (
	"testing"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// TestFigures: CUDA's driver tells what the device is and how full it is, with NVML or without.
func TestFigures(t *testing.T) {
	fake := cudatest.New(t)
	tr, _ := newTrainer(t, program(t))
	d := tr.d
	f := d.Figures()
	at := d.ctx.Device()
	if f.Name != at.Name || f.Name == "" || f.Capability != capability(at) || f.MemoryUsed < uint64(tr.memory.size) || f.MemoryTotal <= f.MemoryUsed {
		t.Errorf("%+v of %+v", f, at)
	}
	if got, want := d.String(), "cuda:0, "+at.Name+", compute capability "+capability(at)+", "; len(got) <= len(want) || got[:len(want)] != want {
		t.Errorf("%s", got)
	}
	fake.Quiet()
	fake.FailNth("cuMemGetInfo_v2", 1, 999)
	if f := d.Figures(); f.MemoryUsed != 0 || f.MemoryTotal != at.Memory || f.Name != at.Name {
		t.Errorf("where the memory cannot be asked: %+v", f)
	}
}

// TestAskedOnceASecond: NVML is not asked for each line of a log of short steps.
func TestAskedOnceASecond(t *testing.T) {
	var m monitor
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		asked time.Duration
	}{{0, 0}, {time.Second - 1, 0}, {time.Second, time.Second}, {time.Second + 5, time.Second}} {
		m.ask("0000:65:00.0", now.Add(c.after))
		if got := m.asked.Sub(now); got != c.asked {
			t.Errorf("after %v the figures are from %v", c.after, got)
		}
	}
	if err := m.close(); err != nil {
		t.Error(err)
	}
}
