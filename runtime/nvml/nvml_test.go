package nvml

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFind(t *testing.T) {
	devices := []Device{
		{Index: 0, UUID: "GPU-0a0a0a0a-0000-0000-0000-000000000000", BusID: "0000:1b:00.0"},
		{Index: 1, UUID: "GPU-01020304-0506-0708-090a-0b0c0d0e0f10", BusID: "0000:65:00.0"},
		{Index: 2, Error: "lost"},
	}
	uuid := UUID([16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	for _, test := range []struct {
		uuid, bus string
		want      int // -1: none
	}{
		{uuid, "", 1},
		{uuid, "0000:1B:00.0", 1}, // the UUID counts
		{"gpu-0A0A0A0A-0000-0000-0000-000000000000", "", 0},
		{"MIG-5e0a1b2c-0000-0000-0000-000000000000", "0000:65:00.0", 1},
		{"", "00000000:65:00.0", 1},
		{"", "0000:66:00.0", -1},
		{"", "1:2", -1},
		{"", "", -1},
	} {
		d, found := Find(devices, test.uuid, test.bus)
		if found != (test.want >= 0) || found && d.Index != test.want {
			t.Errorf("Find(%q, %q) = %d %v, want %d", test.uuid, test.bus, d.Index, found, test.want)
		}
	}
}

func TestThrottleWords(t *testing.T) {
	for mask, want := range map[uint64][]string{
		0: {}, 1: {"idle"}, 4 | 0x40: {"power cap", "temperature (hardware)"}, 1<<10 | 1<<11: {"reliability", "reason 0x800"},
	} {
		if diff := cmp.Diff(want, throttleWords(mask)); diff != "" {
			t.Errorf("%#x (-want +got):\n%s", mask, diff)
		}
	}
}

// What is not known is not there, and no zero.
func TestJSON(t *testing.T) {
	zero := 0
	for _, test := range []struct {
		device Device
		want   string
	}{
		{Device{Index: 1, Error: "lost"}, `{"index":1,"error":"lost"}`},
		{Device{Utilization: &zero, Throttle: []string{}}, `{"index":0,"throttle":[],"utilization_percent":0}`},
	} {
		if text, err := json.Marshal(test.device); err != nil || string(text) != test.want {
			t.Errorf("%s %v, want %s", text, err, test.want)
		}
	}
}
