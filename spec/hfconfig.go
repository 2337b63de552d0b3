package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// HuggingFaceConfig writes the model as its family's config.json, without what the tokenizer adds (the ids of special
// tokens). Settings that the family cannot express are an error.
//
// A preset's config maps each key to the text of its value: =JSON for a constant, a path of Model.Settings, or the name
// of one of the functions below, as window().
func (s *Spec) HuggingFaceConfig() ([]byte, error) {
	h := s.HF
	if len(h.Differs) > 0 {
		return nil, fmt.Errorf("a config.json of %s cannot say that %s; choose a preset that fits, or keep the model in tfc", h.ModelType, s.describe(h.Differs))
	}
	settings := s.Model.Settings()
	config := map[string]any{"architectures": []string{h.Architecture}, "model_type": h.ModelType, "dtype": "float32", "use_cache": true}
	for key, text := range h.Config {
		name, isFunction := strings.CutSuffix(text, "()")
		switch {
		case text[0] == '=':
			config[key] = json.RawMessage(text[1:])
		case isFunction:
			config[key] = configFunctions[name](&s.Model)
		default:
			v, ok := settings[text]
			if !ok {
				return nil, fmt.Errorf("spec: preset %s maps %s to %s, which is no setting", s.Model.Preset, key, text)
			}
			config[key] = v
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(config)
	return b.Bytes(), err
}

// describe writes settings with their values.
func (s *Spec) describe(paths []string) string {
	settings := s.Model.Settings()
	parts := make([]string, len(paths))
	for i, p := range paths {
		parts[i] = fmt.Sprintf("%s is %v", p, settings[p])
	}
	return strings.Join(parts, ", ")
}

// configFunctions compute what config.json says in another way than a spec.
var configFunctions = map[string]func(*Model) any{
	"activation":        func(m *Model) any { return activationName(m) },
	"query_scalar":      func(m *Model) any { return queryScalar(m) },
	"rope_parameters":   func(m *Model) any { return ropeParameters(m) },
	"rope_scaling":      func(m *Model) any { return ropeScaling(m) },
	"rope_theta":        func(m *Model) any { return ropeTheta(m) },
	"parallel":          func(m *Model) any { return m.Residual != "serial" },
	"softcap_attention": func(m *Model) any { return orNull(m.AttentionSoftcap) },
	"softcap_logits":    func(m *Model) any { return orNull(m.LogitSoftcap) },
	"has_window":        func(m *Model) any { return m.window() != nil },
	"window":            func(m *Model) any { return m.window() },
	"layer_types":       func(m *Model) any { return m.layerKinds("full_attention", "sliding_attention") },
	"attention_layers":  func(m *Model) any { return m.layerKinds("global", "local") },
	"attention_types":   func(m *Model) any { return []any{[]any{m.layerKinds("global", "local"), 1}} },
}

// queryScalar is what the scale of q·k is one over the root of, without the rounding of the root.
func queryScalar(m *Model) float64 {
	x := 1 / (m.AttentionMultiplier * m.AttentionMultiplier)
	if n := math.Round(x); math.Abs(x-n) < 1e-9*n {
		return n
	}
	return x
}

// orNull is how config.json leaves a cap out.
func orNull(x float64) any {
	if x == 0 {
		return nil
	}
	return x
}

// activationName is Transformers' name of the activation.
func activationName(m *Model) string {
	fn, _ := m.Gated()
	if fn == "gelu_tanh" {
		return "gelu_pytorch_tanh"
	}
	return fn
}

// windowOf returns the window of causal & window(n), 0 for any other pattern.
func (p Pattern) windowOf() int {
	if p.Op != "and" || len(p.Args) != 2 {
		return 0
	}
	a, b := p.Args[0], p.Args[1]
	if a.Op != "causal" {
		a, b = b, a
	}
	if a.Op != "causal" || b.Op != "window" || b.Block != 0 {
		return 0
	}
	return b.N
}

// window returns the sliding window, nil where no layer has one.
func (m *Model) window() any {
	for l := range m.NumLayers {
		if n := m.Attention.At(l).windowOf(); n > 0 {
			return n
		}
	}
	return nil
}

// layerKinds names each layer by whether its attention is full or a sliding window.
func (m *Model) layerKinds(full, sliding string) []string {
	kinds := make([]string, m.NumLayers)
	for l := range kinds {
		kinds[l] = full
		if m.Attention.At(l).windowOf() > 0 {
			kinds[l] = sliding
		}
	}
	return kinds
}

// ropeTheta is the base of the frequencies; NTK-aware interpolation is a larger base.
func ropeTheta(m *Model) float64 {
	p := m.Positions.At(0)
	return p.base(p.Rotated(m.HeadDim))
}

// ropeParameters is the setting that Transformers 5 reads.
func ropeParameters(m *Model) map[string]any {
	out := ropeScaling(m)
	if out == nil {
		out = map[string]any{"rope_type": "default"}
	}
	p := m.Positions.At(0)
	out["rope_theta"] = ropeTheta(m)
	if p.Fraction != 1 {
		out["partial_rotary_factor"] = p.Fraction
	}
	return out
}

// ropeScaling is the setting that Transformers 4 reads; nil where the frequencies are not stretched.
func ropeScaling(m *Model) map[string]any {
	s := m.Positions.At(0).Scaling
	if s.Kind != "linear" && s.Kind != "yarn" && s.Kind != "llama3" {
		return nil
	}
	out := map[string]any{"rope_type": s.Kind, "factor": s.Factor}
	if s.Kind != "linear" {
		out["original_max_position_embeddings"] = s.OriginalMax
	}
	switch s.Kind {
	case "llama3":
		out["low_freq_factor"], out["high_freq_factor"] = s.LowFreqFactor, s.HighFreqFactor
	case "yarn":
		out["beta_fast"], out["beta_slow"] = s.BetaFast, s.BetaSlow
		if s.AttentionFactor > 0 {
			out["attention_factor"] = s.AttentionFactor
		}
	}
	return out
}
