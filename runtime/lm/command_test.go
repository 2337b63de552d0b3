package lm

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func runCommand(ctx context.Context, cfg Config, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = command(ctx, cfg, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	cfg := fakeConfig(nil)
	root, run := fakeRoot(t), filepath.Join(t.TempDir(), "run")
	code, out, errs := runCommand(t.Context(), cfg, "train", "--run", run, "--root", root)
	if code != 0 || !strings.Contains(out, "12 of 12 steps, loss ") || !strings.Contains(errs, "step 12/12 100%  loss ") {
		t.Fatalf("train: %d\n%s\n%s", code, out, errs)
	}
	final, _, _ := strings.Cut(out[strings.Index(out, "eval loss ")+len("eval loss "):], "\n")
	if !strings.Contains(errs, "step 12/12 100%") || !strings.Contains(errs, "eval "+final) {
		t.Errorf("the progress does not end with the last evaluation, %s:\n%s", final, errs)
	}
	var res map[string]any
	code, out, _ = runCommand(t.Context(), cfg, "train", "--run", run, "--root", root, "--json", "--steps", "14")
	if err := json.Unmarshal([]byte(out), &res); code != 0 || err != nil || res["step"] != 14.0 || res["resumed"] != 12.0 {
		t.Errorf("train --json: %d, %v\n%s", code, err, out)
	}

	code, out, errs = runCommand(t.Context(), cfg, "eval", "--run", run, "--root", root)
	if code != 0 || !strings.HasPrefix(out, "loss ") || !strings.Contains(out, "perplexity ") {
		t.Errorf("eval: %d\n%s\n%s", code, out, errs)
	}
	for _, args := range [][]string{{"--best"}, {"--batches", "1"}, {"--data", "text/*.txt"}} {
		res = nil
		code, out, errs = runCommand(t.Context(), cfg, append([]string{"eval", "--run", run, "--root", root, "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &res); code != 0 || err != nil || !(res["loss"].(float64) > 0) || !(res["tokens"].(float64) > 0) {
			t.Errorf("eval %v: %d, %v\n%s\n%s", args, code, err, out, errs)
		}
	}

	// One prompt is streamed, several are not: the texts are the same.
	m, err := Open(cfg, run)
	if err != nil {
		t.Fatal(err)
	}
	want, err := m.Generate(t.Context(), "The fox", cfg.Generate.Options)
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs = runCommand(t.Context(), cfg, "generate", "--run", run, "--prompt", "The fox")
	if code != 0 || out != "The fox"+want+"\n" {
		t.Errorf("generate: %d, %q, want %q\n%s", code, out, want, errs)
	}
	code, out, _ = runCommand(t.Context(), cfg, "generate", "--run", run) // the spec's prompts
	if parts := strings.Split(out, "\n---\n"); code != 0 || len(parts) != 2 || parts[0] != "The fox"+want || !strings.HasPrefix(parts[1], "A bird") {
		t.Errorf("generate: %d, %q", code, out)
	}
	code, out, _ = runCommand(t.Context(), cfg, "generate", "--run", run, "--prompt", "The <fox>", "--prompt", "A", "-n", "2", "--json",
		"--max-new-tokens", "3", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.9", "--seed", "9")
	var got []string
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var c struct {
			Prompt, Stop string
			Text         *string
			Tokens       int
		}
		if err := d.Decode(&c); err != nil || c.Tokens > 3 || c.Stop == "" || c.Text == nil {
			t.Errorf("%+v, %v", c, err)
		}
		got = append(got, c.Prompt)
	}
	if code != 0 || !reflect.DeepEqual(got, []string{"The <fox>", "The <fox>", "A", "A"}) || !strings.Contains(out, "<fox>") {
		t.Errorf("generate --json: %d, %q", code, out)
	}

	// A run can start from a model.
	dir := filepath.Join(t.TempDir(), "model")
	if err := m.Save(dir); err != nil {
		t.Fatal(err)
	}
	tuned := filepath.Join(t.TempDir(), "run")
	code, _, errs = runCommand(t.Context(), cfg, "train", "--run", tuned, "--root", root, "--model", dir, "--steps", "1", "--seed", "4")
	if code != 0 {
		t.Errorf("train --model: %d\n%s", code, errs)
	}
	if code, _, errs = runCommand(t.Context(), cfg, "generate", "--model", dir); code != 0 {
		t.Errorf("generate --model: %d\n%s", code, errs)
	}
}

func TestExitCodes(t *testing.T) {
	cfg := fakeConfig(nil)
	root, run := fakeRoot(t), filepath.Join(t.TempDir(), "run")
	if code, _, errs := runCommand(t.Context(), cfg, "train", "--run", run, "--root", root, "--steps", "2"); code != 0 {
		t.Fatal(errs)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	stopping, stop := context.WithCancel(t.Context())
	defer stop()
	slow := fakeConfig(at(1, stop))
	bad := fakeConfig(func(_ int, _, norm float32) (float32, float32) { return float32(math.Inf(1)), norm })
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, c := range []struct {
		ctx    context.Context
		cfg    Config
		args   string
		code   int
		stdout string // what it holds, and so on
		stderr string
	}{
		{nil, cfg, "", 2, "", "Usage: fake COMMAND"},
		{nil, cfg, "-h", 0, "generate   continue prompts", ""},
		{nil, cfg, "help", 0, "Usage: fake COMMAND", ""},
		{nil, cfg, "chat", 2, "", `no command "chat"`},
		{nil, cfg, "train -h", 0, "-steps", ""},
		{nil, cfg, "train --nope", 2, "", "-nope"},
		{nil, cfg, "train --steps x", 2, "", `invalid value "x"`},
		{nil, cfg, "train now", 2, "", `no argument "now"`},
		{nil, cfg, "train --steps -3 --run " + run, 2, "", "fake: the number of steps is -3"},
		{nil, cfg, "train --data none.txt --run " + empty + "/r --root " + root, 3, "", "none.txt"},
		{nil, cfg, "train --seed 3 --run " + run + " --root " + root, 3, "", "seed: 1 in the run, 3 in the program"},
		{nil, cfg, "train --run " + file + "/x --root " + root, 1, "", file},
		{nil, bad, "train --run " + empty + "/bad --root " + root, 1, "", "step 1: the loss is +Inf"},
		{stopping, slow, "train --run " + empty + "/stop --root " + root, 75, "1 of 12 steps", ""},
		{stopped, cfg, "train --run " + empty + "/before --root " + root, 75, "", ""},
		{nil, cfg, "eval --run " + empty, 3, "", "neither"},
		{nil, cfg, "eval --batches -1 --root " + root + " --run " + run, 2, "", "-1"},
		{stopped, cfg, "eval --root " + root + " --run " + run, 1, "", "canceled"},
		{nil, cfg, "generate --run " + run + " --temperature -1", 2, "", "temperature is -1"},
		{nil, cfg, "generate --run " + run + " --temperature NaN", 2, "", "temperature is NaN"},
		{nil, cfg, "generate --run " + run + " --top-p 2", 2, "", "top-p is 2"},
		{nil, cfg, "generate --run " + run + " -n 0", 2, "", "-n is 0"},
		{nil, cfg, "generate --best --model " + run, 2, "", "--best"},
		{nil, cfg, "generate --run " + run + " --prompt " + strings.Repeat("q", 100), 2, "", "context holds 40"},
		{nil, cfg, "generate --model " + empty, 3, "", "neither"},
		{stopped, cfg, "generate --run " + run + " --prompt x", 1, "", "canceled"},
		{stopped, cfg, "bench", 1, "", "canceled"},
		{stopped, cfg, "bench decode", 1, "", "canceled"},
	} {
		ctx := c.ctx
		if ctx == nil {
			ctx = t.Context()
		}
		code, out, errs := runCommand(ctx, c.cfg, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.stdout) || !strings.Contains(errs, c.stderr) || c.stderr == "" && strings.Contains(errs, "Usage") {
			t.Errorf("%q: exit code %d, want %d\n%s\n%s", c.args, code, c.code, out, errs)
		}
	}
	if code := command(t.Context(), cfg, []string{"generate", "--run", run}, closed{}, &bytes.Buffer{}); code != 1 {
		t.Errorf("a closed pipe: exit code %d", code)
	}
}

// closed is a pipe whose reader has gone.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// The test's own binary, started anew, is the command of a package.
func TestMain(m *testing.M) {
	if os.Getenv("LM_TEST_COMMAND") == "" {
		os.Exit(m.Run())
	}
	Main(fakeConfig(func(_ int, loss, norm float32) (float32, float32) {
		time.Sleep(50 * time.Millisecond)
		return loss, norm
	}))
}

func TestSignalSavesAndTheSameCommandGoesOn(t *testing.T) {
	root := fakeRoot(t)
	want := unbroken(t, root)
	run := filepath.Join(t.TempDir(), "run")
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, nil} {
		cmd := exec.Command(os.Args[0], "train", "--run", run, "--root", root)
		cmd.Env = append(os.Environ(), "LM_TEST_COMMAND=1")
		var out bytes.Buffer
		cmd.Stdout = &out
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		seen := make([]byte, 0, 1<<16)
		for sig != nil && !bytes.Contains(seen, []byte("the first step took")) {
			n, err := stderr.Read(seen[len(seen):cap(seen)])
			if seen = seen[:len(seen)+n]; err != nil {
				t.Fatalf("%v\n%s", err, seen)
			}
		}
		wantCode := 0
		if sig != nil {
			wantCode = exitInterrupted
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		for {
			n, err := stderr.Read(seen[len(seen):cap(seen)])
			if seen = seen[:len(seen)+n]; err != nil {
				break
			}
		}
		if cmd.Wait(); cmd.ProcessState.ExitCode() != wantCode {
			t.Fatalf("%v: exit code %d, want %d\n%s\n%s", sig, cmd.ProcessState.ExitCode(), wantCode, out.String(), seen)
		}
	}
	m, err := Open(fakeConfig(nil), run)
	if err != nil {
		t.Fatal(err)
	}
	if got := outcomeOf(t, m, run); !reflect.DeepEqual(got.weights, want.weights) || !reflect.DeepEqual(got.log, want.log) {
		t.Errorf("two signals changed the run: %v, want %v", got.log, want.log)
	}
}
