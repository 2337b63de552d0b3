package weights

import (
	"fmt"
	"hash/fnv"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/cpu"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// Initialise draws the first values of a model's weights into dst, as a Drawing does.
func Initialise(table []Info, dst []float32, seed uint64) error {
	d, err := NewDrawing(table, len(dst), seed)
	if err == nil {
		d.Fill(dst, 0)
	}
	return err
}

// Drawing is the first values of a model's weights, which are drawn where they are needed. Value i of a weight depends on
// nothing but the seed, the weight's name and i, so that a model which shares weights with another starts them alike, and so
// that neither the number of threads nor the machine matters, nor in which parts they are drawn.
//
// normal has standard deviation Scale (see cpu.Normal). uniform lies in [-Scale, Scale). constant is Scale.
type Drawing struct {
	table []Info // by offset
	seed  uint64
}

// NewDrawing describes the weights of a buffer of so many floats.
func NewDrawing(table []Info, floats int, seed uint64) (*Drawing, error) {
	for _, w := range table {
		if w.Offset < 0 || w.Size() > floats-w.Offset {
			return nil, fmt.Errorf("weight %s: elements %d to %d lie outside the buffer of %d", w.Name, w.Offset, w.Offset+w.Size(), floats)
		}
		if draws[w.Init.Kind] == nil {
			return nil, fmt.Errorf("weight %s: unknown initialisation %q; normal, uniform and constant exist", w.Name, w.Init.Kind)
		}
	}
	sorted := slices.Clone(table)
	slices.SortFunc(sorted, func(a, b Info) int { return a.Offset - b.Offset })
	return &Drawing{sorted, seed}, nil
}

// Fill draws the values of the buffer from an element on, len(dst) of them, on all cores. What belongs to no weight is 0.
func (d *Drawing) Fill(dst []float32, from int) {
	const chunk = 1 << 16
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (len(dst)+chunk-1)/chunk) {
		wg.Go(func() {
			for {
				start := int(next.Add(chunk)) - chunk
				if start >= len(dst) {
					return
				}
				d.fill(dst[start:min(start+chunk, len(dst))], from+start)
			}
		})
	}
	wg.Wait()
}

// fill is Fill on one core.
func (d *Drawing) fill(dst []float32, from int) {
	clear(dst)
	end := from + len(dst)
	first := sort.Search(len(d.table), func(i int) bool { return d.table[i].Offset+d.table[i].Size() > from })
	for _, w := range d.table[first:] {
		if w.Offset >= end {
			return
		}
		start := max(from-w.Offset, 0) // in the weight
		values := dst[w.Offset+start-from : min(w.Offset+w.Size(), end)-from]
		draw, key := draws[w.Init.Kind], weightKey(w.Name, d.seed)
		if skip := start % 4; skip > 0 {
			var four [4]float32
			draw(four[:], key, uint64(start/4), w.Init.Scale)
			n := copy(values, four[skip:])
			values, start = values[n:], start+n
		}
		draw(values, key, uint64(start/4), w.Init.Scale)
	}
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
