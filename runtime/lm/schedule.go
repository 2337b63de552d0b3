package lm

import "math"

// Phase is a stretch of the learning-rate schedule. Phases follow one another; each begins at the rate where the one
// before it ended, the first at the peak. The last phase takes the steps that are left, unless it says how many; after
// it the rate stays.
type Phase struct {
	Kind  string  // warmup, constant, linear, cosine, inverse_sqrt
	Steps int     // how long
	Share float64 // how long, as a share of all steps, where Steps is 0
	To    float64 // share of the peak rate at the end of linear and cosine
}

func (p Phase) length(total int) int {
	if p.Steps == 0 && p.Share > 0 {
		return int(p.Share*float64(total) + 0.5)
	}
	return p.Steps
}

// rate returns the learning rate of a step, counted from 1, as a share of the peak. Step i of a phase of n steps gives
//
//	warmup        i/n
//	constant      v
//	linear        v + (to-v)·i/n
//	cosine        to + (v-to)·(1+cos(π·i/n))/2      (Loshchilov, Hutter, arXiv 1608.03983, without restarts)
//	inverse_sqrt  v·√(s/(s+i))                      (Vaswani et al., arXiv 1706.03762)
//
// where v is the share at the end of the phase before and s the step there.
func rate(phases []Phase, step, total int) float64 {
	v, done := 1.0, 0
	for k, p := range phases {
		n := p.length(total)
		if n == 0 && k == len(phases)-1 {
			n = total - done
		}
		if n <= 0 {
			continue
		}
		i := min(step-done, n)
		t := float64(i) / float64(n)
		switch p.Kind {
		case "warmup":
			v = t
		case "linear":
			v += (p.To - v) * t
		case "cosine":
			v = p.To + (v-p.To)*(1+math.Cos(math.Pi*t))/2
		case "inverse_sqrt":
			s := float64(max(done, 1))
			v *= math.Sqrt(s / (s + float64(i)))
		}
		done += n
		if step <= done {
			break
		}
	}
	return v
}
