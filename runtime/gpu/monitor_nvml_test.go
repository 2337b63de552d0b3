//go:build linux && cgo && nvml

package gpu

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeNVML is a driver's library that knows one GPU, and forgets it when it is asked again.
const fakeNVML = `
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int r) { return "an error"; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **d) {
    static int asked;
    if (asked++ > 0) return 15;
    *d = (void *)1;
    return id[5] == '3' && id[6] == 'B' ? 0 : 6;
}
int nvmlDeviceGetPowerUsage(void *d, unsigned *mW) { *mW = 650500; return 0; }
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *c) { *c = 61; return 0; }
int nvmlDeviceGetClockInfo(void *d, int which, unsigned *mhz) { *mhz = 1980 - which; return 0; }
int nvmlDeviceGetEccMode(void *d, int *now, int *next) { *now = *next = 1; return 0; }
int nvmlDeviceGetTotalEccErrors(void *d, int kind, int since, unsigned long long *n) { *n = 3; return 0; }
int nvmlDeviceGetCurrentClocksEventReasons(void *d, unsigned long long *mask) { *mask = 4; return 0; }
`

// TestNVML asks a library in the driver's place, in a process of its own: all that go-nvml finds out of it, and nothing once
// the GPU is lost.
func TestNVML(t *testing.T) {
	if os.Getenv("NVML_TEST_CHILD") != "" {
		var m monitor
		now := time.Now()
		for _, after := range []time.Duration{0, time.Second} {
			if err := json.NewEncoder(os.Stdout).Encode(m.ask("0000:3B:00.0", now.Add(after))); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "fake.c")
	if err := os.WriteFile(source, []byte(fakeNVML), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-shared", "-fPIC", "-o", filepath.Join(dir, "libnvidia-ml.so.1"), source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const lost = `{"name":"","compute_capability":""}`
	for folder, want := range map[string][2]string{
		dir:         {`{"name":"","compute_capability":"","sm_clock_mhz":1979,"power_watts":650.5,"temperature_celsius":61,"ecc_uncorrected":3,"throttle":["power cap"]}`, lost},
		t.TempDir(): {lost, lost}, // no driver
	} {
		child := exec.Command(os.Args[0], "-test.run=^TestNVML$")
		child.Env = append(os.Environ(), "NVML_TEST_CHILD=1", "LD_LIBRARY_PATH="+folder)
		out, err := child.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), want[0]+"\n"+want[1]+"\n") {
			t.Errorf("%v\n%s\nwant %s", err, out, want)
		}
	}
}
