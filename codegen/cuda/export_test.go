package cudagen

import "testing"

// SetBusy has attention's gradient take one pass where there are so many heads, during a test.
func SetBusy(t *testing.T, n int) {
	before := busy
	busy = n
	t.Cleanup(func() { busy = before })
}
