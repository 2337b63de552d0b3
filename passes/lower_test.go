package passes

import (
	"testing"

	"github.com/tfc-dev/tfc/ir"
)

// TestEveryOpIsLowered checks that the CPU's table has a row for each op but those of GPUs alone, and for no other.
func TestEveryOpIsLowered(t *testing.T) {
	for kind := range ir.Table {
		if _, ok := cpuKernels[kind]; ok == contains(cudaOnly, kind) {
			t.Errorf("no row for %s", kind)
		}
	}
	for kind := range cpuKernels {
		if ir.Table[kind] == nil {
			t.Errorf("a row for %s, which is no op", kind)
		}
	}
}
