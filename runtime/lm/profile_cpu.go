package lm

import (
	"fmt"
	"slices"
	"time"

	"github.com/tfc-dev/tfc/runtime/cpu"
)

// ProfileKernels takes a step several times more than the given number, and tells where its time goes: what every kernel of
// the pool took, and the step as a whole where nothing is timed.
func ProfileKernels(p *cpu.Pool, times int, step func()) (*Profile, error) {
	var whole []time.Duration
	for range times + 1 {
		begin := time.Now()
		step()
		whole = append(whole, time.Since(begin))
	}
	var runs [][]cpu.Call
	for range times {
		var calls []cpu.Call
		p.Trace(func(c cpu.Call) { calls = append(calls, c) })
		step()
		p.Trace(nil)
		if len(runs) > 0 && len(calls) != len(runs[0]) {
			return nil, fmt.Errorf("a step ran %d kernels, another %d", len(runs[0]), len(calls))
		}
		runs = append(runs, calls)
	}
	profile := &Profile{Step: middle(whole[1:])}
	begin := time.Duration(0)
	for i, c := range runs[0] {
		took := make([]time.Duration, len(runs))
		for r := range runs {
			took[r] = runs[r][i].Time
		}
		l := Launch{Kernel: c.Kernel, About: c.About, Bytes: c.Bytes, FLOPs: c.FLOPs, Begin: begin, Time: middle(took)}
		begin += l.Time
		profile.FLOPs += c.FLOPs
		profile.Launches = append(profile.Launches, l)
	}
	return profile, nil
}

// middle is the median.
func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// readRoofline measures how fast the processor reads as many bytes as the profiled step reads: from memory, or from its caches
// where they fit.
func readRoofline(p *Profile) Roofline {
	bytes := 0.0
	for _, l := range p.Launches {
		bytes += l.Bytes
	}
	pool := cpu.NewPool(0)
	defer pool.Close()
	return Roofline{Bandwidth: cpu.ReadBandwidth(pool, int(bytes)), Read: int(bytes)}
}
