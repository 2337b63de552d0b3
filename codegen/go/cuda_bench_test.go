package gogen_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile/gotest"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
)

// TestBenchOfCUDAPrograms: bench train and bench decode of a package, in the simulator, tell of every launch of a step.
func TestBenchOfCUDAPrograms(t *testing.T) {
	libraries := cudatest.Build(t)
	s, text := featureSpec(t, "  attention: \"[causal, causal & window(3), causal]\"", ", precision: bf16")
	p := gotest.Compile(t, s, text, nil)
	gotest.CUDA(t, &p, nil)
	command := gotest.Command(t, p)
	trace := filepath.Join(t.TempDir(), "step.json")
	bench := func(args ...string) []map[string]any {
		cmd := exec.Command(command, append([]string{"bench"}, args...)...)
		cmd.Env = append(os.Environ(), libraries.Environ()...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("bench %v: %v\n%s", args, err, stderr.String())
		}
		var lines []map[string]any
		for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
			var line map[string]any
			if err := json.Unmarshal(s.Bytes(), &line); err != nil {
				t.Fatalf("%v in %s", err, s.Text())
			}
			lines = append(lines, line)
		}
		return lines
	}
	for job, args := range map[string][]string{"train": {"--trace", trace}, "decode": {"--batch", "2"}} {
		lines := bench(append([]string{job, "--json", "--steps", "2", "--device", "cuda"}, args...)...)
		calls, bytes := 0.0, 0.0
		for _, l := range lines[1 : len(lines)-1] {
			if l["what"] != "kernel" || l["us_per_call"].(float64) < 0 || l["bytes"].(float64) == 0 {
				t.Errorf("%s: %v", job, l)
			}
			calls += l["calls"].(float64)
			bytes += l["bytes"].(float64)
		}
		first, last := lines[0], lines[len(lines)-1]
		if first["what"] != job || last["what"] != "step" || last["launches"] != calls || last["mfu"].(float64) <= 0 || last["step_us"].(float64) <= 0 {
			t.Errorf("%s: %v\n%v", job, first, last)
		}
		want := float64(launches(p.CUDA.Funcs[job].Body, p.CUDA.Launches))
		if job == "decode" { // whose graph picks, and copies the tokens to the host
			want += float64(count(p.CUDA.Launches[p.CUDA.Pick]) + 1)
		}
		if calls != want {
			t.Errorf("%s: %g launches in the table, %g in the program", job, calls, want)
		}
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	slices := strings.Count(string(data), `"ph":"X"`)
	if want := launches(p.CUDA.Funcs["train"].Body, p.CUDA.Launches); !json.Valid(data) || slices != want {
		t.Errorf("%d slices in the trace, %d launches in the program", slices, want)
	}
}

// launches counts those of a block of ops.
func launches(b *ir.Block, of map[*ir.Op][]ir.Group) int {
	n := 0
	for _, op := range b.Ops {
		if op.Loop != nil {
			n += len(op.Loop.Indices(0)) * launches(op.Loop.Body, of)
			continue
		}
		n += count(of[op])
	}
	return n
}

func count(groups []ir.Group) (n int) {
	for _, gr := range groups {
		n += gr.Times * len(gr.Launches)
	}
	return n
}
