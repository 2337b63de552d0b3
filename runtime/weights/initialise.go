package weights

import (
	"fmt"
	"hash/fnv"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/rng"
)

// Initialise draws the first values of a model's weights into dst. Value i of a weight depends on nothing but the seed,
// the weight's name and i, so that a model which shares weights with another starts them alike, and so that neither the
// number of threads nor the machine matters.
//
// normal is the Box-Muller transform (Box and Muller, 1958) of pairs of uniform numbers, with standard deviation Scale;
// with 24 bits to a number no value lies further than 5.77 deviations out. uniform lies in [-Scale, Scale). constant is
// Scale.
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
			work = append(work, func() {
				part := values[start:min(start+chunk, len(values))]
				for i := 0; i < len(part); i += 4 {
					four := draw(key, uint64(start+i)/4)
					for j := range min(4, len(part)-i) {
						part[i+j] = float32(scale * four[j])
					}
				}
			})
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

// draws are the kinds of values: a function from a key and a block of it to four of scale 1.
var draws = map[string]func(key rng.Key, block uint64) [4]float64{
	"constant": func(rng.Key, uint64) [4]float64 { return [4]float64{1, 1, 1, 1} },
	"normal": func(key rng.Key, block uint64) (v [4]float64) {
		words := key.Block(block)
		v[0], v[1] = normalPair(words[0], words[1])
		v[2], v[3] = normalPair(words[2], words[3])
		return v
	},
	"uniform": func(key rng.Key, block uint64) (v [4]float64) {
		for i, word := range key.Block(block) {
			v[i] = 2*float64(rng.Uniform(word)) - 1
		}
		return v
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

// normalPair turns two words into two independent standard normal numbers.
func normalPair(a, b uint32) (float64, float64) {
	radius := math.Sqrt(-2 * logUnit(1-float64(rng.Uniform(a)))) // of (0, 1]
	sin, cos := sincosTurn(float64(rng.Uniform(b)))
	return radius * cos, radius * sin
}

// The logarithm and the sine of package math differ in their last bit between processors. These two use nothing but
// single rounded operations (the conversions keep the compiler from fusing a product with a sum), which do not. They have
// no branches: a processor could not guess them.

// logUnit returns ln x for a normal x in (0, 1], as e*ln 2 + 2*atanh((m-1)/(m+1)) with m in [sqrt(1/2), sqrt 2).
// Its relative error is below 1e-13.
func logUnit(x float64) float64 {
	const rootHalf = 0x3fe6a09e667f3bcd // the bits of sqrt(1/2)
	bits := math.Float64bits(x)
	e := int64(bits-rootHalf) >> 52
	m := math.Float64frombits(bits - uint64(e)<<52)
	s := (m - 1) / (m + 1)
	return float64(float64(e)*math.Ln2) + float64(2*s*horner(&atanhSeries, s*s))
}

// sincosTurn returns the sine and cosine of u turns, u in [0, 1), by their Taylor series within a quarter turn.
// Its error is below 1e-14.
func sincosTurn(u float64) (sin, cos float64) {
	quarter := int(4 * u)
	x := (4*u - float64(quarter)) * (math.Pi / 2)
	sin, cos = x*horner(&sinSeries, x*x), horner(&cosSeries, x*x)
	turned := [4]float64{sin, cos, -sin, -cos}
	return turned[quarter&3], turned[(quarter+1)&3]
}

// The coefficients of atanh(s)/s in s², and of sin(x)/x and cos(x) in x².
var atanhSeries, sinSeries, cosSeries = func() (a, s, c [11]float64) {
	factorial := 1.0 // of 2i, with its sign
	for i := range a {
		a[i], s[i], c[i] = 1/float64(2*i+1), 1/(factorial*float64(2*i+1)), 1/factorial
		factorial *= -float64((2*i + 1) * (2*i + 2))
	}
	return a, s, c
}()

// horner evaluates a polynomial, constant term first.
func horner(c *[11]float64, x float64) float64 {
	sum := float64(c[10]*x) + c[9]
	sum = float64(sum*x) + c[8]
	sum = float64(sum*x) + c[7]
	sum = float64(sum*x) + c[6]
	sum = float64(sum*x) + c[5]
	sum = float64(sum*x) + c[4]
	sum = float64(sum*x) + c[3]
	sum = float64(sum*x) + c[2]
	sum = float64(sum*x) + c[1]
	return float64(sum*x) + c[0]
}
