//go:build !unix

package nvcc

import (
	"context"
	"os/exec"
	"time"
)

// command is a program that is killed when the context ends.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	return cmd
}
