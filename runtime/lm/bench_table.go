package lm

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// report is what bench train and bench decode say of a step.
type report struct {
	benchmark benchmark
	Profile   *Profile // nil where the device does not tell
	Roofline  Roofline
	Memory    memoryUse
}

// kernelRow is a line of the table: the launches of a step that are alike.
type kernelRow struct {
	What    string  `json:"what"` // kernel
	Kernel  string  `json:"kernel"`
	About   string  `json:"about"`
	Calls   int     `json:"calls"`
	Call    float64 `json:"us_per_call"`
	Step    float64 `json:"us_per_step"`
	Share   float64 `json:"share_of_step"`
	GBs     float64 `json:"gb_per_second"`
	TFLOPS  float64 `json:"tflop_per_second"`
	Floor   float64 `json:"floor_us"` // of a call
	OfFloor float64 `json:"share_of_floor"`

	bytes, flops float64
}

// stepSummary is where the time of a step goes, in microseconds.
type stepSummary struct {
	What      string    `json:"what"` // step
	Launches  int       `json:"launches"`
	Kernels   float64   `json:"kernels_us"` // the sum of all launches
	Gaps      float64   `json:"gaps_us"`    // the rest of the step
	Step      float64   `json:"step_us"`    // on the device
	Floor     float64   `json:"floor_us"`   // the sum of all launches' floors
	Clock     float64   `json:"clock_us"`   // by the host's clock
	Event     float64   `json:"event_us"`   // taken off each launch
	Speed     float64   `json:"tokens_per_second"`
	MFU       float64   `json:"mfu"` // the model's FLOPs over those of the roofline in the time by the clock
	Bandwidth float64   `json:"copy_bytes_per_second"`
	FLOPS     float64   `json:"product_flop_per_second"`
	Product   string    `json:"product"`
	Memory    memoryUse `json:"memory"`
}

func micros(t time.Duration) float64 { return float64(t.Nanoseconds()) / 1e3 }

// rows sums up the launches that have one kernel and one place in the spec, most time first.
func (r *report) rows() []kernelRow {
	var rows []kernelRow
	at := map[[2]string]int{}
	step := micros(r.Profile.Step)
	for _, l := range r.Profile.Launches {
		i, ok := at[[2]string{l.Kernel, l.About}]
		if !ok {
			i = len(rows)
			at[[2]string{l.Kernel, l.About}] = i
			rows = append(rows, kernelRow{What: "kernel", Kernel: l.Kernel, About: l.About})
		}
		x := &rows[i]
		x.Calls++
		x.Step += micros(l.Time)
		x.Floor += micros(r.Roofline.Floor(l))
		x.bytes += l.Bytes
		x.flops += l.FLOPs
	}
	for i := range rows {
		x := &rows[i]
		x.Share = ratio(x.Step, step)
		x.GBs, x.TFLOPS = ratio(x.bytes, x.Step)/1e3, ratio(x.flops, x.Step)/1e6
		x.OfFloor = ratio(x.Floor, x.Step)
		x.Call, x.Floor = x.Step/float64(x.Calls), x.Floor/float64(x.Calls)
	}
	slices.SortStableFunc(rows, func(a, b kernelRow) int { return cmp.Compare(b.Step, a.Step) })
	return rows
}

// ratio is a/b, 0 where b is.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (r *report) summary() stepSummary {
	p := r.Profile
	s := stepSummary{
		What: "step", Launches: len(p.Launches), Step: micros(p.Step), Event: micros(p.Event), Clock: 1e3 * r.benchmark.Median, Speed: r.benchmark.Speed,
		Bandwidth: r.Roofline.Bandwidth, FLOPS: r.Roofline.FLOPS, Product: r.Roofline.Product, Memory: r.Memory,
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
	fmt.Fprintf(&b, "\n%10s %6s %5s %9s %7s %7s %9s %6s  %s\n", "us/step", "share", "calls", "us/call", "GB/s", "TFLOP/s", "floor us", "floor", "kernel")
	for _, x := range r.rows() {
		fmt.Fprintf(&b, "%10.1f %5.1f%% %5d %9.2f %7.0f %7.1f %9.2f %5.0f%%  %s\n",
			x.Step, 100*x.Share, x.Calls, x.Call, x.GBs, x.TFLOPS, x.Floor, 100*x.OfFloor, strings.TrimRight(x.Kernel+"  "+x.About, " "))
	}
	s := r.summary()
	fmt.Fprintf(&b, "\n%10.1f us: sum of %d launches, each without the %.2f us of its event\n", s.Kernels, s.Launches, s.Event)
	fmt.Fprintf(&b, "%10.1f us: gaps between them\n", s.Gaps)
	fmt.Fprintf(&b, "%10.1f us: a step on the device; %.1f us by the clock\n", s.Step, s.Clock)
	fmt.Fprintf(&b, "%10.1f us: floor, at %.0f GB/s (a copy of %s) and %.1f TFLOP/s (a product of %d×%d×%d in %s), measured now\n",
		s.Floor, s.Bandwidth/1e9, mebibytes(int64(r.Roofline.Copied)), s.FLOPS/1e12, r.Roofline.Side, r.Roofline.Side, r.Roofline.Side, s.Product)
	fmt.Fprintf(&b, "%10.4g tokens/s, %.1f%% MFU of that rate\n", s.Speed, 100*s.MFU)
	fmt.Fprintf(&b, "memory: %s planned; the driver says %s in use: beside the plan %s for the context and code and for others, %s for libraries\n",
		mebibytes(s.Memory.Planned), mebibytes(s.Memory.Used), mebibytes(s.Memory.Context), mebibytes(s.Memory.Library))
	_, err := io.WriteString(w, b.String())
	return err
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
