package spec

import "math"

// Rotated returns how many of a head's headDim numbers are rotated.
func (p Positions) Rotated(headDim int) int { return int(float64(headDim) * p.Fraction) }

// Frequencies returns the angle by which each rotated pair of a head of width headDim turns from one position to the
// next, and the scale of the rotated pairs. maxPositions is the longest sequence. The numbers are rounded to float32 where
// Transformers rounds them, so that long positions agree with models trained there.
//
// The rules are RoPE's (Su et al., arXiv 2104.09864) with linear position interpolation (Chen et al., arXiv 2306.15595),
// NTK-aware interpolation (the base grows by factor^(d/(d-2)), so that the slowest pair turns factor times slower and the
// fastest as before), YaRN (Peng et al., arXiv 2309.00071) and Llama 3.1's.
func (p Positions) Frequencies(headDim, maxPositions int) (freqs []float64, mscale float64) {
	dim, s := p.Rotated(headDim), p.Scaling
	base := p.base(dim)
	if s.OriginalMax == 0 && s.Factor > 0 {
		s.OriginalMax = max(1, int(float64(maxPositions)/s.Factor))
	}
	freqs = make([]float64, dim/2)
	for i := range freqs {
		turn := f32(math.Pow(base, f32(float64(2*i)/float64(dim))))
		freqs[i] = f32(1 / turn)
		switch s.Kind {
		case "linear":
			freqs[i] = f32(freqs[i] / s.Factor)
		case "llama3":
			freqs[i] = s.llama3(freqs[i])
		case "yarn":
			own := f32(1 - s.ramp(i, dim, base)) // share of the frequency kept as it is
			freqs[i] = f32(f32(f32(1/f32(s.Factor*turn))*f32(1-own)) + f32(freqs[i]*own))
		}
	}
	mscale = 1
	if s.Kind == "yarn" {
		if mscale = s.AttentionFactor; mscale == 0 {
			mscale = 0.1*math.Log(s.Factor) + 1
		}
	}
	return freqs, mscale
}

// base is the base of the frequencies of dim rotated numbers.
func (p Positions) base(dim int) float64 {
	if p.Scaling.Kind == "ntk" && dim > 2 {
		return p.Theta * math.Pow(p.Scaling.Factor, float64(dim)/float64(dim-2))
	}
	return p.Theta
}

func f32(x float64) float64 { return float64(float32(x)) }

// llama3 keeps frequencies that turn often within the original length, divides those that turn rarely, and blends between.
func (s Scaling) llama3(freq float64) float64 {
	wavelength, original := f32(2*math.Pi/freq), float64(s.OriginalMax)
	switch {
	case wavelength < original/s.HighFreqFactor:
		return freq
	case wavelength > original/s.LowFreqFactor:
		return f32(freq / s.Factor)
	}
	smooth := f32(f32(f32(original/wavelength)-s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor))
	return f32(f32(f32(f32(1-smooth)*freq)/s.Factor) + f32(smooth*freq))
}

// ramp rises from 0 to 1 over the pairs between BetaFast and BetaSlow turns within the original length.
func (s Scaling) ramp(i, dim int, base float64) float64 {
	pair := func(turns float64) float64 {
		return float64(dim) * math.Log(float64(s.OriginalMax)/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	low := max(math.Floor(pair(s.BetaFast)), 0)
	high := min(math.Ceil(pair(s.BetaSlow)), float64(dim-1))
	if low == high {
		high += 0.001
	}
	return min(max(f32((float64(i)-low)/(high-low)), 0), 1)
}

// AlibiSlopes returns by how much each head's scores fall with each step of distance (Press, Smith, Lewis, arXiv
// 2108.12409). With a power of two of heads they are the powers of 2^(-8/heads); otherwise those of the power of two below,
// followed by every other slope of the power of two above.
func AlibiSlopes(heads int) []float64 {
	power := 1
	for power*2 <= heads {
		power *= 2
	}
	slopes := make([]float64, heads)
	for i := range slopes {
		if i < power {
			slopes[i] = math.Exp2(-8 * float64(i+1) / float64(power))
		} else {
			slopes[i] = math.Exp2(-8 * float64(2*(i-power)+1) / float64(2*power))
		}
	}
	return slopes
}
