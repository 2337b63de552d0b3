package lm

import (
	"math"
	"testing"
)

func TestSchedule(t *testing.T) {
	usual := []Phase{{Kind: "warmup", Share: 0.05}, {Kind: "cosine", To: 0.1}}
	for _, c := range []struct {
		name        string
		phases      []Phase
		step, total int
		want        float64
	}{
		{"no schedule", nil, 7, 100, 1},
		{"warm-up starts above zero", usual, 1, 100, 0.2},
		{"warm-up", usual, 3, 100, 0.6},
		{"warm-up ends at the peak", usual, 5, 100, 1},
		{"cosine begins below the peak", usual, 6, 100, 0.1 + 0.9*(1+math.Cos(math.Pi/95))/2},
		{"cosine at the end", usual, 100, 100, 0.1},
		{"after the end", usual, 200, 100, 0.1},
		{"a share that rounds to no step", usual, 1, 8, 0.1 + 0.9*(1+math.Cos(math.Pi/8))/2},
		{"all warm-up", []Phase{{Kind: "warmup", Steps: 50}}, 10, 20, 0.2},
		{"the rest of nothing", []Phase{{Kind: "warmup", Steps: 20}, {Kind: "cosine"}}, 20, 20, 1},
		{"constant after warm-up", []Phase{{Kind: "warmup", Steps: 5}, {Kind: "constant"}}, 17, 20, 1},
		{"linear from the peak", []Phase{{Kind: "linear"}}, 5, 20, 0.75},
		{"linear to zero", []Phase{{Kind: "linear"}}, 20, 20, 0},
		{"inverse root after a warm-up of 4", []Phase{{Kind: "warmup", Steps: 4}, {Kind: "inverse_sqrt"}}, 16, 100, 0.5},
		{"inverse root from the start", []Phase{{Kind: "inverse_sqrt"}}, 3, 100, 0.5},
		{"warm-up, stable, decay", []Phase{{Kind: "warmup", Steps: 10}, {Kind: "constant", Share: 0.7}, {Kind: "linear"}}, 90, 100, 0.5},
		{"phases go on from where one ended", []Phase{{Kind: "linear", To: 0.5, Steps: 10}, {Kind: "cosine", To: 0}}, 15, 20, 0.25},
		{"a last phase with steps stays", []Phase{{Kind: "linear", To: 0.5, Steps: 10}}, 19, 20, 0.5},
	} {
		if got := rate(c.phases, c.step, c.total); math.Abs(got-c.want) > 1e-15 {
			t.Errorf("%s: step %d of %d is %v, want %v", c.name, c.step, c.total, got, c.want)
		}
	}
}
