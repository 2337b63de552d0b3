package cuda

// At returns the address so many bytes on.
func (p Ptr) At(bytes int) Ptr { return p + Ptr(bytes) }

// Fail records an error of the stream's user, as if a call on the stream had failed: later calls do nothing.
func (s *Stream) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}
