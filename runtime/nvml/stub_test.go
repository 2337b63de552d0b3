//go:build !(linux && cgo && nvml)

package nvml

import (
	"errors"
	"testing"
)

func TestStub(t *testing.T) {
	l, err := Open()
	if l != nil || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v %v", l, err)
	}
	if _, err := l.At("0000:65:00.0"); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	_, err = l.System()
	if _, other := l.Devices(); !errors.Is(err, ErrUnavailable) || !errors.Is(other, ErrUnavailable) || l.Close() != nil {
		t.Error(err, other)
	}
}
