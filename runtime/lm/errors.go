package lm

import "fmt"

// The kinds of errors that a caller may tell apart with errors.Is. Any other error is a failure on the way.
var (
	ErrInput = kind("bad input") // an option, a prompt or a setting that cannot be used
	ErrFile  = kind("bad file")  // weights, a save, a tokenizer or data that cannot be used, or not together
)

type kind string

func (k kind) Error() string { return string(k) }

// kindError is an error of a kind; its text is the error's alone.
type kindError struct {
	kind kind
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

func inputError(format string, args ...any) error {
	return &kindError{ErrInput, fmt.Errorf(format, args...)}
}

func fileError(format string, args ...any) error {
	return &kindError{ErrFile, fmt.Errorf(format, args...)}
}
