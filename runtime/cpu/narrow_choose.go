package cpu

import (
	"sync"
	"time"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// narrowFor has for each weight type what chooses its variant, once a process.
var narrowFor = func() (f [weightTypes]func() *narrowVariant) {
	for t := range f {
		f[t] = sync.OnceValue(func() *narrowVariant { return chooseNarrow(WeightType(t)) })
	}
	return f
}()

// forcedNarrow is set by tests.
var forcedNarrow *narrowVariant

func fastestNarrow(t WeightType) *narrowVariant {
	if forcedNarrow != nil {
		return forcedNarrow
	}
	return narrowFor[t]()
}

// chooseNarrow returns the fastest variant of this machine, as choose does: what an instruction costs, a processor does not say.
func chooseNarrow(t WeightType) *narrowVariant {
	all := narrowVariants()
	if len(all) == 1 {
		return all[0]
	}
	return fastest(all, plainNarrow, func(v *narrowVariant) float64 { return v.time(t) })
}

// time is the nanoseconds of a row of x, from some hundred microseconds of products. One row of x counts as much as a row of the
// largest tile.
func (v *narrowVariant) time(t WeightType) float64 {
	const rows, cols = 4 * narrowLanes, 16 * quant.Group // small enough for the caches of a core
	w := Narrow{Rows: rows, Cols: cols, Type: t}
	blocks := rows / narrowLanes
	w.codes, w.scales = make([]byte, blocks*w.blockBytes()), make([]uint16, max(1, blocks*w.blockScales()))
	x, meta := make([]byte, maxNarrowRows*cols*2), make([]byte, maxNarrowRows*cols/quant.Group*8)
	out := make([]float32, maxNarrowRows*rows)
	sum, kernels := 0.0, v.kernels[t]
	for k, kernel := range kernels {
		if k > 0 && k < len(kernels)-1 {
			continue
		}
		best := time.Duration(1<<63 - 1)
		for range 20 {
			begin := time.Now()
			kernel(blocks, w.steps(), &w.codes[0], &w.scales[0], &x[0], &meta[0], &out[0], rows*4)
			best = min(best, time.Since(begin))
		}
		sum += float64(best.Nanoseconds()) / float64(v.rows[t][k])
	}
	return sum / float64(min(2, len(kernels)))
}
