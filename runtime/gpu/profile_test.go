package gpu

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/lm"
	"github.com/tfc-dev/tfc/runtime/mask"
)

// costly is the program of gpu_test.go, whose kernels cost something.
func costly(t *testing.T) *Program {
	p := program(t)
	p.Kernels[0].Bytes, p.Kernels[0].FLOPs = 1000, 5000
	p.Kernels[1].Bytes, p.Kernels[1].RowBytes, p.Kernels[1].KeyBytes = 10, 100, 1000
	p.Kernels[1].RowFLOPs, p.Kernels[1].KeyFLOPs = 7, 3
	p.Kernels[1].Keys = mask.And(mask.Causal(), mask.Window(4))
	return p
}

// profiles is a session that measures a device, and profiles a step of training and one of decoding.
func profiles(p *Program) (train, decode *lm.Profile, r lm.Roofline, err error) {
	d, err := Backend(p).Open(0)
	if err != nil {
		return nil, nil, r, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if r, err = d.(lm.Measured).Roofline(); err != nil {
		return nil, nil, r, err
	}
	before, err := d.(lm.Measured).MemoryUsed()
	if err != nil {
		return nil, nil, r, err
	}
	weights := make([]float32, 32)
	t, err := d.NewTrainer(weights, "")
	if err != nil {
		return nil, nil, r, err
	}
	defer t.Close()
	tokens := []int32{5, 0, 0, 0, 0, 0, 0, 0}
	if train, err = t.(lm.ProfiledTrainer).ProfileStep(tokens, tokens, lm.StepParams{LR: 1, Step: 1}, 2); err != nil {
		return nil, nil, r, err
	}
	after, err := d.(lm.Measured).MemoryUsed()
	if err != nil {
		return nil, nil, r, err
	}
	if after-before != train.Planned {
		return nil, nil, r, fmt.Errorf("%d bytes in use, %d planned", after-before, train.Planned)
	}
	if err := t.Pull(); err != nil {
		return nil, nil, r, err
	}
	// One step before, and of each graph a first run and two that count.
	if weights[31] != 7 {
		return nil, nil, r, fmt.Errorf("%g steps were taken", weights[31])
	}
	g, err := d.NewGenerator(weights, 2, "")
	if err != nil {
		return nil, nil, r, err
	}
	defer g.Close()
	decode, err = g.(lm.ProfiledGenerator).ProfileDecode([]int32{1, 2}, []int32{1, 6}, []int32{0, 1}, 2)
	return train, decode, r, err
}

func TestProfile(t *testing.T) {
	fake := cudatest.New(t)
	train, decode, r, err := profiles(costly(t))
	if err != nil {
		t.Fatal(err)
	}
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
	if r.Bandwidth <= 0 || r.FLOPS <= 0 || r.Copied < 1<<20 || r.Side < 128 || r.Product != "f32" {
		t.Errorf("roofline: %+v", r)
	}
	// The step, in order. The model's FLOPs are three times those of eval, a product of 32 multiply-adds.
	check(t, train, 3*2*32, []lm.Launch{
		{Kernel: "copies from the host", Bytes: 16 + 2*4*8},
		{Kernel: "clear", Bytes: 4 * 32},
		{Kernel: "learn", About: "a step  m.yaml:3", Grid: [3]int{1, 1, 1}, Bytes: 1000, FLOPs: 5000},
		{Kernel: "copies to the host", Bytes: 80 + 2*4},
	})
	// Of two rows, at positions 1 and 6, the first sees one key of the cache and itself, the other three and itself.
	check(t, decode, 2*7+6*3, []lm.Launch{
		{Kernel: "copies from the host", Bytes: 3 * 4 * 2},
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 2*100 + 4*1000, FLOPs: 2*7 + 6*3},
		{Kernel: "copies to the host", Bytes: 2 * 3 * 4},
	})
}

// check compares launches but for their times, which need only make sense.
func check(t *testing.T, p *lm.Profile, flops float64, want []lm.Launch) {
	t.Helper()
	got := append([]lm.Launch(nil), p.Launches...)
	for i := range got {
		if got[i].Time < 0 || i > 0 && got[i].Begin < got[i-1].Begin+got[i-1].Time {
			t.Errorf("launch %d begins at %v, after one from %v that took %v", i, got[i].Begin, got[i-1].Begin, got[i-1].Time)
		}
		got[i].Begin, got[i].Time = 0, 0
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("launches\n%+v\nwant\n%+v", got, want)
	}
	if p.FLOPs != flops || p.Step <= 0 {
		t.Errorf("%g FLOPs, want %g; a step of %v", p.FLOPs, flops, p.Step)
	}
}

// TestEveryCallOfAProfileFails is TestEveryCallFails for a profile.
func TestEveryCallOfAProfileFails(t *testing.T) {
	p := costly(t)
	everyCallFails(t, func() error { _, _, _, err := profiles(p); return err })
}

// TestProfileOfManyRows: more rows than the program has in a step are several steps.
func TestProfileOfManyRows(t *testing.T) {
	cudatest.New(t)
	d, err := Backend(costly(t)).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	g, err := d.NewGenerator(make([]float32, 32), 3, "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	p, err := g.(lm.ProfiledGenerator).ProfileDecode([]int32{1, 2, 0}, []int32{0, 1, 2}, []int32{0, 1, 2}, 1)
	if err != nil {
		t.Fatal(err)
	}
	check(t, p, 3*7+(1+2+3)*3, []lm.Launch{
		{Kernel: "copies from the host", Bytes: 3 * 4 * 2},
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 2*100 + 1*1000, FLOPs: 2*7 + 3*3},
		{Kernel: "copies to the host", Bytes: 2 * 3 * 4},
		{Kernel: "copies from the host", Bytes: 3 * 4},
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 100 + 2*1000, FLOPs: 7 + 3*3},
		{Kernel: "copies to the host", Bytes: 3 * 4},
	})
}

// TestSmallRoofline: where memory runs out, what was measured before counts.
func TestSmallRoofline(t *testing.T) {
	fake := cudatest.New(t)
	fake.Set("memory", 34<<20)
	d, err := Backend(program(t)).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.(lm.Measured).Roofline()
	if err != nil || r.Copied > 16<<20 || r.Copied < 1<<20 || r.Side < 128 {
		t.Errorf("%+v, %v", r, err)
	}
	fake.Set("memory", 1<<20)
	if _, err := d.(lm.Measured).Roofline(); err == nil {
		t.Error("a roofline without memory")
	}
}
