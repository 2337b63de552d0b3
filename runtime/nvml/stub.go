//go:build !(linux && cgo && nvml)

package nvml

import "fmt"

// Library is an initialised NVML; this build has none.
type Library struct{}

var errBuild = fmt.Errorf("%w: this program was built without NVML (go install -tags nvml has it, on Linux with a C compiler)", ErrUnavailable)

// Open returns an error that wraps ErrUnavailable.
func Open() (*Library, error) { return nil, errBuild }

// System returns an error.
func (*Library) System() (System, error) { return System{}, errBuild }

// Devices returns an error.
func (*Library) Devices() ([]Device, error) { return nil, errBuild }

// At returns an error.
func (*Library) At(string) (Device, error) { return Device{}, errBuild }

// Close does nothing.
func (*Library) Close() error { return nil }
