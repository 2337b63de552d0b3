package cudagen

// reduceRows are written by their engineer.
var reduceRows = map[string]lowering{}
