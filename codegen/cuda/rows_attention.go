package cudagen

// attentionRows are attention and its gradient.
var attentionRows = map[string]lowering{}
