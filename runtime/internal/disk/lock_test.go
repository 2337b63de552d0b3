package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := disk.Lock(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Lock(path, 10*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a lock that is held: %v", err)
	}
	unlock()
	if _, err := disk.Lock(filepath.Join(path, "below"), 0); err == nil {
		t.Error("a lock below a file")
	}
	// One at a time.
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				unlock, err := disk.Lock(path, time.Minute)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				inside.Add(-1)
				unlock()
			}
		})
	}
	all.Wait()
}
