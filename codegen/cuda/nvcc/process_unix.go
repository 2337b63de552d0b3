//go:build unix

package nvcc

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// command is a program that is killed with all that it has started when the context ends: nvcc starts others, which would
// go on for seconds.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}
