package telemetry

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Record is one line of a training log.
type Record struct {
	Step            int      `json:"step"`
	Loss            float64  `json:"loss"`                        // mean since the line before
	GradNorm        float64  `json:"grad_norm"`                   // of this step, before clipping
	LR              float64  `json:"lr"`                          // of this step
	TokensPerSecond float64  `json:"tokens_per_second,omitempty"` // since the line before; absent where nothing was timed
	EvalLoss        *float64 `json:"eval_loss,omitempty"`         // where this step was evaluated
	Elapsed         float64  `json:"elapsed"`                     // seconds of training, over all its parts
	GPU             *GPU     `json:"gpu,omitempty"`               // where training is on one
}

// GPU is how a GPU did at a moment. What it does not tell is absent.
type GPU struct {
	Name        string   `json:"name"`                          // as NVIDIA H100 80GB HBM3
	Capability  string   `json:"compute_capability"`            // as 9.0
	MemoryUsed  uint64   `json:"memory_used,omitempty"`         // bytes, by all programs
	MemoryTotal uint64   `json:"memory_total,omitempty"`        // bytes
	SMClock     *int     `json:"sm_clock_mhz,omitempty"`        // of the streaming multiprocessors
	Power       *float64 `json:"power_watts,omitempty"`         // drawn by the board
	Temperature *int     `json:"temperature_celsius,omitempty"` // of the chip
	ECC         *uint64  `json:"ecc_uncorrected,omitempty"`     // memory errors that could not be corrected, since the driver was loaded
	Throttle    []string `json:"throttle,omitzero"`             // what keeps the clocks from going higher; empty: nothing does
}

// Log is a file of JSON lines, one Record each.
type Log struct {
	f    *os.File
	path string
	size int64 // of the whole lines
}

const maxLine = 64 << 10 // bytes; a longer line is none of ours

// OpenLog opens the log of a run that continues after the given step: lines about later steps, written before the run
// was killed, and a torn last line are cut off, so that the log reads as that of an unbroken run.
func OpenLog(path string, step int) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open the training log: %w", err)
	}
	_, keep, err := readLog(f, step)
	if err == nil {
		err = f.Truncate(keep)
	}
	if err != nil {
		_ = f.Close() // the first error says more
		return nil, fmt.Errorf("continue the training log %s: %w", path, err)
	}
	return &Log{f, path, keep}, nil
}

// Write appends a line, or nothing where that fails. It reaches the disk at the next Sync.
func (l *Log) Write(r Record) error {
	line, err := json.Marshal(r)
	if err == nil {
		if _, err = l.f.Write(append(line, '\n')); err != nil {
			err = errors.Join(err, l.f.Truncate(l.size))
		}
	}
	if err != nil {
		return fmt.Errorf("write the training log %s: %w", l.path, err)
	}
	l.size += int64(len(line)) + 1
	return nil
}

// Sync brings the lines written to the disk.
func (l *Log) Sync() error {
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("write the training log %s: %w", l.path, err)
	}
	return nil
}

// Close syncs and closes the log.
func (l *Log) Close() error {
	return errors.Join(l.Sync(), l.f.Close())
}

// ReadLog returns the records of a log up to the first line that is broken. A log that does not exist has none.
func ReadLog(path string) ([]Record, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the training log: %w", err)
	}
	defer f.Close()
	records, _, err := readLog(f, int(^uint(0)>>1))
	if err != nil {
		return nil, fmt.Errorf("read the training log %s: %w", path, err)
	}
	return records, nil
}

// readLog reads whole lines about steps up to last, and returns how many bytes they take.
func readLog(r io.Reader, last int) (records []Record, size int64, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if err == io.EOF || err == bufio.ErrBufferFull {
			return records, size, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var rec Record
		if json.Unmarshal(line, &rec) != nil || rec.Step > last || rec.Step <= 0 {
			return records, size, nil
		}
		records = append(records, rec)
		size += int64(len(line))
	}
}
