//go:build !(linux && (amd64 || arm64))

package cuda

import (
	"fmt"
	"runtime"
)

var errSystem = fmt.Errorf("CUDA is used on Linux (amd64, arm64) only, this is %s/%s", runtime.GOOS, runtime.GOARCH)

func dlopen(string) (uintptr, error) { return 0, errSystem }

func dlsym(uintptr, string) (uintptr, error) { return 0, errSystem }

func invoke(uintptr, []uintptr) uintptr { panic(errSystem) } // no library is ever open here
