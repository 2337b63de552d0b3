package peer

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// script writes a program that stands for Python.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python3")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o777); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMeasure(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	request := filepath.Join(t.TempDir(), "request.json")
	for _, c := range []struct {
		name, body, missing string
	}{
		{"an answer", `cat > ` + request + `; test -f "$1" || exit 9; test -n "$TORCHINDUCTOR_CACHE_DIR" || exit 8
			echo '{"times_ms": [1.5, 2.5], "start_s": 3, "version": "v 1", "peak_bytes": 4}'`, ""},
		{"a peer that is not there", `echo '{"missing": "there is no torch"}'`, "there is no torch"},
		{"a crash", `echo one >&2; echo a reason >&2; exit 3`, "exit status 3; it said last:\none\na reason"},
		{"a crash after half of an answer", `printf '{"times_ms": [1,'; kill -9 $$`, "signal: killed"},
		{"garbage", `echo hello; echo why >&2`, "answered \"hello\", which is not an answer: invalid character 'h' looking for beginning of value\nwhy"},
		{"nothing", ``, `answered ""`},
		{"too few steps", `echo '{"times_ms": [1]}'`, "it timed 1 of 2 steps"},
		{"no program at all", "", "no such file"},
	} {
		python := script(t, c.body)
		if c.name == "no program at all" {
			python += "-gone"
		}
		r := Request{Peer: "lean torch.compile", Job: "train", Config: "{}", Parameters: 7, Device: "cpu", Threads: 2, Type: "bf16", Dropout: Dropout{Residual: 0.1}, Steps: 2}
		f, err := r.Measure(t.Context(), python)
		if err != nil || !strings.Contains(f.Missing, c.missing) || (f.Missing == "") != (c.missing == "") {
			t.Errorf("%s: %+v, %v", c.name, f, err)
		}
		if want := (Figures{Times: []float64{1.5, 2.5}, Start: 3, Version: "v 1", Peak: 4}); c.missing == "" && !reflect.DeepEqual(f, want) {
			t.Errorf("%s: %+v", c.name, f)
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Fatalf("%s: %v is left", c.name, left)
		}
	}
	text, err := os.ReadFile(request)
	var got map[string]any
	if err != nil || json.Unmarshal(text, &got) != nil || got["peer"] != "lean torch.compile" || got["type"] != "bf16" || got["dropout"].(map[string]any)["residual"] != 0.1 ||
		time.Since(time.Unix(int64(got["began"].(float64)), 0)) > time.Hour {
		t.Errorf("the request: %v\n%s", err, text)
	}
}

func wantEnded(t *testing.T, pid []byte) {
	t.Helper()
	for range 400 { // who was killed is a zombie until its new parent looks
		state, _ := exec.Command("ps", "-o", "stat=", "-p", strings.TrimSpace(string(pid))).Output()
		if s := strings.TrimSpace(string(state)); s == "" || s[0] == 'Z' {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("process %s runs on", pid)
}

// A cancelled measurement ends all that it started.
func TestCancel(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	child := filepath.Join(t.TempDir(), "pid")
	python := script(t, `sleep 600 & echo $! > `+child+`.new; mv `+child+`.new `+child+`; wait`)
	ctx, cancel := context.WithCancel(t.Context())
	var pid []byte
	go func() {
		defer cancel()
		for len(pid) == 0 && t.Context().Err() == nil {
			time.Sleep(5 * time.Millisecond)
			pid, _ = os.ReadFile(child)
		}
	}()
	_, err := Request{Steps: 1}.Measure(ctx, python)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	wantEnded(t, pid)
}

// What Python leaves running ends with it.
func TestNothingRunsOn(t *testing.T) {
	child := filepath.Join(t.TempDir(), "pid")
	python := script(t, `sleep 600 >/dev/null 2>&1 & echo $! > `+child+`; echo '{"times_ms": [1]}'`)
	if f, err := (Request{Steps: 1}).Measure(t.Context(), python); err != nil || f.Missing != "" {
		t.Fatal(f, err)
	}
	pid, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	wantEnded(t, pid)
}

func TestPython(t *testing.T) {
	here := script(t, "")
	t.Setenv("PATH", filepath.Dir(here))
	t.Setenv("TFC_PYTHON", "")
	if path, err := Python(); err != nil || path != here {
		t.Errorf("%s, %v", path, err)
	}
	t.Setenv("TFC_PYTHON", here+"-gone")
	if _, err := Python(); err == nil || !strings.Contains(err.Error(), "TFC_PYTHON has none") {
		t.Error(err)
	}
	t.Setenv("TFC_PYTHON", "")
	t.Setenv("PATH", t.TempDir())
	if _, err := Python(); err == nil || !strings.Contains(err.Error(), "PATH has none") {
		t.Error(err)
	}
}

func TestFor(t *testing.T) {
	if slices.Contains(For("decode", "cuda:0"), "llama.cpp") || !slices.Contains(For("prefill", "cpu"), "llama.cpp") || slices.Contains(For("train", "cpu"), "llama.cpp") {
		t.Error("llama.cpp generates, on the CPU")
	}
}

const (
	gpt2 = `{"model_type": "gpt2", "vocab_size": 60, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_inner": 64, "n_positions": 32, "layer_norm_epsilon": 1e-5,
		"activation_function": "gelu_pytorch_tanh", "tie_word_embeddings": true, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}`
	llama = `{"model_type": "llama", "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
		"intermediate_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
		"rope_parameters": {"rope_type": "llama3", "rope_theta": 500, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 16}}`
	gpt2Size  = 60*32 + 32*32 + 3*64 + 4*32*32 + 4*32 + 2*32*64 + 96
	llamaSize = 2*60*32 + 3*32 + 6*32*32 + 3*32*64
)

// real is the Python of this machine, where it has the modules.
func real(t *testing.T, modules string) string {
	t.Helper()
	python, err := Python()
	if err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command(python, "-c", "import "+modules).CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("%s cannot import %s: %s", python, modules, lines[len(lines)-1])
	}
	return python
}

func tiny(peer, job, kind string) Request {
	return Request{
		Peer: peer, Job: job, Config: gpt2, Parameters: gpt2Size, Vocab: 60, Device: "cpu", Threads: 1, Type: kind, Batch: 4, MicroBatch: 2, Context: 16, Clip: 1, Prompt: 8, Steps: 3,
	}
}

func TestPyTorch(t *testing.T) {
	python := real(t, "torch, transformers")
	other := tiny("transformers eager", "decode", "f32")
	other.Config, other.Parameters = llama, llamaSize
	for _, r := range []Request{
		tiny("transformers eager", "train", "bf16"), tiny("transformers eager", "prefill", "f32"), tiny("transformers eager", "decode", "bf16"), other,
		tiny("transformers torch.compile", "train", "f32"),
		tiny("lean torch.compile", "train", "bf16"), tiny("lean torch.compile", "prefill", "bf16"), tiny("lean torch.compile", "decode", "f32"),
	} {
		f, err := r.Measure(t.Context(), python)
		if err != nil || f.Missing != "" || !(slices.Min(f.Times) > 0 && f.Start > 0) || !strings.HasPrefix(f.Version, "PyTorch ") {
			t.Errorf("%s, %s: %+v, %v", r.Peer, r.Job, f, err)
		}
	}
	type change func(*Request)
	for want, to := range map[string]change{
		"no class for the model_type zebra":                  func(r *Request) { r.Config = strings.Replace(gpt2, "gpt2", "zebra", 1) },
		"it has 11552 parameters, ours 11553":                func(r *Request) { r.Parameters++ },
		"no dropout of 0.1 at the residual":                  func(r *Request) { r.Dropout.Residual = 0.1 },
		"PyTorch has no weights of int4":                     func(r *Request) { r.Job, r.Type = "decode", "int4" },
		"models like GPT-2 and Llama; this one's model_type": func(r *Request) { r.Peer, r.Config = "lean torch.compile", strings.Replace(gpt2, "gpt2", "zebra", 1) },
		"no activation tanh": func(r *Request) {
			r.Peer, r.Config = "lean torch.compile", strings.Replace(gpt2, "gelu_pytorch_tanh", "tanh", 1)
		},
		"no sliding window; the model's is 9, less than the ": func(r *Request) {
			r.Peer, r.Config = "lean torch.compile", `{"model_type": "mistral", "sliding_window": 9}`
		},
	} {
		r := tiny("transformers eager", "train", "f32")
		to(&r)
		if f, err := r.Measure(t.Context(), python); err != nil || !strings.Contains(f.Missing, want) {
			t.Errorf("%q: %+v, %v", want, f, err)
		}
	}
}

func TestLeanIsTransformers(t *testing.T) {
	python := real(t, "torch, transformers")
	cmd := exec.Command(python, "testdata/parity.py")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// plain leaves out how the rotation is stretched.
func plain(config string) string { return strings.Replace(config, `"llama3"`, `"default"`, 1) }

func TestLlamaCPP(t *testing.T) {
	python := real(t, "llama_cpp, gguf")
	for _, kind := range []string{"f32", "bf16", "int8", "int4"} {
		for _, r := range []Request{tiny("llama.cpp", "decode", kind), tiny("llama.cpp", "prefill", kind)} {
			qwen2 := strings.Replace(strings.Replace(llama, `"model_type": "llama"`, `"model_type": "qwen2"`, 1), `"head_dim": 32`, `"head_dim": 16`, 1)
			qwen3 := strings.Replace(llama, `"model_type": "llama"`, `"model_type": "qwen3"`, 1)
			for _, m := range []struct {
				config     string
				parameters int
			}{{gpt2, gpt2Size}, {llama, llamaSize}, {plain(qwen2), llamaSize - 3*32*32 + 2*32}, {plain(qwen3), llamaSize + 2*32}} {
				r.Config, r.Parameters = m.config, m.parameters
				if f, err := r.Measure(t.Context(), python); err != nil || f.Missing != "" || !(slices.Min(f.Times) > 0) {
					t.Errorf("%s %s: %+v, %v\n%s", r.Job, kind, f, err, m.config)
				}
			}
		}
	}
}
