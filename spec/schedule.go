package spec

import "math"

// LR returns the learning rate of a step as a share of the peak rate; steps count from 1 to total. Step i of
// warmup(n) uses i/n. A phase starts from the rate at which the one before it ended, and after the last phase the rate
// stays.
func (s Schedule) LR(step, total int) float64 {
	rate, start := 0.0, 0
	for k, p := range s {
		if k == 0 && p.Kind != "warmup" {
			rate = 1
		}
		n := p.Steps.Of(total)
		if k == len(s)-1 && p.Steps == (Count{}) {
			n = max(0, total-start)
		}
		if step <= start+n {
			return p.rate(rate, step-start, n, start)
		}
		if n > 0 {
			rate = p.rate(rate, n, n, start)
		}
		start += n
	}
	return rate
}

// rate returns the rate of step i of the phase's n, when it stood at from after the start steps before it.
func (p Phase) rate(from float64, i, n, start int) float64 {
	x := float64(i) / float64(n)
	switch p.Kind {
	case "warmup":
		return from + (1-from)*x
	case "linear":
		return from + (p.To-from)*x
	case "cosine":
		return p.To + (from-p.To)*(1+math.Cos(math.Pi*x))/2
	case "inverse_sqrt": // from/sqrt(step/start), as after a warmup of start steps
		if start == 0 {
			start = 10_000
		}
		return from * math.Sqrt(float64(start)/float64(start+i))
	}
	return from // constant
}
