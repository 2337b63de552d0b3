package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// foreground says whether this process has the terminal: then Ctrl-C is sent to all processes it has started, too.
func foreground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
