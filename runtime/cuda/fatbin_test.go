package cuda

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func fatbin(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestArchs(t *testing.T) {
	for name, want := range map[string][]string{
		"archs.fatbin": {"sm_80", "sm_90a"},
		"mixed.fatbin": {"sm_86", "compute_89 (PTX)", "compute_90a (PTX)", "sm_100f"},
	} {
		got, err := Archs(fatbin(t, name))
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

func TestArchsOfDamage(t *testing.T) {
	whole := fatbin(t, "archs.fatbin")
	for n := range len(whole) {
		if archs, err := Archs(whole[:n]); err == nil {
			t.Fatalf("the first %d bytes: %v and no error", n, archs)
		}
	}
	for at, want := range map[int]string{0: "not a fatbin", 4: "unknown version", 6: "unknown version", 20: "damaged at byte 16", 30: "damaged at byte 16"} {
		x := slices.Clone(whole)
		x[at] ^= 0x40
		if _, err := Archs(x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("byte %d changed: %v, want %q", at, err, want)
		}
	}
	if _, err := Archs(nil); !errors.Is(err, errNotFatbin) {
		t.Error(err)
	}
}

func FuzzArchs(f *testing.F) {
	f.Add(fatbin(f, "archs.fatbin"))
	f.Add(fatbin(f, "mixed.fatbin"))
	f.Fuzz(func(t *testing.T, image []byte) {
		archs, err := Archs(image)
		if err != nil && archs != nil {
			t.Error("names and an error")
		}
	})
}

// TestRuns holds Runs to the rules of CUDA's binary compatibility.
func TestRuns(t *testing.T) {
	for _, c := range []struct {
		file         string
		major, minor int
		want         bool
	}{
		{"archs.fatbin", 7, 5, false}, {"archs.fatbin", 8, 0, true}, {"archs.fatbin", 8, 6, true}, {"archs.fatbin", 8, 9, true},
		{"archs.fatbin", 9, 0, true}, {"archs.fatbin", 10, 0, false}, {"archs.fatbin", 12, 0, false},
		{"mixed.fatbin", 8, 0, false}, {"mixed.fatbin", 8, 6, true}, {"mixed.fatbin", 9, 0, true}, {"mixed.fatbin", 12, 0, true},
	} {
		d := Device{Name: "GPU", Major: c.major, Minor: c.minor}
		if err := d.Runs(fatbin(t, c.file)); (err == nil) != c.want {
			t.Errorf("%s on %d.%d: %v", c.file, c.major, c.minor, err)
		}
	}
	for _, c := range []struct {
		code         code
		major, minor int
		want         bool
	}{
		{code{arch: 90, exact: true}, 9, 0, true}, {code{arch: 100, exact: true}, 10, 3, false},
		{code{arch: 100, family: true}, 10, 3, true}, {code{arch: 103, family: true}, 10, 0, false}, {code{arch: 100, family: true}, 12, 0, false},
		{code{arch: 90, exact: true, ptx: true}, 10, 0, false}, {code{arch: 100, family: true, ptx: true}, 10, 3, true},
		{code{arch: 86}, 8, 0, false}, {code{arch: 80, ptx: true}, 12, 1, true}, {code{arch: 120}, 12, 1, true},
	} {
		if got := c.code.runs(c.major, c.minor); got != c.want {
			t.Errorf("%v on %d.%d: %v", c.code, c.major, c.minor, got)
		}
	}
	if err := (Device{Major: 9}).Runs([]byte("\x7fELF")); err != nil {
		t.Errorf("an image that is no fatbin is for the driver to judge: %v", err)
	}
}

func TestNoCodeError(t *testing.T) {
	d := Device{Index: 1, Name: "NVIDIA B200", Major: 10}
	err := d.Runs(fatbin(t, "archs.fatbin"))
	const want = "this package has no code for cuda:1 (NVIDIA B200): it has code for sm_80, sm_90a, the device needs sm_100; " +
		"write `target: {arch: [sm_100]}` in the spec and run `tfc build`"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if !errors.Is(err, ErrNoCode) {
		t.Error("is no ErrNoCode")
	}
	h100 := &NoCodeError{Device: Device{Name: "NVIDIA H100", Major: 9}, Archs: []string{"sm_80"},
		Err: &Error{Call: "cuModuleLoadData", Code: codeNoBinaryForGPU, Name: "CUDA_ERROR_NO_BINARY_FOR_GPU"}}
	for _, part := range []string{"code for sm_80", "needs sm_90a", "CUDA_ERROR_NO_BINARY_FOR_GPU", "`target: {arch: [sm_90a]}`", "`tfc build`"} {
		if !strings.Contains(h100.Error(), part) {
			t.Errorf("%q is not in: %s", part, h100)
		}
	}
	old := &NoCodeError{Device: Device{Name: "Tesla T4", Major: 7, Minor: 5}}
	if !strings.Contains(old.Error(), "compute capability 7.5") {
		t.Error(old)
	}
}
