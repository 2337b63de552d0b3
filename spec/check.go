package spec

// Check finds the rules that a spec breaks.
func Check(s *Spec) Errors { return nil }
