package cuda

import "fmt"

// Find returns the first device that a fatbin has code for. Where there is none, the error says what is missing: a driver,
// a device, or code.
func Find(fatbin []byte) (Device, error) {
	devices, err := Devices()
	if err != nil {
		return Device{}, err
	}
	var why error
	for _, d := range devices {
		err := d.Runs(fatbin)
		if err == nil {
			return d, nil
		}
		if why == nil {
			why = err
		}
	}
	return Device{}, why
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
