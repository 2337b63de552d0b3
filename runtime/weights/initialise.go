package weights

import (
	"fmt"
	"hash/fnv"
	"math"
	"runtime"
	"sync"

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
	for _, w := range table {
		if w.Offset < 0 || w.Size() > len(dst)-w.Offset {
			return fmt.Errorf("weight %s: elements %d to %d lie outside the buffer of %d", w.Name, w.Offset, w.Offset+w.Size(), len(dst))
		}
		values := dst[w.Offset : w.Offset+w.Size()]
		switch w.Init.Kind {
		case "constant":
			for i := range values {
				values[i] = float32(w.Init.Scale)
			}
		case "normal":
			fill(values, weightKey(w.Name, seed), func(words [4]uint32) [4]float64 {
				a, b := normalPair(words[0], words[1])
				c, d := normalPair(words[2], words[3])
				return [4]float64{a, b, c, d}
			}, w.Init.Scale)
		case "uniform":
			fill(values, weightKey(w.Name, seed), func(words [4]uint32) (u [4]float64) {
				for i, word := range words {
					u[i] = 2*float64(rng.Uniform(word)) - 1
				}
				return u
			}, w.Init.Scale)
		default:
			return fmt.Errorf("weight %s: unknown initialisation %q; normal, uniform and constant exist", w.Name, w.Init.Kind)
		}
	}
	return nil
}

// weightKey spreads the hash of a name over the fields of a key. Its step is 0, which training, counting from 1, never
// draws from.
func weightKey(name string, seed uint64) rng.Key {
	h := fnv.New64a()
	h.Write([]byte(name))
	sum := h.Sum64()
	return rng.Key{Seed: seed, Stream: uint32(sum), Micro: uint16(sum >> 32), Layer: uint16(sum >> 48)}
}

// fill draws values four at a time, on all cores.
func fill(values []float32, key rng.Key, draw func([4]uint32) [4]float64, scale float64) {
	const chunk = 1 << 16 // a multiple of 4
	parts := make(chan int)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (len(values)+chunk-1)/chunk) {
		wg.Go(func() {
			for start := range parts {
				end := min(start+chunk, len(values))
				for i := start; i < end; i += 4 {
					for j, v := range draw(key.Block(uint64(i / 4))) {
						if i+j < end {
							values[i+j] = float32(scale * v)
						}
					}
				}
			}
		})
	}
	for start := 0; start < len(values); start += chunk {
		parts <- start
	}
	close(parts)
	wg.Wait()
}

// normalPair turns two words into two independent standard normal numbers.
func normalPair(a, b uint32) (float64, float64) {
	radius := math.Sqrt(-2 * logUnit(1-float64(rng.Uniform(a)))) // of (0, 1]
	sin, cos := sincosTurn(float64(rng.Uniform(b)))
	return radius * cos, radius * sin
}

// The logarithm and the sine of package math differ in their last bit between processors. These two use nothing but
// single rounded operations (the conversions keep the compiler from fusing a product with a sum), which do not.

// logUnit returns ln x for a normal x in (0, 1], as e*ln 2 + 2*atanh((m-1)/(m+1)) with m in [sqrt(1/2), sqrt 2).
// Its relative error is below 1e-13.
func logUnit(x float64) float64 {
	m, e := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m, e = 2*m, e-1
	}
	s := (m - 1) / (m + 1)
	return float64(float64(e)*math.Ln2) + float64(2*s*horner(&atanhSeries, s*s))
}

// sincosTurn returns the sine and cosine of u turns, u in [0, 1), by their Taylor series within a quarter turn.
// Its error is below 1e-14.
func sincosTurn(u float64) (sin, cos float64) {
	quarter := math.Floor(4 * u)
	x := (4*u - quarter) * (math.Pi / 2)
	sin, cos = x*horner(&sinSeries, x*x), horner(&cosSeries, x*x)
	switch quarter {
	case 1:
		return cos, -sin
	case 2:
		return -sin, -cos
	case 3:
		return -cos, sin
	}
	return sin, cos
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
func horner(coefficients *[11]float64, x float64) float64 {
	sum := 0.0
	for i := len(coefficients) - 1; i >= 0; i-- {
		sum = float64(sum*x) + coefficients[i]
	}
	return sum
}
