package cudagen

import "github.com/tfc-dev/tfc/ir"

// decodeRows are the ops of generation.
var decodeRows = map[string]lowering{}

// smallLinear is a linear of few rows, bound by the bytes of its weights.
func smallLinear(e *emitter, op *ir.Op) {}
