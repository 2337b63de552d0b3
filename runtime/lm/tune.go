package lm

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// tune times the products of the program anew, and shows what each took.
func (c *call) tune() error {
	run := c.flags.String("run", "", "`folder` of a run or a model whose choices are made anew too: its results may change in their last bits")
	if err := c.parse(); err != nil {
		return err
	}
	tuned := ""
	if *run != "" {
		if info, err := os.Stat(*run); err != nil || !info.IsDir() {
			return fileError("%s is not the folder of a run or a model", *run)
		}
		tuned = filepath.Join(*run, tunedFile)
	}
	m, err := c.use(&Model{cfg: c.cfg}, nil) // weights are not needed
	if err != nil {
		return err
	}
	defer m.Close()
	switch {
	case m.whyCPU != nil:
		return fmt.Errorf("products are timed on a GPU: %w", m.whyCPU)
	case m.device == nil:
		return inputError("products are timed on a GPU, not on the device cpu")
	}
	begin := time.Now()
	timings, err := m.device.Tune(tuned)
	if err != nil {
		return err
	}
	if *c.json {
		for _, t := range timings {
			if err := c.printJSON(struct {
				About      string  `json:"about"`
				Shape      string  `json:"shape"`
				Candidates int     `json:"candidates"`
				Chosen     int     `json:"chosen"`
				First      float64 `json:"first_us"`
				Took       float64 `json:"took_us"` // 0: there was no memory to time it
			}{t.About, t.Shape, t.Candidates, t.Chosen, micro(t.First), micro(t.Took)}); err != nil {
				return err
			}
		}
		return nil
	}
	return c.printTimings(timings, m.deviceName(), time.Since(begin))
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// printTimings writes a table, and the sum of what the first choices take and of what the chosen ones do.
func (c *call) printTimings(timings []Timing, device string, in time.Duration) error {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "product\tshape\tfirst choice\tchosen\ttime\tratio")
	var first, took time.Duration
	timed := 0
	for _, t := range timings {
		switch {
		case t.Took == 0:
			fmt.Fprintf(w, "%s\t%s\tno memory to time it\t\t\t\n", t.About, t.Shape)
		case t.First == 0:
			fmt.Fprintf(w, "%s\t%s\tcannot be run\t%d of %d\t%.1f µs\t\n", t.About, t.Shape, t.Chosen, t.Candidates, micro(t.Took))
		default:
			fmt.Fprintf(w, "%s\t%s\t%.1f µs\t%d of %d\t%.1f µs\t%.3f\n", t.About, t.Shape, micro(t.First), t.Chosen, t.Candidates, micro(t.Took),
				float64(t.Took)/float64(t.First))
			first, took = first+t.First, took+t.Took
		}
		if t.Took > 0 {
			timed++
		}
	}
	if first > 0 {
		fmt.Fprintf(w, "in all\t\t%.1f µs\t\t%.1f µs\t%.3f\n", micro(first), micro(took), float64(took)/float64(first))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.stdout, "%d products timed on %s in %.1f s\n", timed, device, in.Seconds())
	return err
}
