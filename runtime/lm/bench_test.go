package lm

import (
	"bufio"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// profiledBackend has a device that tells where the time of a step goes.
type profiledBackend struct{ *profiledDevice }

func (b profiledBackend) Find() (int, error)       { return 0, nil }
func (b profiledBackend) Open(int) (Device, error) { return b.profiledDevice, nil }

type profiledDevice struct {
	fakeDevice
	profile *Profile
	times   int     // that a step was to be taken
	fails   error   // of the profile
	rooms   []int64 // what MemoryUsed says in turn
}

func (d *profiledDevice) Roofline() (Roofline, error) {
	return Roofline{Bandwidth: 1e9, Copied: 1 << 30, FLOPS: 1e12, Product: "bf16", Side: 4096}, nil
}

func (d *profiledDevice) MemoryUsed() (int64, error) {
	if len(d.rooms) == 0 {
		return 0, errors.New("nobody knows")
	}
	n := d.rooms[0]
	d.rooms = d.rooms[1:]
	return n, nil
}

func (d *profiledDevice) NewTrainer(w []float32, tuned string) (Trainer, error) {
	return profiledTrainer{newFakeTrainer(slices.Clone(w)), d}, nil
}

func (d *profiledDevice) NewGenerator(w []float32, slots int, tuned string) (Generator, error) {
	return profiledGenerator{NewPicker(newFakeGenerator(slices.Clone(w), slots), fakeVocab), d}, nil
}

type profiledTrainer struct {
	*fakeTrainer
	d *profiledDevice
}

func (t profiledTrainer) ProfileStep(tokens, targets []int32, p StepParams, times int) (*Profile, error) {
	t.d.times = times
	return t.d.profile, t.d.fails
}

type profiledGenerator struct {
	Picker
	d *profiledDevice
}

func (g profiledGenerator) ProfileDecode(tokens, positions, slots []int32, times int) (*Profile, error) {
	g.d.times = times
	return g.d.profile, g.d.fails
}

// someProfile is a step of 100 µs: at 1 GB/s and 1 TFLOP/s.
func someProfile() *Profile {
	us := time.Microsecond
	return &Profile{
		Launches: []Launch{
			{Kernel: "copies from the host", Bytes: 1000, Time: 2 * us},
			{Kernel: "norm", About: "layernorm  x  a.yaml:3", Grid: [3]int{4, 2, 1}, Bytes: 5000, FLOPs: 100, Begin: 3 * us, Time: 10 * us},
			{Kernel: "product 8×8×8", About: "linear  y  a.yaml:4", Bytes: 1000, FLOPs: 2e7, Begin: 14 * us, Time: 40 * us},
			{Kernel: "norm", About: "layernorm  x  a.yaml:3", Grid: [3]int{4, 2, 1}, Bytes: 5000, FLOPs: 100, Begin: 55 * us, Time: 20 * us},
			{Kernel: "norm", About: "layernorm  z  a.yaml:9", Stream: 1, Begin: 76 * us, Time: 8 * us},
		},
		Step: 100 * us, Event: us, FLOPs: 3e7, Planned: 700 << 20,
	}
}

func TestFloorOf8Bits(t *testing.T) {
	r := Roofline{Bandwidth: 1e9, FLOPS: 1e12, Rates: map[string]float64{"fp8": 4e12}}
	if plain, eight := r.Floor(Launch{FLOPs: 2e7}), r.Floor(Launch{FLOPs: 2e7, Type: "fp8"}); plain != 20*time.Microsecond || eight != 5*time.Microsecond {
		t.Errorf("floors %v and %v", plain, eight)
	}
}

func TestReport(t *testing.T) {
	r := report{
		benchmark: benchmark{What: "train", Median: 0.2, Speed: 5e6}, Profile: someProfile(), Roofline: Roofline{Bandwidth: 1e9, Copied: 1 << 30, FLOPS: 1e12, Product: "bf16", Side: 4096},
		Memory: memoryUse{Planned: 700 << 20, Used: 1 << 30, Context: 200 << 20, Library: 124 << 20},
	}
	want := []kernelRow{
		{What: "kernel", Kernel: "product 8×8×8", About: "linear  y  a.yaml:4", Calls: 1, Call: 40, Step: 40, Share: 0.4, Bytes: 1000, FLOPs: 2e7,
			GBs: 0.025, TFLOPS: 0.5, Floor: 20, OfFloor: 0.5},
		{What: "kernel", Kernel: "norm", About: "layernorm  x  a.yaml:3", Calls: 2, Call: 15, Step: 30, Share: 0.3, Bytes: 10000, FLOPs: 200,
			GBs: 1. / 3, TFLOPS: 200. / 30e6, Floor: 5, OfFloor: 1. / 3},
		{What: "kernel", Kernel: "norm", About: "layernorm  z  a.yaml:9", Calls: 1, Call: 8, Step: 8, Share: 0.08},
		{What: "kernel", Kernel: "copies from the host", Calls: 1, Call: 2, Step: 2, Share: 0.02, Bytes: 1000, GBs: 0.5, Floor: 1, OfFloor: 0.5},
	}
	if got := r.rows(); !near(got, want) {
		t.Errorf("rows\n%+v\nwant\n%+v", got, want)
	}
	sum := stepSummary{
		What: "step", Launches: 5, Kernels: 80, Gaps: 20, Step: 100, Clock: 200, Floor: 31, Event: 1, Speed: 5e6, MFU: 0.15,
		Bandwidth: 1e9, FLOPS: 1e12, Product: "bf16", Memory: r.Memory,
	}
	if got := r.summary(); !near(got, sum) {
		t.Errorf("summary\n%+v\nwant\n%+v", got, sum)
	}
	var b strings.Builder
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); text != table {
		t.Errorf("%s\nwant\n%s", text, table)
	}
	// Without a roofline there are no floors; without a time, no rates.
	r.Roofline, r.Memory, r.Profile.Step = Roofline{}, memoryUse{}, 0
	for i := range r.Profile.Launches {
		r.Profile.Launches[i].Time = 0
	}
	b.Reset()
	if err := r.print(&b); err != nil || strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") || strings.Contains(b.String(), "µs floor,") {
		t.Errorf("%v\n%s", err, b.String())
	}
}

const table = `
   µs/step  share  calls   µs/call    GB/s  TFLOP/s  floor µs  floor  kernel, op, place in the spec
      40.0  40.0%      1     40.00       0      0.5     20.00    50%  product 8×8×8  linear  y  a.yaml:4
      30.0  30.0%      2     15.00       0      0.0      5.00    33%  norm  layernorm  x  a.yaml:3
       8.0   8.0%      1      8.00       0      0.0      0.00     0%  norm  layernorm  z  a.yaml:9
       2.0   2.0%      1      2.00       0      0.0      1.00    50%  copies from the host

      80.0  µs in 5 launches, each without the 1.00 µs that timing it takes
      20.0  µs in gaps between them
     100.0  µs a step on the device, 200.0 µs by the clock
      31.0  µs floor, 31% of the step: at 1 GB/s, of a copy of 1.00 GiB, and 1.0 TFLOP/s, of a bf16 product of side 4096, both measured now
     5e+06  tokens/s, 15.0% MFU of that rate
  1.00 GiB  in use on the device: 700.0 MiB planned, 200.0 MiB of the context, the code and others, 124.0 MiB of driver and libraries for the step
`

// near compares values whose floats may differ by their last bits.
func near(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	switch x.Kind() {
	case reflect.Float64:
		return math.Abs(x.Float()-y.Float()) <= 1e-12*math.Abs(y.Float())
	case reflect.Slice:
		if x.Len() != y.Len() {
			return false
		}
		for i := range x.Len() {
			if !near(x.Index(i).Interface(), y.Index(i).Interface()) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range x.NumField() {
			if !near(x.Field(i).Interface(), y.Field(i).Interface()) {
				return false
			}
		}
		return true
	}
	return x.Interface() == y.Interface()
}

// TestTrace: the trace has every launch once, in order, and each track a name.
func TestTrace(t *testing.T) {
	r := report{benchmark: benchmark{What: "train", Device: "cuda:0"}, Profile: someProfile(), Roofline: Roofline{Bandwidth: 1e9, Copied: 1 << 30, FLOPS: 1e12, Product: "bf16", Side: 4096}}
	path := filepath.Join(t.TempDir(), "step.json")
	for range 2 { // a trace replaces another
		if err := r.writeTrace(path); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		TraceEvents []struct {
			Name, Ph string
			PID, TID *int
			Ts, Dur  float64
			Args     struct {
				Name, About string
				Grid        [3]int
				Bytes       float64
				FLOPs       float64
				Floor       float64 `json:"floor_us"`
			}
		}
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	names, next := map[string]bool{}, 0
	for _, e := range got.TraceEvents {
		if e.PID == nil || e.TID == nil {
			t.Errorf("%+v has no process or no track", e)
		}
		switch e.Ph {
		case "M":
			names[e.Name+": "+e.Args.Name] = true
		case "X":
			if next == len(r.Profile.Launches) {
				t.Fatalf("more slices than launches:\n%s", data)
			}
			l := r.Profile.Launches[next]
			next++
			if e.Name != l.Kernel || *e.TID != l.Stream || e.Ts != micros(l.Begin) || e.Dur != micros(l.Time) || e.Args.About != l.About ||
				e.Args.Grid != l.Grid || e.Args.Bytes != l.Bytes || e.Args.FLOPs != l.FLOPs || e.Args.Floor != micros(r.Roofline.Floor(l)) {
				t.Errorf("%+v is not %+v", e, l)
			}
		default:
			t.Errorf("an event of phase %s", e.Ph)
		}
	}
	if next != len(r.Profile.Launches) {
		t.Errorf("%d slices of %d launches", next, len(r.Profile.Launches))
	}
	if want := map[string]bool{"process_name: train on cuda:0": true, "thread_name: stream 0": true, "thread_name: stream 1": true}; !reflect.DeepEqual(names, want) {
		t.Errorf("names %v", names)
	}
	if err := r.writeTrace(filepath.Join(path, "below", "a", "file")); err == nil || !strings.Contains(err.Error(), "the trace cannot be written") {
		t.Errorf("a trace below a file: %v", err)
	}
}

// lines are the JSON values that a command prints, by what they are about.
func lines(t *testing.T, out string) map[string][]map[string]any {
	t.Helper()
	all := map[string][]map[string]any{}
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		var v map[string]any
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatalf("%v in %s", err, s.Text())
		}
		what := v["what"].(string)
		all[what] = append(all[what], v)
	}
	return all
}

func TestBench(t *testing.T) {
	cfg := fakeConfig(nil)
	code, out, errs := runCommand(t.Context(), cfg, "bench", "--json", "--steps", "2", "--decode", "3", "--device", "cpu")
	got := lines(t, out)
	if code != 0 || len(got["train"]) != 1 || got["train"][0]["tokens"] != 64.0 || got["train"][0]["steps"] != 2.0 || len(got["decode"]) != 1 || got["decode"][0]["steps"] != 3.0 ||
		len(got["prefill"]) != 1 || got["prefill"][0]["steps"] != 5.0 || got["prefill"][0]["tokens"] != 10.0 {
		t.Errorf("bench: %d\n%s\n%s", code, out, errs)
	}
	// The CPU times no launches.
	for _, args := range [][]string{{"train"}, {"decode", "--batch", "2", "--prompt", "7"}} {
		code, out, errs = runCommand(t.Context(), cfg, append([]string{"bench"}, append(args, "--steps", "2")...)...)
		if code != 0 || !strings.HasPrefix(out, args[0]) || strings.Count(out, "\n") != 1 {
			t.Errorf("bench %v: %d\n%s\n%s", args, code, out, errs)
		}
	}
	calls := []string{}
	device := &profiledDevice{fakeDevice: fakeDevice{&calls}, profile: someProfile()}
	cfg.CUDA = profiledBackend{device}
	path := filepath.Join(t.TempDir(), "step.json")
	for _, what := range []string{"train", "decode"} {
		device.rooms = []int64{100 << 20, 900 << 20}
		args := []string{"bench", what, "--steps", "4"}
		if what == "train" {
			args = append(args, "--trace", path)
		}
		code, out, errs = runCommand(t.Context(), cfg, args...)
		if code != 0 || !strings.HasPrefix(out, what) || !strings.Contains(out, "product 8×8×8  linear  y  a.yaml:4\n") || device.times != 4 ||
			!strings.Contains(out, "900.0 MiB  in use on the device: 700.0 MiB planned, 100.0 MiB of the context, the code and others, 100.0 MiB of driver") {
			t.Errorf("bench %s: %d\n%s\n%s", what, code, out, errs)
		}
		device.rooms = []int64{100 << 20, 900 << 20}
		code, out, errs = runCommand(t.Context(), cfg, "bench", what, "--steps", "4", "--json")
		got := lines(t, out)
		if code != 0 || len(got[what]) != 1 || len(got["kernel"]) != 4 || len(got["step"]) != 1 || got["kernel"][0]["us_per_step"] != 40.0 || got["step"][0]["gaps_us"] != 20.0 {
			t.Errorf("bench %s: %d\n%s\n%s", what, code, out, errs)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestBenchErrors(t *testing.T) {
	cpu, gpu := fakeConfig(nil), fakeConfig(nil)
	calls := []string{}
	device := &profiledDevice{fakeDevice: fakeDevice{&calls}, profile: someProfile()}
	gpu.CUDA = profiledBackend{device}
	for _, c := range []struct {
		cfg    Config
		fails  error
		rooms  []int64
		args   string
		code   int
		stderr string
	}{
		{cpu, nil, nil, "bench --steps -1", 2, "-1, 20 and 5; they must not be negative"},
		{cpu, nil, nil, "bench --prompt 39", 2, "a prompt of 39 tokens and 20 decode steps do not fit the model's context of 40"},
		{cpu, nil, nil, "bench --batch 0", 2, "--batch is 0"},
		{cpu, nil, nil, "bench sideways", 2, `bench takes no argument "sideways"`},
		{cpu, nil, nil, "bench train --steps 0", 2, "--steps is 0; it must be at least 1"},
		{cpu, nil, nil, "bench train --decode 3", 2, "-decode"},
		{cpu, nil, nil, "bench train decode", 2, `fake bench train takes no argument "decode"`},
		{cpu, nil, nil, "bench decode --steps 0", 2, "--steps is 0; it must be at least 1"},
		{cpu, nil, nil, "bench decode --prompt 0", 2, "a prompt of 0 tokens"},
		{cpu, nil, nil, "bench train --steps 1 --trace x.json", 2, "--trace: cpu does not time the launches of a step"},
		{gpu, nil, nil, "bench train --steps 1", 1, "nobody knows"},
		{gpu, nil, []int64{1}, "bench train --steps 1", 1, "nobody knows"},
		{gpu, errors.New("an event failed"), []int64{1, 1}, "bench train --steps 1", 1, "an event failed"},
		{gpu, errors.New("an event failed"), []int64{1, 1}, "bench decode --steps 1", 1, "an event failed"},
		{gpu, nil, nil, "bench train --steps 1 --trace " + os.DevNull + "/x", 2, "is not a folder; name another file"},
	} {
		device.fails, device.rooms = c.fails, c.rooms
		code, out, errs := runCommand(t.Context(), c.cfg, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(errs, c.stderr) || out != "" {
			t.Errorf("%q: exit code %d, want %d\n%s\n%s", c.args, code, c.code, out, errs)
		}
	}
	code, out, errs := runCommand(t.Context(), cpu, "bench", "train", "-h")
	if code != 0 || !strings.Contains(out, "fake bench train") || !strings.Contains(out, "-trace file") {
		t.Errorf("help: %d\n%s\n%s", code, out, errs)
	}
	code, out, errs = runCommand(t.Context(), cpu, "bench", "-h")
	if code != 0 || !strings.Contains(out, "bench train") || !strings.Contains(out, "bench decode") {
		t.Errorf("help: %d\n%s\n%s", code, out, errs)
	}
}
