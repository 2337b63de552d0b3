//go:build !amd64

package cpu

import "github.com/tfc-dev/tfc/runtime/rng"

// keepVector: no vector kernel.
func keepVector([]float32, float32, rng.Key, uint64) bool { return false }
