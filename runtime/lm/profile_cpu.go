package lm

import (
	"errors"
	"slices"
	"time"

	"github.com/tfc-dev/tfc/runtime/cpu"
)

// ProfileKernels takes a step several times more than the given number, and tells where its time goes: what every kernel of
// the pool took, and the step as a whole where nothing is timed.
func ProfileKernels(pool *cpu.Pool, times int, step func()) (*Profile, error) {
	var whole []time.Duration
	for range times + 1 {
		begin := time.Now()
		step()
		whole = append(whole, time.Since(begin))
	}
	profile, err := record(pool, times, func(int) error { step(); return nil })
	if err != nil {
		return nil, err
	}
	profile.Step = middle(whole[1:])
	for _, l := range profile.Launches {
		profile.FLOPs += l.FLOPs
	}
	return profile, nil
}

// record takes a step so many times while the pool notes what runs on it.
func record(pool *cpu.Pool, times int, step func(i int) error) (*Profile, error) {
	var profiles []cpu.Profile
	var steps []time.Duration
	for i := range times {
		begin := time.Now()
		pool.Record()
		err := step(i)
		recorded := pool.Recorded()
		steps = append(steps, time.Since(begin))
		if err != nil {
			return nil, err
		}
		if i > 0 && len(recorded.Kernels) != len(profiles[0].Kernels) {
			return nil, errors.New("the step diverged while it was profiled")
		}
		profiles = append(profiles, recorded)
	}
	profile := &Profile{Step: middle(steps)}
	median := cpu.Median(profiles)
	for _, k := range median.Kernels {
		profile.Launches = append(profile.Launches, launchOf(k))
	}
	for w, list := range median.Workers {
		for _, s := range list {
			l := launchOf(median.Kernels[s.Kernel])
			l.Stream, l.Grid, l.Begin, l.Time = w, [3]int{s.Parts, 1, 1}, s.Begin, s.Time
			profile.Workers = append(profile.Workers, l)
		}
	}
	return profile, nil
}

func launchOf(k cpu.Kernel) Launch {
	return Launch{Kernel: k.Name, About: k.Where, Type: k.Type, Bytes: k.Bytes, FLOPs: k.FLOPs, Begin: k.Begin, Time: k.Time}
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
	return Roofline{Bandwidth: pool.ReadBandwidth(int(bytes)), Read: int(bytes)}
}
