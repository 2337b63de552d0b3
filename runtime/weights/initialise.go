package weights

import (
	"fmt"
	"hash/fnv"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/cpu"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// Initialise draws the first values of a model's weights into dst. Value i of a weight depends on nothing but the seed,
// the weight's name and i, so that a model which shares weights with another starts them alike, and so that neither the
// number of threads nor the machine matters.
//
// normal has standard deviation Scale (see cpu.Normal). uniform lies in [-Scale, Scale). constant is Scale.
func Initialise(table []Info, dst []float32, seed uint64) error {
	wait, err := Begin(table, dst, seed)
	if err == nil {
		wait()
	}
	return err
}

// Begin is Initialise on all cores, beside what its caller does meanwhile: the values are there once wait has returned. An
// error comes before anything is drawn.
func Begin(table []Info, dst []float32, seed uint64) (wait func(), err error) {
	const chunk = 1 << 16 // a multiple of 4
	var work []func()
	for _, w := range table {
		if w.Offset < 0 || w.Size() > len(dst)-w.Offset {
			return nil, fmt.Errorf("weight %s: elements %d to %d lie outside the buffer of %d", w.Name, w.Offset, w.Offset+w.Size(), len(dst))
		}
		draw := draws[w.Init.Kind]
		if draw == nil {
			return nil, fmt.Errorf("weight %s: unknown initialisation %q; normal, uniform and constant exist", w.Name, w.Init.Kind)
		}
		values, key, scale := dst[w.Offset:w.Offset+w.Size()], weightKey(w.Name, seed), w.Init.Scale
		for start := 0; start < len(values); start += chunk {
			work = append(work, func() { draw(values[start:min(start+chunk, len(values))], key, uint64(start/4), scale) })
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(work)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(work)); i = next.Add(1) - 1 {
				work[i]()
			}
		})
	}
	return wg.Wait, nil
}

// draws are the kinds of values. They draw from the blocks of the key from first on.
var draws = map[string]func(values []float32, key rng.Key, first uint64, scale float64){
	"normal": cpu.Normal,
	"constant": func(values []float32, _ rng.Key, _ uint64, scale float64) {
		for i := range values {
			values[i] = float32(scale)
		}
	},
	"uniform": func(values []float32, key rng.Key, first uint64, scale float64) {
		var words [4]uint32
		for i := range values {
			if i%4 == 0 {
				words = key.Block(first + uint64(i/4))
			}
			values[i] = float32(scale * (2*float64(rng.Uniform(words[i%4])) - 1))
		}
	},
}

// weightKey spreads the hash of a name over the fields of a key. Its step is 0, which training, counting from 1, never
// draws from.
func weightKey(name string, seed uint64) rng.Key {
	h := fnv.New64a()
	h.Write([]byte(name))
	sum := h.Sum64()
	return rng.Key{Seed: seed, Stream: uint32(sum), Micro: uint16(sum >> 32), Layer: uint16(sum >> 48)}
}
