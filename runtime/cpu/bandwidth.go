package cpu

import (
	"slices"
	"time"
	"unsafe"
)

const (
	readStep = 512
	readPart = 1 << 18 // bytes that a part reads
)

// ReadBandwidth measures how many bytes a second all workers of the pool together read from memory, over and over the same so
// many bytes, rounded up to whole parts: the median of some rounds. What fits the caches comes from there.
func ReadBandwidth(p *Pool, bytes int) float64 {
	parts := max(1, ceil(bytes, readPart))
	data := NewMemory(parts * readPart).take(parts * readPart)
	for i := 0; i < len(data); i += 4096 / 2 {
		data[i] = 1 // a page that was never written is not in memory
	}
	task := &reading{data: data}
	var rounds []float64
	for begin := time.Now(); len(rounds) < 5 || time.Since(begin) < 100*time.Millisecond && len(rounds) < 1000; {
		start := time.Now()
		p.run(task, parts)
		rounds = append(rounds, float64(len(data))/time.Since(start).Seconds())
	}
	return median(rounds[1:])
}

type reading struct{ data []byte }

func (t *reading) part(i int, _ *scratch) { active.read(readPart, &t.data[i*readPart]) }

func readPlain(n int, src *byte) (all uint32) {
	for _, v := range unsafe.Slice((*uint32)(unsafe.Pointer(src)), n/4) {
		all |= v
	}
	return all
}

func median(x []float64) float64 {
	s := append([]float64(nil), x...)
	slices.Sort(s)
	return s[len(s)/2]
}
