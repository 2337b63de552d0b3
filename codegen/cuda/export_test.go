package cudagen

import "testing"

// SetProcessors makes kernels for a device of so many processors during a test.
func SetProcessors(t *testing.T, n int) {
	before := processors
	processors = n
	t.Cleanup(func() { processors = before })
}
