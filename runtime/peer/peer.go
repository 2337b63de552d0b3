// Package peer measures other programs that train and generate, on a model that is described to them: PyTorch and llama.cpp, by
// the Python that is installed. Nothing else of tfc needs Python.
package peer

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed python/*.py
var program embed.FS

// Request is what to measure. The fields are those of the JSON that the Python program reads.
type Request struct {
	Peer       string  `json:"peer"`
	Job        string  `json:"job"`        // train, prefill or decode
	Config     string  `json:"config"`     // text of config.json
	Parameters int     `json:"parameters"` // a model with another number is another model
	Vocab      int     `json:"vocab"`
	Device     string  `json:"device"` // cpu, or cuda:0
	Threads    int     `json:"threads"`
	Type       string  `json:"type"` // f32, tf32, bf16 or fp16: what training multiplies; of generation the weights, int8 and int4 too
	Batch      int     `json:"batch"`
	MicroBatch int     `json:"micro_batch"`
	Context    int     `json:"context"` // tokens of a sequence in training
	Clip       float64 `json:"clip"`
	Dropout    Dropout `json:"dropout"`
	Prompt     int     `json:"prompt"` // tokens before the first step of decode, or of prefill
	Steps      int     `json:"steps"`  // to time
	Began      float64 `json:"began"`  // when, in seconds since 1970; Measure fills it in
}

// Dropout is the share of elements that training drops at each place.
type Dropout struct {
	Embedding float64 `json:"embedding"`
	Attention float64 `json:"attention"`
	Residual  float64 `json:"residual"`
}

// Figures is what was measured, or why nothing was.
type Figures struct {
	Missing string    `json:"missing"`    // why the peer is not there; empty where it is
	Times   []float64 `json:"times_ms"`   // of the steps, in order
	Start   float64   `json:"start_s"`    // from the start of the process to the end of its first step
	Version string    `json:"version"`    // of its libraries
	Peak    int64     `json:"peak_bytes"` // of the GPU's memory; 0 on the CPU
}

// For lists the peers of a job on a device.
func For(job, device string) []string {
	switch {
	case job == "train":
		return []string{"transformers eager", "transformers torch.compile", "lean torch.compile"}
	case device == "cpu":
		return []string{"transformers eager", "lean torch.compile", "llama.cpp"}
	}
	return []string{"transformers eager", "lean torch.compile"}
}

// Python finds the interpreter: TFC_PYTHON, or PATH's python3, which is that of the virtual environment that is active.
func Python() (string, error) {
	name, from := os.Getenv("TFC_PYTHON"), "TFC_PYTHON"
	if name == "" {
		name, from = "python3", "PATH"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the peers run in Python, and %s has none: %w; install it with torch and transformers, and llama-cpp-python and gguf for llama.cpp, "+
			"activate their virtual environment, or name its python3 in TFC_PYTHON", from, err)
	}
	return filepath.Abs(path)
}

// Measure runs a peer in a process of its own, so that none takes another's memory, or its figures when it dies. An error is one of
// this machine or of ctx; whatever keeps the peer from its work is Figures.Missing.
func (r Request) Measure(ctx context.Context, python string) (f Figures, err error) {
	dir, err := os.MkdirTemp("", "tfc-peer-")
	if err != nil {
		return f, fmt.Errorf("measure %s: %w", r.Peer, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, program); err != nil {
		return f, fmt.Errorf("measure %s: %w", r.Peer, err)
	}
	r.Began = float64(time.Now().UnixMicro()) / 1e6
	request, err := json.Marshal(r)
	if err != nil {
		return f, fmt.Errorf("measure %s: %w", r.Peer, err)
	}
	var stdout, stderr tail
	cmd := exec.CommandContext(ctx, python, filepath.Join("python", "measure.py"))
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(string(request)), &stdout, &stderr
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "TOKENIZERS_PARALLELISM=false", "HF_HUB_OFFLINE=1")
	if os.Getenv("TORCHINDUCTOR_CACHE_DIR") == "" { // what it compiles goes with the rest; and every run starts alike
		cmd.Env = append(cmd.Env, "TORCHINDUCTOR_CACHE_DIR="+filepath.Join(dir, "inductor"))
	}
	// The compilers that it starts end with it: when ctx does, and at the latest when it has.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // fails where all have ended
	}
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	bad := json.Unmarshal([]byte(stdout), &f)
	if bad == nil && f.Missing == "" && len(f.Times) != r.Steps {
		bad = fmt.Errorf("it timed %d of %d steps", len(f.Times), r.Steps)
	}
	switch {
	case err == nil && bad == nil:
		return f, nil
	case err != nil:
		return Figures{Missing: fmt.Sprintf("%s ended with %v; it said last:\n%s", python, err, stderr.last(12))}, nil
	}
	return Figures{Missing: strings.TrimSpace(fmt.Sprintf("%s answered %q, which is not an answer: %v\n%s", python, stdout.last(3), bad, stderr.last(12)))}, nil
}

// tail keeps the last of what is written to it.
type tail []byte

const tailBytes = 1 << 20

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-tailBytes):]
	return len(p), nil
}

// last returns the last lines.
func (t tail) last(n int) string {
	lines := strings.Split(strings.TrimSpace(string(t)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
