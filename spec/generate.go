package spec

// GenerationWeights is the type of the weights that generation reads where the machine has it: f32, bf16, int8 or int4.
func (s *Spec) GenerationWeights() string {
	switch {
	case s.Generate.Weights != "auto":
		return s.Generate.Weights
	case s.Train.Precision == "bf16" || s.Train.Precision == "fp8":
		return "bf16"
	}
	return "f32"
}
