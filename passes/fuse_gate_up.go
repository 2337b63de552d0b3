package passes

import "github.com/tfc-dev/tfc/ir"

// fuseGateUp packs the two projections that feed a gated activation.
func fuseGateUp(f *ir.Func, _ Options) (int, error) {
	return packOperands(f, 2, "gate_up", "fuse-gate-up", nil, "glu")
}
