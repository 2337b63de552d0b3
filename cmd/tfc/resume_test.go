package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A small model with all that resuming could get wrong: dropout, micro-batches, recomputation, a schedule.
const resumeSpec = `
model: {preset: llama, vocab_size: 300, hidden_size: 16, num_layers: 2, num_heads: 2, max_position_embeddings: 32, dropout: 0.1}
data: {train: stories(count: 40), eval: 10%}
train: {steps: 300, batch: 4, micro_batch: 2, checkpointing: full, save: {every: 40}, eval: {every: 100, batches: 2}}
`

// TestTrainingIsReproducible trains one model three times: in one go, in one go again, and stopped by signals at random
// moments and killed once, going on each time. All end with the same bits, in weights and moments.
func TestTrainingIsReproducible(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "small.yaml")
	if err := os.WriteFile(spec, []byte(resumeSpec), 0o644); err != nil {
		t.Fatal(err)
	}
	self, err := exec.LookPath("tfc")
	if err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod")
		return cmd
	}
	if out, err := command(self, "build", spec, "-o", "small").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	build := command("go", "build", "-o", "../train", "./cmd/small")
	build.Dir = filepath.Join(dir, "small")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	train := func(run string) *exec.Cmd { return command(filepath.Join(dir, "train"), "train", "--run", run) }
	for _, run := range []string{"once", "again"} {
		if out, err := train(run).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", run, err, out)
		}
	}
	stops := 0
	for done := false; !done; {
		cmd := train("stopped")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		signal := os.Signal(syscall.SIGINT)
		if stops == 2 {
			signal = syscall.SIGKILL
		}
		stop := time.AfterFunc(time.Duration(100+rand.IntN(250))*time.Millisecond, func() { cmd.Process.Signal(signal) })
		err := cmd.Wait()
		stop.Stop()
		var exit *exec.ExitError
		switch {
		case err == nil:
			done = true
		case errors.As(err, &exit) && (exit.ExitCode() == 75 || !exit.Exited()):
			if stops++; stops > 200 {
				t.Fatal("the run never ends")
			}
		default:
			t.Fatal(err)
		}
	}
	if stops == 0 {
		t.Fatal("the run was never stopped")
	}
	for _, file := range []string{"model.safetensors", "moments.safetensors"} {
		read := func(run string) []byte {
			data, err := os.ReadFile(filepath.Join(dir, run, "checkpoint-300", file))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		once := read("once")
		if !bytes.Equal(once, read("again")) {
			t.Errorf("%s: two runs differ", file)
		}
		if !bytes.Equal(once, read("stopped")) {
			t.Errorf("%s: a run stopped %d times differs from one that was not", file, stops)
		}
	}
	t.Logf("stopped %d times", stops)
}
