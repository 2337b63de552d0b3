package cuda

import "testing"

func TestParseDevice(t *testing.T) {
	for s, want := range map[string]Place{
		"auto": {Auto: true}, "cpu": {}, "cuda": {CUDA: true}, "cuda:0": {CUDA: true}, "cuda:1": {CUDA: true, Index: 1}, "cuda:15": {CUDA: true, Index: 15},
	} {
		got, err := ParseDevice(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if again, err := ParseDevice(got.String()); err != nil || again != got {
			t.Errorf("%s: %s is read as %+v, %v", s, got, again, err)
		}
	}
	const want = "want auto, cpu, cuda or cuda:N"
	for s, text := range map[string]string{
		"":                         `device "": ` + want,
		"tpu":                      `device "tpu": ` + want,
		"gpu":                      `device "gpu": ` + want + "; did you mean cuda?",
		"CUDA":                     `device "CUDA": ` + want + "; did you mean cuda?",
		"Cuda:1":                   `device "Cuda:1": ` + want + "; did you mean cuda:1?",
		"CPU":                      `device "CPU": ` + want + "; did you mean cpu?",
		"cuda:":                    `device "cuda:": after cuda: comes the number of a device, counted from 0, such as cuda:1`,
		"cuda:-1":                  `device "cuda:-1": after cuda: comes the number of a device, counted from 0, such as cuda:1`,
		"cuda:01":                  `device "cuda:01": after cuda: comes the number of a device, counted from 0, such as cuda:1`,
		"cuda:1e3":                 `device "cuda:1e3": after cuda: comes the number of a device, counted from 0, such as cuda:1`,
		"cuda:9999999999999999999": `device "cuda:9999999999999999999": after cuda: comes the number of a device, counted from 0, such as cuda:1`,
	} {
		if got, err := ParseDevice(s); err == nil || err.Error() != text {
			t.Errorf("%q: %+v, %v, want %s", s, got, err, text)
		}
	}
}

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
