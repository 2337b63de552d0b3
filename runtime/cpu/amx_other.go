//go:build amd64 && !linux

package cpu

func allowAMX() bool { return false }
