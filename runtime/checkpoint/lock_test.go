package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const childVariable = "TFC_CHECKPOINT_TEST_RUN"

func TestMain(m *testing.M) {
	if run := os.Getenv(childVariable); run != "" {
		fmt.Println(train(run))
		os.Exit(1) // training does not end by itself
	}
	os.Exit(m.Run())
}

// train resumes a run and goes on for ever. Its weights are a chain of hashes, so that the weights of a step can be
// nothing else.
func train(run string) error {
	if _, err := Lock(run); err != nil {
		return err
	}
	step, weights := 0, []byte(nil)
	dir, s, err := Latest(run, func(format string, args ...any) {
		fmt.Printf("damaged: "+format+"\n", args...)
	})
	if err == nil {
		step = s.Step
		if weights, err = os.ReadFile(filepath.Join(dir, "weights")); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Println("training")
	for {
		step++
		weights = next(weights)
		err := Save(run, State{Step: step}, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "weights"), weights, 0o644)
		})
		if err != nil {
			return err
		}
		if err := Prune(run, 2); err != nil {
			return err
		}
	}
}

// next is one step of training, on 128 KiB of weights.
func next(weights []byte) []byte {
	sum := sha256.Sum256(weights)
	return slices.Repeat(sum[:], 4096)
}

func start(t *testing.T, run string) (kill func(), lines *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+run)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cmd.Process.Kill()
		cmd.Wait() // an error: it was killed
	}, bufio.NewScanner(out)
}

// Killed at any moment, forty times over, a run continues from a whole save with the right weights, never from before
// the last one, without a damaged save and without anything being cleared away by hand.
func TestKilledAnywhere(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	random := rand.New(rand.NewPCG(1, 2))
	began := time.Now()
	mustSave(t, filepath.Join(t.TempDir(), "timed"), State{}, strings.Repeat("x", 64<<10))
	longest := 4 * time.Since(began) // of a run, so that the disk's speed does not matter
	step, weights := 0, []byte(nil)
	for range 40 {
		kill, lines := start(t, run)
		if !lines.Scan() || lines.Text() != "training" {
			kill()
			t.Fatalf("after step %d: %s", step, lines.Text())
		}
		time.Sleep(time.Duration(random.Int64N(int64(longest))))
		kill()
		dir, s, err := Latest(run, t.Errorf)
		if errors.Is(err, fs.ErrNotExist) && step == 0 {
			continue
		}
		if err != nil || s.Step < step {
			t.Fatalf("after step %d: step %d, %v", step, s.Step, err)
		}
		for ; step < s.Step; step++ {
			weights = next(weights)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "weights")); err != nil || !slices.Equal(got, weights) {
			t.Fatalf("step %d has other weights than an unbroken run, or %v", step, err)
		}
	}
	if step < 10 {
		t.Errorf("only %d steps in 40 runs: the kills hit nothing but the start", step)
	}
	unlock, err := Lock(run)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	entries, _ := os.ReadDir(run)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left after the kills: %s", e.Name())
		}
	}
	t.Logf("%d steps over 40 kills", step)
}

func TestLockNamesTheHolderAndEndsWithIt(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	kill, lines := start(t, run)
	defer kill()
	if !lines.Scan() || lines.Text() != "training" {
		t.Fatal(lines.Text())
	}
	host, _ := os.Hostname()
	_, err := Lock(run)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "@"+host) || !strings.Contains(err.Error(), run) {
		t.Errorf("error %v", err)
	}
	kill()
	unlock, err := Lock(run)
	if err != nil {
		t.Fatalf("the lock outlived its holder: %v", err)
	}
	if _, err := Lock(run); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("by %d@%s", os.Getpid(), host)) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	unlock, err = Lock(run)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	unlock()
}

func TestLockClearsAway(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	mustSave(t, run, State{Step: 1}, "one")
	mustSave(t, run, State{Step: 2}, "two")
	// as a kill would leave it: a half save; one replaced but not removed; one aside whose replacement never came
	err := errors.Join(
		os.Mkdir(filepath.Join(run, ".tmp-checkpoint-3-0badf00d"), 0o755),
		os.WriteFile(filepath.Join(run, ".tmp-checkpoint-3-0badf00d", "model.bin"), nil, 0o644),
		os.Mkdir(filepath.Join(run, ".replaced-checkpoint-1"), 0o755),
		os.Rename(filepath.Join(run, "checkpoint-2"), filepath.Join(run, ".replaced-checkpoint-2")))
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(run)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if got := folders(t, run); !slices.Equal(got, []string{"checkpoint-1", "checkpoint-2"}) {
		t.Errorf("the run holds %v", got)
	}
	if step, text, _ := latest(t, run); step != 2 || text != "two" {
		t.Errorf("latest is step %d, %q", step, text)
	}
}
