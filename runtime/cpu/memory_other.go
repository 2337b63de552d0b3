//go:build !linux

package cpu

func largePages(n int) []byte { return make([]byte, n) }
