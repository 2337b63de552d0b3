package cpu

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestExpWeights(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 19))
		for _, n := range []int{1, 15, 16, 17, 1000} {
			for _, size := range []float64{1e-3, 1, 30, 1000, 1e30} {
				logits, highest := make([]float32, n), math.Inf(-1)
				for i := range logits {
					if logits[i] = float32(r.NormFloat64() * size); i%9 == 3 {
						logits[i] = -inf
					}
					highest = max(highest, float64(logits[i]))
				}
				for _, temperature := range []float64{1e-3, 0.8, 50} {
					got, sum := make([]float64, n), 0.0
					total := ExpWeights(got, logits, highest, temperature)
					for i, v := range logits {
						x := (float64(v) - highest) / temperature
						want := math.Exp(x)
						if x < -1021*math.Ln2 {
							want = 0
						}
						if d := math.Abs(got[i] - want); !(d <= 4e-16*want) && !(x < -707 && got[i] < 1e-307) {
							t.Fatalf("e^%v is %v, want %v", x, got[i], want)
						}
						sum += got[i]
					}
					if !(math.Abs(total-sum) <= 1e-13*sum) {
						t.Fatalf("the sum of %d is %v, want %v", n, total, sum)
					}
				}
			}
		}
	})
}
