package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a program that a part runs.
type process struct {
	log   string // its name among the logs, without .log
	dir   string // below the root; "" is the root
	env   []string
	args  []string // from the program on
	limit time.Duration
}

// start begins a process in a group of its own, which ends as a whole. Its output goes to the log. wait returns it, and an
// error that says how the process ended.
func (b *bench) start(p process) (cmd *exec.Cmd, wait func() (output string, err error)) {
	ctx, cancel := context.WithTimeout(b.ctx, p.limit)
	cmd = exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	cmd.Dir = filepath.Join(b.root, p.dir)
	cmd.Env = append(append(os.Environ(), b.env...), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	startErr := cmd.Start()
	return cmd, func() (string, error) {
		defer cancel()
		err := startErr
		if err == nil {
			err = cmd.Wait()
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("killed after %.0f s, which is all it had: %w", time.Since(began).Seconds(), ctx.Err())
		}
		file := filepath.Join(b.results, "logs", p.log+".log")
		head := fmt.Sprintf("$ %s\n", strings.Join(p.args, " "))
		if werr := os.WriteFile(file, append([]byte(head), out.Bytes()...), 0o644); werr != nil && err == nil {
			err = werr
		}
		return out.String(), err
	}
}

// run starts a process and waits for it.
func (b *bench) run(p process) (output string, err error) {
	_, wait := b.start(p)
	return wait()
}

// built is the path of something that was built.
func (b *bench) built(name string) string { return filepath.Join(b.folder, name) }

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
