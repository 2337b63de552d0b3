package ir

import "github.com/tfc-dev/tfc/spec"

// Rotary returns the frequencies of a rope op, one for each rotated pair of a head, and the scale of the rotated pairs.
func Rotary(op *Op) (freqs []float64, scale float64) {
	return rotaryPositions(op).Frequencies(op.Int("head_dim"), op.Int("max"))
}

// rotaryPositions reads back the spec that rotaryAttrs wrote.
func rotaryPositions(op *Op) spec.Positions {
	p := spec.Positions{Kind: "rope", Theta: op.Float("theta"), Fraction: op.Float("fraction"), Interleaved: op.Bool("interleaved"),
		Scaling: spec.Scaling{Kind: op.Str("scaling"), Factor: op.Float("factor"), OriginalMax: op.Int("original"),
			LowFreqFactor: op.Float("low_freq_factor"), HighFreqFactor: op.Float("high_freq_factor"),
			BetaFast: op.Float("beta_fast"), BetaSlow: op.Float("beta_slow"), AttentionFactor: op.Float("attention_factor")}}
	if p.Scaling.Kind == "" {
		p.Scaling.Kind = "none"
	}
	return p
}

// rotaryAttrs writes positions as attributes of a rope op; what a scaling rule does not use is left out.
func rotaryAttrs(p spec.Positions, heads, headDim, maxPositions int) Attrs {
	a := Attrs{"heads": heads, "head_dim": headDim, "max": maxPositions, "theta": p.Theta, "fraction": p.Fraction}
	if p.Interleaved {
		a["interleaved"] = true
	}
	s := p.Scaling
	if s.Kind == "" || s.Kind == "none" {
		return a
	}
	a["scaling"], a["factor"] = s.Kind, s.Factor
	if s.OriginalMax > 0 {
		a["original"] = s.OriginalMax
	}
	switch s.Kind {
	case "llama3":
		a["low_freq_factor"], a["high_freq_factor"] = s.LowFreqFactor, s.HighFreqFactor
	case "yarn":
		a["beta_fast"], a["beta_slow"], a["attention_factor"] = s.BetaFast, s.BetaSlow, s.AttentionFactor
	}
	return a
}

// AlibiSlopes returns the bias slope of each head (Press et al., arXiv 2108.12409).
func AlibiSlopes(heads int) []float64 { return spec.AlibiSlopes(heads) }
