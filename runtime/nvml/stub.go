//go:build !(linux && cgo && nvml)

package nvml

import "fmt"

// Library is an initialised NVML; this build has none.
type Library struct{}

var errBuild = fmt.Errorf("%w: this program was built without NVML (CGO_ENABLED=0, the tag nonvml, or another system than Linux)", ErrUnavailable)

// Open returns an error that wraps ErrUnavailable.
func Open() (*Library, error) { return nil, errBuild }

// System returns an error.
func (*Library) System() (System, error) { return System{}, errBuild }

// Devices returns an error.
func (*Library) Devices() ([]Device, error) { return nil, errBuild }

// Close does nothing.
func (*Library) Close() error { return nil }
