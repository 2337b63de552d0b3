package spec

// gates maps the gated activations to the function that their gate goes through.
var gates = map[string]string{
	"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu", "relu2glu": "relu2",
}

// Gated splits the activation: the function, and whether it gates a second product (Shazeer, arXiv 2002.05202), so that
// the MLP is down(fn(gate(x)) * up(x)) instead of down(fn(up(x))).
func (m *Model) Gated() (fn string, gated bool) {
	if fn, gated = gates[m.Activation]; gated {
		return fn, true
	}
	return m.Activation, false
}
