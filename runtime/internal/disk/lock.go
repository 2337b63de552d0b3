package disk

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how long Lock sleeps between two tries.
const lockPoll = 5 * time.Millisecond

// Lock makes the caller the only one, of all processes, that holds the lock of a file, made if missing. It waits for
// another holder at most so long; the error then wraps os.ErrDeadlineExceeded. The kernel frees the lock when the process
// ends, however it ends; unlock frees it earlier. What is locked should be another file: the file itself may be replaced
// by a rename.
func Lock(path string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(wait); ; time.Sleep(lockPoll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("%s: flock: %w", path, err)
		case time.Now().After(end):
			f.Close()
			return nil, fmt.Errorf("%s: another process holds it for more than %v: %w", path, wait, os.ErrDeadlineExceeded)
		}
	}
}
