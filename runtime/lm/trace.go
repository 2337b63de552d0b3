package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// A trace is JSON in the Trace Event Format of Chromium, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

// traceEvent is an event of a trace. Those with the phase X are slices, and those with M name a process or a track.
type traceEvent struct {
	Name  string  `json:"name"`
	Phase string  `json:"ph"`
	PID   int     `json:"pid"`
	TID   int     `json:"tid"`
	At    float64 `json:"ts"`            // microseconds
	Took  float64 `json:"dur,omitempty"` // microseconds
	Args  any     `json:"args"`
}

// launchArgs is what a slice says of its launch.
type launchArgs struct {
	About string  `json:"about,omitempty"`
	Grid  [3]int  `json:"grid"` // zeros for what has none; on the CPU the parts that the worker took
	Bytes float64 `json:"bytes"`
	FLOPs float64 `json:"flops"`
	Floor float64 `json:"floor_us"`
}

// trace is the profiled step: a track for each stream, or on the CPU for each worker, and on it a slice for each launch. Between slices lies the time of
// an event.
func (r *report) trace() []traceEvent {
	type name struct {
		Name string `json:"name"`
	}
	events := []traceEvent{{Name: "process_name", Phase: "M", Args: name{r.benchmark.What + " on " + r.benchmark.Device}}}
	named := map[int]bool{}
	slices, track := r.Profile.Launches, "stream"
	if r.Profile.Workers != nil {
		slices, track = r.Profile.Workers, "worker"
	}
	for _, l := range slices {
		if !named[l.Stream] {
			named[l.Stream] = true
			events = append(events, traceEvent{Name: "thread_name", Phase: "M", TID: l.Stream, Args: name{fmt.Sprintf("%s %d", track, l.Stream)}})
		}
		events = append(events, traceEvent{
			Name: l.Kernel, Phase: "X", TID: l.Stream, At: micros(l.Begin), Took: micros(l.Time),
			Args: launchArgs{l.About, l.Grid, l.Bytes, l.FLOPs, micros(r.Roofline.Floor(l))},
		})
	}
	return events
}

// checkTrace refuses a file for a trace that cannot be written, before anything is measured.
func checkTrace(path string) error {
	folder := filepath.Dir(path)
	switch info, err := os.Stat(folder); {
	case errors.Is(err, fs.ErrNotExist):
		return inputError("--trace %s: there is no folder %s; make it, or name another file", path, folder)
	case err != nil:
		return inputError("--trace %s: %v", path, err)
	case !info.IsDir():
		return inputError("--trace %s: %s is not a folder; name another file", path, folder)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return inputError("--trace %s is a folder; name a file in it", path)
	}
	return nil
}

// writeTrace writes the trace to a file, whole or not at all.
func (r *report) writeTrace(path string) error {
	err := disk.WriteFile(disk.OS{}, path, func(w io.Writer) error {
		return json.NewEncoder(w).Encode(struct {
			Events []traceEvent `json:"traceEvents"`
			Unit   string       `json:"displayTimeUnit"`
		}{r.trace(), "ns"})
	})
	if err != nil {
		return fmt.Errorf("the trace cannot be written: %w", err)
	}
	return nil
}
