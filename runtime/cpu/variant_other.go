//go:build !amd64

package cpu

// variants lists what this machine can run, fastest first.
func variants() []*variant { return []*variant{plain} }
