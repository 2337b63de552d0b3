package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// driverFile is where NVIDIA's kernel module tells its version.
const driverFile = "/proc/driver/nvidia/version"

// goBuild compiles the command pkg of the module in dir to the file program. Where this machine has an NVIDIA driver, told by
// the file driver, and cgo, it is compiled with NVML, so that its training log has the GPU's clocks, power and temperature.
// A note, if not empty, says why it is not, against what was to be expected.
func goBuild(dir, pkg, program, driver string) (note string, err error) {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return "", errNoGo
	}
	build := func(flags, env []string) (string, error) {
		cmd := exec.Command(goCommand, append(append([]string{"build", "-mod=readonly"}, flags...), "-o", program, pkg)...)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...) // a workspace does not list it
		said, err := cmd.CombinedOutput()
		return string(said), err
	}
	if flags, env := nvmlBuild(goCommand, driver); flags != nil {
		said, err := build(flags, env)
		if err == nil {
			return "", nil
		}
		note = "the training log will lack the GPU's clocks, power and temperature, because the program does not compile with NVML:\n" + strings.TrimSpace(said)
	}
	said, err := build(nil, nil)
	if err != nil {
		return "", fmt.Errorf("go build of the package in %s: %w\n%s", dir, err, said)
	}
	return note, nil
}

// nvmlBuild returns the flags and the environment of a build with NVML, nothing where there is no cgo or no driver. NVML's
// functions are looked for when they are called, so that the program starts where there is no driver, too; the header of
// NVML warns a hundred times of functions that go-nvml has for old drivers.
func nvmlBuild(goCommand, driver string) (flags, env []string) {
	if runtime.GOOS != "linux" || driverVersion(driver) == "" {
		return nil, nil
	}
	out, err := exec.Command(goCommand, "env", "CGO_ENABLED", "CC", "CGO_CFLAGS").Output()
	values := strings.Split(string(out), "\n")
	if err != nil || len(values) < 3 || values[0] != "1" {
		return nil, nil
	}
	compiler, _, _ := strings.Cut(values[1], " ")
	if _, err := exec.LookPath(compiler); err != nil {
		return nil, nil
	}
	return []string{"-tags", "nvml", "-ldflags", "-extldflags=-Wl,-z,lazy"},
		[]string{"CGO_CFLAGS=" + values[2] + " -Wno-deprecated-declarations"}
}
