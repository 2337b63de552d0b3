package lm

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// kernelRow is a line of the table: the launches of a step that are alike.
type kernelRow struct {
	What    string  `json:"what"` // kernel
	Kernel  string  `json:"kernel"`
	About   string  `json:"about"`
	Calls   int     `json:"calls"`
	Call    float64 `json:"us_per_call"`
	Step    float64 `json:"us_per_step"`
	Share   float64 `json:"share_of_step"`
	Bytes   float64 `json:"bytes"` // of all calls, as the FLOPs
	FLOPs   float64 `json:"flops"`
	GBs     float64 `json:"gb_per_second"`
	TFLOPS  float64 `json:"tflop_per_second"`
	Floor   float64 `json:"floor_us"`       // of a call
	OfFloor float64 `json:"share_of_floor"` // how much of the time the floor is
}

// stepSummary is where the time of a step goes, in microseconds.
type stepSummary struct {
	What      string    `json:"what"` // step
	Launches  int       `json:"launches"`
	Kernels   float64   `json:"kernels_us"` // the sum of all launches
	Gaps      float64   `json:"gaps_us"`    // the rest of the step
	Step      float64   `json:"step_us"`    // on the device
	Clock     float64   `json:"clock_us"`   // by the clock of the host
	Floor     float64   `json:"floor_us"`   // the sum of all launches' floors
	Event     float64   `json:"event_us"`
	Speed     float64   `json:"tokens_per_second"` // by the clock
	MFU       float64   `json:"mfu"`               // of the product's rate, by the clock
	Bandwidth float64   `json:"copy_bytes_per_second"`
	FLOPS     float64   `json:"product_flops"`
	Product   string    `json:"product"`
	FP8       float64   `json:"fp8_product_flops,omitempty"`
	Memory    memoryUse `json:"memory"`
}

func micros(t time.Duration) float64 { return float64(t.Nanoseconds()) / 1e3 }

// ratio is a/b, 0 where b is.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// rows sums up the launches of one kernel for one place in the spec, those that take most time first.
func (r *report) rows() []kernelRow {
	type key struct{ kernel, about string }
	var rows []kernelRow
	at := map[key]int{}
	for _, l := range r.Profile.Launches {
		k := key{l.Kernel, l.About}
		i, ok := at[k]
		if !ok {
			i = len(rows)
			at[k] = i
			rows = append(rows, kernelRow{What: "kernel", Kernel: l.Kernel, About: l.About})
		}
		x := &rows[i]
		x.Calls++
		x.Step += micros(l.Time)
		x.Floor += micros(r.Roofline.Floor(l))
		x.Bytes += l.Bytes
		x.FLOPs += l.FLOPs
	}
	for i := range rows {
		x := &rows[i]
		x.Share = ratio(x.Step, micros(r.Profile.Step))
		x.GBs, x.TFLOPS = ratio(x.Bytes, x.Step)/1e3, ratio(x.FLOPs, x.Step)/1e6
		x.OfFloor = ratio(x.Floor, x.Step)
		x.Call, x.Floor = x.Step/float64(x.Calls), x.Floor/float64(x.Calls)
	}
	slices.SortStableFunc(rows, func(a, b kernelRow) int { return cmp.Compare(b.Step, a.Step) })
	return rows
}

func (r *report) summary() stepSummary {
	p := r.Profile
	s := stepSummary{
		What: "step", Launches: len(p.Launches), Step: micros(p.Step), Clock: 1e3 * r.Median, Event: micros(p.Event), Speed: r.Speed,
		Bandwidth: r.Roofline.Bandwidth, FLOPS: r.Roofline.FLOPS, Product: r.Roofline.Product, FP8: r.Roofline.Rates["fp8"], Memory: r.Memory,
	}
	for _, l := range p.Launches {
		s.Kernels += micros(l.Time)
		s.Floor += micros(r.Roofline.Floor(l))
	}
	s.Gaps = s.Step - s.Kernels
	s.MFU = ratio(p.FLOPs, s.Clock*1e-6*s.FLOPS)
	return s
}

func (r *report) printJSON(c *call) error {
	for _, x := range r.rows() {
		if err := c.printJSON(x); err != nil {
			return err
		}
	}
	return c.printJSON(r.summary())
}

// print writes the table, and what it sums up to.
func (r *report) print(w io.Writer) error {
	var b strings.Builder
	unit, name := 1e12, "TFLOP/s"
	place := "kernel, op, place in the spec"
	if r.Profile.Workers != nil { // on the CPU
		unit, name = 1e9, "GFLOP/s"
		place = "kernel, place in the package"
	}
	fmt.Fprintf(&b, "\n%10s %6s %6s %9s %7s %8s %9s %6s  %s\n", "µs/step", "share", "calls", "µs/call", "GB/s", name, "floor µs", "floor", place)
	for _, x := range r.rows() {
		fmt.Fprintf(&b, "%10.1f %5.1f%% %6d %9.2f %7.0f %8.1f %9.2f %5.0f%%  %s\n",
			x.Step, 100*x.Share, x.Calls, x.Call, x.GBs, x.TFLOPS*1e12/unit, x.Floor, 100*x.OfFloor, strings.TrimRight(x.Kernel+"  "+x.About, " "))
	}
	s := r.summary()
	line := func(value string, format string, args ...any) {
		fmt.Fprintf(&b, "%10s  %s\n", value, fmt.Sprintf(format, args...))
	}
	us := func(x float64) string { return fmt.Sprintf("%.1f", x) }
	b.WriteString("\n")
	if s.Event > 0 {
		line(us(s.Kernels), "µs in %d launches, each without the %.2f µs that timing it takes", s.Launches, s.Event)
	} else {
		line(us(s.Kernels), "µs in %d kernels", s.Launches)
	}
	line(us(s.Gaps), "µs in gaps between them")
	line(us(s.Step), "µs a step on the device, %.1f µs by the clock", s.Clock)
	switch {
	case r.Roofline.Read > 0:
		line(us(s.Floor), "µs floor, %.0f%% of the step: at %.1f GB/s, of reading %s over and over, measured now",
			100*ratio(s.Floor, s.Step), s.Bandwidth/1e9, bytesText(int64(r.Roofline.Read)))
	case s.Floor > 0:
		copied, product := "of a copy of "+bytesText(int64(r.Roofline.Copied)), fmt.Sprintf("of a %s product of side %d", s.Product, r.Roofline.Side)
		if r.Roofline.Side == 0 {
			copied, product = "read, or what the caches give", fmt.Sprintf("of %s multiply-adds", s.Product)
		}
		line(us(s.Floor), "µs floor, %.0f%% of the step: at %.0f GB/s, %s, and %.1f %s, %s, both measured now",
			100*ratio(s.Floor, s.Step), s.Bandwidth/1e9, copied, s.FLOPS/unit, name, product)
	}
	if s.FP8 > 0 {
		line(us(s.FP8/1e12), "TFLOP/s of a product of that kind of operands in 8 bits: the floor of those in the step")
	}
	speed := "tokens/s"
	if s.FLOPS > 0 {
		speed += fmt.Sprintf(", %.1f%% MFU of that rate", 100*s.MFU)
	}
	line(fmt.Sprintf("%.4g", s.Speed), "%s", speed)
	if s.Memory.Used > 0 {
		line(bytesText(s.Memory.Used), "in use on the device: %s planned, %s of the context, the code and others, %s of driver and libraries for the step",
			bytesText(s.Memory.Planned), bytesText(s.Memory.Context), bytesText(s.Memory.Library))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// bytesText prints bytes for people.
func bytesText(n int64) string {
	if n >= 1<<30 || n <= -1<<30 {
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
