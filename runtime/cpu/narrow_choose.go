package cpu

import (
	"sync"
	"time"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// fastest has for each weight type what chooses its variant, once a process.
var fastest = func() (f [weightTypes]func() *narrowVariant) {
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
	return fastest[t]()
}

// chooseNarrow times the variants of this machine, for some hundred microseconds each, and returns the fastest: what an
// instruction costs, a processor does not say. One row of x counts as much as a row of the largest tile.
func chooseNarrow(t WeightType) *narrowVariant {
	all := narrowVariants()
	if len(all) == 1 {
		return all[0]
	}
	const rows, cols = 4 * narrowLanes, 16 * quant.Group // small enough for the caches of a core
	w := Narrow{Rows: rows, Cols: cols, Type: t}
	blocks := rows / narrowLanes
	w.codes, w.scales = make([]byte, blocks*w.blockBytes()), make([]uint16, max(1, blocks*w.blockScales()))
	x, meta := make([]byte, maxNarrowRows*cols*2), make([]byte, maxNarrowRows*cols/quant.Group*8)
	out := make([]float32, maxNarrowRows*rows)
	var best *narrowVariant
	least := time.Duration(1<<63 - 1)
	for i := len(all) - 1; i >= 0; i-- {
		v, sum := all[i], time.Duration(0)
		for k, kernel := range v.kernels[t] {
			if k > 0 && k < len(v.kernels[t])-1 {
				continue
			}
			once := time.Duration(1<<63 - 1)
			for range 20 {
				begin := time.Now()
				kernel(blocks, w.steps(), &w.codes[0], &w.scales[0], &x[0], &meta[0], &out[0], rows*4)
				once = min(once, time.Since(begin))
			}
			sum += once / time.Duration(v.rows[t][k])
		}
		sum /= time.Duration(min(2, len(v.kernels[t])))
		if sum < least {
			best, least = v, sum
		}
	}
	return best
}
