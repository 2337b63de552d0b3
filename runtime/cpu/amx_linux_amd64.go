package cpu

import "syscall"

// allowAMX asks the kernel for the tile registers, which a process may use only when it has asked (Linux, Documentation/arch/x86/xstate.rst).
func allowAMX() bool {
	const requestPermission, tileData = 0x1023, 18
	_, _, errno := syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, requestPermission, tileData, 0)
	return errno == 0
}
