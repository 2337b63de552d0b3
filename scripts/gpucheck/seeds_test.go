package main

import (
	"math"
	"strings"
	"testing"
)

// Means of runs pass where a precision is as good as the one beside it, or better, and fail where it is worse or where the runs do not decide.
func TestPairs(t *testing.T) {
	bf16 := []float64{1.99, 2.01, 2.02, 1.98} // as seeds differ
	for _, c := range []struct {
		name   string
		worse  []float64 // percent, of each pair
		failed int
		say    string
	}{
		{"the same", []float64{0.1, -0.1, 0.2, -0.2}, 0, "standard error"},
		{"better", []float64{-1.1, -0.9, -1, -1.2}, 0, "(-1.05%"},
		{"a percent worse", []float64{1.1, 0.9, 1, 1.2}, 2, "(+1.05%"},
		{"undecided", []float64{2, -2, 1.5, -1.5}, 2, "do not decide"},
		{"no number", []float64{0.1, math.NaN(), 0.2, -0.2}, 2, "NaN"},
	} {
		ends := make([][2]losses, len(bf16))
		for i, x := range bf16 {
			y := x * (1 + c.worse[i]/100)
			ends[i] = [2]losses{{x, x + 1}, {y, (x + 1) * (1 + c.worse[i]/100)}}
		}
		var r result
		if r.pairs(eightBits, ends); r.cases != 2 || r.failed != c.failed || !strings.Contains(r.note+strings.Join(r.failures, "\n"), c.say) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}
