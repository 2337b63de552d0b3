package cudagen

// optimizerRows are written by their engineer.
var optimizerRows = map[string]lowering{}
