package cuda

import (
	"fmt"
	"strconv"
	"strings"
)

// Place is where a program is asked to run: the CPU, one CUDA device, or what the machine offers.
type Place struct {
	Auto  bool // CUDA where it can be used, the CPU otherwise
	CUDA  bool // device Index, and nothing else
	Index int
}

// ParseDevice reads the value of a --device option: auto, cpu, cuda (which is cuda:0) or cuda:N.
func ParseDevice(s string) (Place, error) {
	switch s {
	case "auto":
		return Place{Auto: true}, nil
	case "cpu":
		return Place{}, nil
	case "cuda":
		return Place{CUDA: true}, nil
	}
	if number, ok := strings.CutPrefix(s, "cuda:"); ok {
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && strconv.FormatUint(n, 10) == number {
			return Place{CUDA: true, Index: int(n)}, nil
		}
		return Place{}, fmt.Errorf("device %q: after cuda: comes the number of a device, counted from 0, such as cuda:1", s)
	}
	const want = "want auto, cpu, cuda or cuda:N"
	switch lower := strings.ToLower(s); {
	case lower == "gpu", lower == "nvidia":
		return Place{}, fmt.Errorf("device %q: %s; did you mean cuda?", s, want)
	case lower != s && (lower == "auto" || lower == "cpu" || strings.HasPrefix(lower, "cuda")):
		return Place{}, fmt.Errorf("device %q: %s; did you mean %s?", s, want, lower)
	}
	return Place{}, fmt.Errorf("device %q: %s", s, want)
}

// String returns what ParseDevice reads.
func (p Place) String() string {
	switch {
	case p.Auto:
		return "auto"
	case p.CUDA:
		return fmt.Sprintf("cuda:%d", p.Index)
	}
	return "cpu"
}

// Find returns the device to open for a place, nil for the CPU. For auto that is the first device that has code in the
// fatbin, and where there is none, why says what is missing, for the user to see. A place that names a device gets it or
// an error.
func (p Place) Find(fatbin []byte) (d *Device, why string, err error) {
	if !p.Auto && !p.CUDA {
		return nil, "", nil
	}
	devices, err := Devices()
	if err != nil {
		if p.Auto {
			return nil, err.Error(), nil
		}
		return nil, "", err
	}
	if p.CUDA {
		if err := checkIndex(p.Index, len(devices)); err != nil {
			return nil, "", err
		}
		d := &devices[p.Index]
		return d, "", d.Runs(fatbin)
	}
	for i := range devices {
		err := devices[i].Runs(fatbin)
		if err == nil {
			return &devices[i], "", nil
		}
		if why == "" {
			why = err.Error()
		}
	}
	return nil, why, nil
}

// checkIndex says which devices there are where index is none of them.
func checkIndex(index, devices int) error {
	switch {
	case index >= 0 && index < devices:
		return nil
	case devices == 1:
		return fmt.Errorf("there is no device cuda:%d: the driver shows one, cuda:0%s", index, visibleNote())
	}
	return fmt.Errorf("there is no device cuda:%d: the driver shows %d, cuda:0 to cuda:%d%s", index, devices, devices-1, visibleNote())
}
