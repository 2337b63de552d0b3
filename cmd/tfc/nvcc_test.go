package main

import (
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
)

// TestNoteSpills: what does not fit in registers is told for each GPU, and nothing of what does.
func TestNoteSpills(t *testing.T) {
	var out strings.Builder
	noteSpills(&out, []nvcc.Kernel{
		{Entry: "norm", Usage: map[string]nvcc.Usage{"sm_80": {Registers: 40}, "sm_90a": {Registers: 38}}},
		{Entry: "wide", Usage: map[string]nvcc.Usage{"sm_90a": {Registers: 255}, "sm_80": {Registers: 255, SpillStores: 12, SpillLoads: 16}}},
	})
	const want = "tfc: note: kernel wide keeps 12 bytes of each thread's registers in memory on sm_80, and is slower for it\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
