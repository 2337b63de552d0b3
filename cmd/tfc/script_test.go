package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/gomod"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"tfc": main}) }

// The scripts in testdata run the command as a person would, each in an empty folder outside of any module, without
// network.
func TestScripts(t *testing.T) {
	goEnv := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	self, err := exec.LookPath("tfc")
	if err != nil {
		t.Fatal(err)
	}
	vars := []string{"TFC=" + self, "GOCACHE=" + goEnv("GOCACHE"), "GOMODCACHE=" + goEnv("GOMODCACHE"), "GOPROXY=off", "PROXY=" + goEnv("GOPROXY"), "GOSUMDB=off", "GOTOOLCHAIN=local", "CHECKOUT=" + gomod.Self().Checkout}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Vars = append(e.Vars, vars...)
			e.Values["vars"] = e.Vars
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "signal": sendSignal, "validjson": validJSON,
		},
	})
}

// exits CODE COMMAND... runs a command and wants its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	wantCode(ts, args[0], err)
}

func wantCode(ts *testscript.TestScript, want string, err error) {
	code := 0
	if err != nil {
		var failed *exec.ExitError
		if !errors.As(err, &failed) {
			ts.Fatalf("%v", err)
		}
		code = failed.ExitCode()
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit code %d, want %s", code, want)
	}
}

// signal NAME FILE CODE COMMAND... runs a command, sends it a signal once the file exists, and wants its exit code.
// It has no terminal, so that a signal to it is no signal to its children.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}
	if neg || len(args) < 4 {
		ts.Fatalf("usage: signal NAME FILE CODE COMMAND...")
	}
	cmd := exec.Command(args[3], args[4:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), ts.Value("vars").([]string)
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(time.Minute)
	for sent := false; ; {
		select {
		case err := <-ended:
			if !sent {
				ts.Fatalf("it ended (%v) before it wrote %s", err, args[1])
			}
			wantCode(ts, args[2], err)
			return
		case <-deadline:
			cmd.Process.Kill()
			ts.Fatalf("still running after a minute")
		case <-time.After(5 * time.Millisecond):
			if _, err := os.Stat(ts.MkAbs(args[1])); err == nil && !sent {
				sent = true
				ts.Check(cmd.Process.Signal(signals[args[0]]))
			}
		}
	}
}

// validjson FILE wants one JSON value with every key it lists.
func validJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: validjson FILE [KEY...]")
	}
	text := ts.ReadFile(args[0])
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		ts.Fatalf("%v in %s", err, text)
	}
	for _, key := range args[1:] {
		if !strings.Contains(text, strconv.Quote(key)+":") {
			ts.Fatalf("no %q in %s", key, text)
		}
	}
}
