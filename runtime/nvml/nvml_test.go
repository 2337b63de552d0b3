package nvml

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
