// Package tfc holds what the command needs to know of its own module: the requirements that a go.mod beside a generated
// package repeats, so that it builds without asking the network.
package tfc

import _ "embed"

// GoMod and GoSum are the module's own files.
//
//go:embed go.mod
var GoMod []byte

//go:embed go.sum
var GoSum []byte
