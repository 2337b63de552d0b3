package cudagen

// lossRows are written by their engineer.
var lossRows = map[string]lowering{}
