package spec

import "testing"

// TestGenerationWeights: auto follows the precision of training, and anything else is taken as it is said.
func TestGenerationWeights(t *testing.T) {
	for _, c := range []struct{ weights, precision, want string }{
		{"auto", "f32", "f32"}, {"auto", "tf32", "f32"}, {"auto", "fp16", "f32"}, {"auto", "bf16", "bf16"}, {"auto", "fp8", "bf16"},
		{"f32", "bf16", "f32"}, {"bf16", "f32", "bf16"}, {"int8", "fp8", "int8"}, {"int4", "bf16", "int4"},
	} {
		s := &Spec{Train: Train{Precision: c.precision}, Generate: Generate{Weights: c.weights}}
		if got := s.GenerationWeights(); got != c.want {
			t.Errorf("weights %s after training in %s: %s, want %s", c.weights, c.precision, got, c.want)
		}
	}
}
