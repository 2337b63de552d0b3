package cudagen

import "github.com/tfc-dev/tfc/ir"

// elementwiseRows are written by their engineer.
var elementwiseRows = map[string]lowering{}

// activate computes y = fn(x) for an op that has more to do than that; x may be y.
func (e *emitter) activate(op *ir.Op, fn string, x, y *ir.Value) {}
