package lm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/peer"
)

// fakePython stands for Python: two steps of 4 and 2 ms, no llama.cpp. It keeps what it is asked in a folder, a file a request.
func fakePython(t *testing.T, steps string) (requests string) {
	t.Helper()
	requests = t.TempDir()
	path := filepath.Join(t.TempDir(), "python")
	body := `#!/bin/sh
file=$(mktemp ` + requests + `/XXXXXX); cat > $file
if grep -q llama.cpp $file; then printf '%s' '{"missing": "no llama\nhere"}'; exit; fi
if grep -q eager $file; then echo no memory >&2; exit 1; fi
echo '{"times_ms": [` + steps + `], "start_s": 2.5, "version": "PyTorch 9", "peak_bytes": 1073741824}'
`
	if err := os.WriteFile(path, []byte(body), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TFC_PYTHON", path)
	return requests
}

func TestBenchPeers(t *testing.T) {
	requests := fakePython(t, "4, 2")
	cfg := fakeConfig(nil)
	code, out, errs := runCommand(t.Context(), cfg, "bench", "--peers", "--steps", "2", "--prefill", "2", "--decode", "2", "--device", "cpu", "--json")
	got := lines(t, out)["peer"]
	if code != 0 || len(got) != 9 || strings.Count(errs, "fake: measuring ") != 9 {
		t.Fatalf("exit code %d, %d lines\n%s\n%s", code, len(got), out, errs)
	}
	for _, l := range got {
		missing, _ := l["missing"].(string)
		switch l["peer"] {
		case "transformers eager":
			if !strings.Contains(missing, "exit status 1; it said last:\nno memory") {
				t.Error(l)
			}
		case "llama.cpp":
			if l["job"] == "train" || missing != "no llama\nhere" {
				t.Error(l)
			}
		default:
			tokens := map[string]float64{"train": 64, "prefill": 10, "decode": 1}[l["job"].(string)]
			if missing != "" || l["median_ms"] != 4.0 || l["min_ms"] != 2.0 || l["start_s"] != 2.5 || l["tokens_per_second"] != 250*tokens || !(l["ratio"].(float64) > 0) {
				t.Error(l)
			}
		}
	}
	files, err := os.ReadDir(requests)
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		var r peer.Request
		text, err := os.ReadFile(filepath.Join(requests, f.Name()))
		if err != nil || json.Unmarshal(text, &r) != nil || r.Config != cfg.HFConfig || r.Parameters != 2*fakeVocab*fakeHidden || r.Steps != 2 || r.Dropout.Embedding != 0.1 {
			t.Errorf("%s, %v", text, err)
		}
	}

	for _, args := range []string{"bench train --steps 2", "bench cpu --steps 2", "bench decode --steps 2"} {
		code, out, errs := runCommand(t.Context(), fakeConfig(nil), append(strings.Fields(args), "--peers")...)
		job := "train"
		if strings.Contains(args, "decode") {
			job = "decode"
		}
		for _, want := range []string{
			"\n" + job + " elsewhere, f32", "transformers eager         no peer: ", "said last:\n    no memory\n",
			"\nlean torch.compile                           4 (2 to 4) ", " x as long  (PyTorch 9; at most 1.00 GiB of the GPU)\n",
		} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("%s: exit code %d, no %q in\n%s\n%s", args, code, want, out, errs)
			}
		}
	}
}

func TestBenchPeersThatAreNotThere(t *testing.T) {
	t.Setenv("TFC_PYTHON", filepath.Join(t.TempDir(), "python"))
	code, out, errs := runCommand(t.Context(), fakeConfig(nil), "bench", "train", "--peers", "--steps", "1")
	if code != exitUsage || out != "" || !strings.Contains(errs, "--peers: the peers run in Python, and TFC_PYTHON has none") {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}

	requests := fakePython(t, "1")
	cfg := fakeConfig(nil)
	cfg.HFConfig = `{"model_type": "tfc"}`
	code, out, errs = runCommand(t.Context(), cfg, "bench", "train", "--peers", "--steps", "1")
	if files, _ := os.ReadDir(requests); code != 0 || len(files) > 0 || strings.Count(out, "no peer: no library has this model") != 3 {
		t.Errorf("exit code %d\n%s\n%s", code, out, errs)
	}
}

// What is asked for follows the device: the CPU has its own types.
func TestPeerRequest(t *testing.T) {
	for _, c := range []struct{ job, device, precision, weights, want string }{
		{"train", "cpu", "f32", "", "f32"}, {"train", "cpu", "bf16", "", "bf16"}, {"train", "cpu", "fp8", "", "bf16"},
		{"train", "cpu", "tf32", "", "f32"}, {"train", "cpu", "fp16", "", "f32"},
		{"train", "cuda:1, a GPU", "tf32", "", "tf32"}, {"train", "cuda:1, a GPU", "fp16", "", "fp16"}, {"train", "cuda:1, a GPU", "fp8", "", "bf16"},
		{"decode", "cpu", "bf16", "int4", "int4"}, {"prefill", "cpu", "bf16", "", "f32"},
		{"decode", "cuda:1, a GPU", "fp8", "int4", "bf16"}, {"prefill", "cuda:1, a GPU", "f32", "int4", "f32"},
	} {
		cfg := fakeConfig(nil)
		cfg.Settings = []Setting{{"train.precision", c.precision}, {"train.clip", "0.5"}}
		cfg.Generate.Weights = c.weights
		r := cfg.peerRequest(benchmark{What: c.job, Device: c.device, Steps: 3}, decodeShape{batch: 7, prompt: 5})
		device, _, _ := strings.Cut(c.device, ",")
		batch := 7
		if c.job == "train" {
			batch = cfg.Train.Batch
		}
		if r.Type != c.want || r.Device != device || r.Batch != batch || r.Clip != 0.5 || r.Prompt != 5 || r.Steps != 3 {
			t.Errorf("%v: %+v", c, r)
		}
	}
	if text := peerTable("train", "bf16", "fp8", nil); !strings.Contains(text, "bf16, as none of them trains in fp8") {
		t.Error(text)
	}
}
