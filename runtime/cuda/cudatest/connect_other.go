//go:build !(linux && (amd64 || arm64))

package cudatest

import (
	"fmt"
	"runtime"
)

func connect(string) (func(string) string, error) {
	return nil, fmt.Errorf("the fake of CUDA's driver cannot be loaded on %s/%s", runtime.GOOS, runtime.GOARCH)
}
