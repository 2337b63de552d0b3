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
	p.Kernels[2].RowBytes = 16
	return p
}

// roofline is a session that measures a device.
func roofline(p *Program) (r lm.Roofline, err error) {
	d, err := Backend(p).Open(0)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.(lm.Measured).Roofline()
}

// profiles is a session that profiles a step of training and one of decoding.
func profiles(p *Program) (train, decode *lm.Profile, err error) {
	d, err := Backend(p).Open(0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	before, err := d.(lm.Measured).MemoryUsed()
	if err != nil {
		return nil, nil, err
	}
	weights := make([]float32, 32)
	t, err := d.NewTrainer(weights, "")
	if err != nil {
		return nil, nil, err
	}
	defer t.Close()
	tokens := []int32{5, 0, 0, 0, 0, 0, 0, 0}
	if train, err = t.(lm.ProfiledTrainer).ProfileStep(tokens, tokens, lm.StepParams{LR: 1, Step: 1}, 2); err != nil {
		return nil, nil, err
	}
	after, err := d.(lm.Measured).MemoryUsed()
	if err != nil {
		return nil, nil, err
	}
	if after-before != train.Planned {
		return nil, nil, fmt.Errorf("%d bytes in use, %d planned", after-before, train.Planned)
	}
	if err := t.Pull(); err != nil {
		return nil, nil, err
	}
	// One step before, and of each graph a first run and two that count.
	if weights[31] != 7 {
		return nil, nil, fmt.Errorf("%g steps were taken", weights[31])
	}
	g, err := d.NewGenerator(weights, 2, "")
	if err != nil {
		return nil, nil, err
	}
	defer g.Close()
	decode, err = g.(lm.ProfiledGenerator).ProfileDecode([]int32{1, 2}, []int32{1, 6}, []int32{0, 1}, 2)
	return train, decode, err
}

func TestProfile(t *testing.T) {
	fake := cudatest.New(t)
	program := costly(t)
	r, err := roofline(program)
	if err != nil {
		t.Fatal(err)
	}
	train, decode, err := profiles(program)
	if err != nil {
		t.Fatal(err)
	}
	if leaks := fake.Leaks(); len(leaks) > 0 {
		t.Errorf("left behind: %v", leaks)
	}
	if r.Bandwidth <= 0 || r.FLOPS <= 0 || r.Copied < 1<<20 || r.Side < 128 || r.Product != "f32" || len(r.Rates) > 0 {
		t.Errorf("roofline: %+v", r)
	}
	program.Products = append(program.Products, Product{M: 16, N: 16, K: 16, TransB: true, A: E4M3, B: E4M3, D: BF16})
	if r, err = roofline(program); err != nil || r.Rates["fp8"] <= 0 || r.Product != "f32" {
		t.Errorf("roofline with products of 8 bits: %+v, %v", r, err)
	}
	program.Products = program.Products[:len(program.Products)-1]
	// The step, in order. The model's FLOPs are three times those of eval, a product of 32 multiply-adds.
	check(t, train, 3*2*32, []lm.Launch{
		{Kernel: "clear", Bytes: 4 * 32},
		{Kernel: "learn", About: "a step  m.yaml:3", Grid: [3]int{1, 1, 1}, Bytes: 1000, FLOPs: 5000},
	})
	// Of seven steps from position 0 on the last two are timed launch by launch. At position 6 a row sees three keys of the
	// cache, and itself.
	check(t, decode, 2*7+8*3, []lm.Launch{
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 2*100 + 6*1000, FLOPs: 2*7 + 8*3},
		{Kernel: "sample_tokens", Grid: [3]int{2, 1, 1}, Bytes: 2 * 16},
		{Kernel: "copies to the host", Bytes: 2 * 4},
	})
	// Where the host picks, positions are those given: the row at 1 sees one key of the cache and itself.
	if _, decode, err = profiles(onHost(program)); err != nil {
		t.Fatal(err)
	}
	check(t, decode, 2*7+6*3, []lm.Launch{
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

// TestEveryCallOfAProfileFails is TestEveryCallFails for a roofline and for profiles.
func TestEveryCallOfAProfileFails(t *testing.T) {
	p := costly(t)
	everyCallFails(t, func() error { _, err := roofline(p); return err })
	counts := everyCallFails(t, func() error { _, _, err := profiles(p); return err })
	if counts["cuGraphLaunch"] != 2*(1+2*3) { // a step to start from and, of each of its graphs, a first run and two that count
		t.Errorf("calls: %v", counts)
	}
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
	// What is timed is the fifth step from position 0 on, where a row sees three keys of the cache, and itself.
	check(t, p, 3*7+3*4*3, []lm.Launch{
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 2*100 + 6*1000, FLOPs: 2*7 + 8*3},
		{Kernel: "sample_tokens", Grid: [3]int{2, 1, 1}, Bytes: 2 * 16},
		{Kernel: "copies to the host", Bytes: 2 * 4},
		{Kernel: "give", Grid: [3]int{1, 1, 1}, Bytes: 10 + 100 + 3*1000, FLOPs: 7 + 4*3},
		{Kernel: "sample_tokens", Grid: [3]int{1, 1, 1}, Bytes: 16},
		{Kernel: "copies to the host", Bytes: 4},
	})
}

// TestSmallRoofline: where memory runs out, what was measured before counts.
func TestSmallRoofline(t *testing.T) {
	fake := cudatest.New(t)
	fake.Set("memory", 34<<20)
	fake.Set("bandwidth", 1<<40) // so that both grow until memory is out
	fake.Set("flops", 1<<40)
	d, err := Backend(program(t)).Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.(lm.Measured).Roofline()
	if err != nil || r.Copied != 16<<20 || r.Side != 256 {
		t.Errorf("%+v, %v", r, err)
	}
	fake.Set("memory", 1<<20)
	if _, err := d.(lm.Measured).Roofline(); err == nil {
		t.Error("a roofline without memory")
	}
}
