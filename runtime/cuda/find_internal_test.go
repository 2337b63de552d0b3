package cuda

import "testing"

func TestCheckIndex(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "3")
	for _, c := range []struct {
		index, devices int
		want           string
	}{
		{0, 1, ""},
		{1, 2, ""},
		{2, 1, `there is no device cuda:2: the driver shows one, cuda:0 (CUDA_VISIBLE_DEVICES="3")`},
		{2, 2, `there is no device cuda:2: the driver shows 2, cuda:0 to cuda:1 (CUDA_VISIBLE_DEVICES="3")`},
		{-1, 1, `there is no device cuda:-1: the driver shows one, cuda:0 (CUDA_VISIBLE_DEVICES="3")`},
	} {
		got := ""
		if err := checkIndex(c.index, c.devices); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%d of %d: %s", c.index, c.devices, got)
		}
	}
}

func TestArch(t *testing.T) {
	for want, d := range map[string]Device{
		"sm_80": {Major: 8}, "sm_86": {Major: 8, Minor: 6}, "sm_89": {Major: 8, Minor: 9}, "sm_90a": {Major: 9}, "sm_120": {Major: 12},
	} {
		if got := d.Arch(); got != want {
			t.Errorf("%d.%d: %s", d.Major, d.Minor, got)
		}
	}
}
