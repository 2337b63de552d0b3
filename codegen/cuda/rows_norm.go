package cudagen

// normRows are written by their engineer.
var normRows = map[string]lowering{}
