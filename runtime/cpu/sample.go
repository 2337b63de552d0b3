package cpu

import "math"

// ExpWeights writes dst = e^((logits-highest)/temperature), the probabilities of a softmax but for a factor, and returns their sum.
// highest is the largest of the logits, none of which is NaN or +Inf; temperature is above 0.
func ExpWeights(dst []float64, logits []float32, highest, temperature float64) float64 {
	var sums [sumLanes]float64
	done := expWeightsVector(dst, logits, highest, temperature, &sums)
	for i := done; i < len(logits); i++ {
		dst[i] = math.Exp((float64(logits[i]) - highest) / temperature)
		sums[i%sumLanes] += dst[i]
	}
	return foldLanes64(&sums)
}
