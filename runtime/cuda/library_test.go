//go:build linux && (amd64 || arm64)

package cuda

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

func TestCall(t *testing.T) {
	libc, err := openLibrary("libc.so.6")
	if err != nil {
		t.Fatal(err)
	}
	var labs, memcpy, either, missing cfunc
	err = libc.resolve([]symbol{
		{to: &labs, names: []string{"labs"}},
		{to: &memcpy, names: []string{"memcpy"}},
		{to: &either, names: []string{"labs_v2", "labs"}},
		{to: &missing, names: []string{"tfc_nothing"}, optional: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	minus := -5
	if got := labs.call(uintptr(minus)); got != 5 {
		t.Errorf("labs(-5) is %d", got)
	}
	if either.name != "labs" || missing.address != 0 || missing.name != "tfc_nothing" {
		t.Errorf("%+v, %+v", either, missing)
	}
	// Variables of Go stay where they are during a call, whatever the stack and the collector do.
	for i := range 1000 {
		src, dst := uint64(i), uint64(0)
		memcpy.call(uintptr(unsafe.Pointer(&dst)), uintptr(unsafe.Pointer(&src)), 8)
		if dst != src {
			t.Fatalf("copied %d, got %d", src, dst)
		}
		if i%100 == 0 {
			runtime.GC()
		}
	}
	if err := libc.resolve([]symbol{{to: &missing, names: []string{"tfc_nothing"}}}); err == nil || !strings.Contains(err.Error(), "tfc_nothing") {
		t.Error(err)
	}
}

func TestNoDriver(t *testing.T) {
	for path, want := range map[string][]string{
		"/nowhere/libcuda.so.1": {"cannot be loaded from TFC_LIBCUDA", "/nowhere/libcuda.so.1"},
		"libm.so.6":             {"libm.so.6 has no function cuInit", "not the library of an NVIDIA driver"},
	} {
		t.Setenv("TFC_LIBCUDA", path)
		err := Available()
		if err == nil {
			t.Fatalf("%s is a driver", path)
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in: %v", part, err)
			}
		}
		if _, err := Open(0); err == nil {
			t.Errorf("%s can be opened", path)
		}
	}
	t.Setenv("TFC_LIBCUDA", "/nowhere/libcuda.so.1")
	if d, err := Find(nil); err == nil {
		t.Errorf("found %v without a driver", d)
	}
}

func TestNoDriverInstalled(t *testing.T) {
	if _, err := openLibrary("libcuda.so.1"); err == nil {
		t.Skip("there is a driver")
	}
	t.Setenv("TFC_LIBCUDA", "")
	err := Available()
	for _, part := range []string{"no NVIDIA driver", "libcuda.so.1", "CUDA 12.0 or later", "TFC_LIBCUDA"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
}

func TestFindBLAS(t *testing.T) {
	for _, name := range []string{"libcublasLt.so.12", "libcublasLt.so.13"} {
		if _, err := openLibrary(name); err == nil {
			t.Skip("cuBLASLt is where the loader looks")
		}
	}
	home := t.TempDir()
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "PATH"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", home)
	toolkit, venv, pyenv := filepath.Join(home, "toolkit"), filepath.Join(home, "venv"), filepath.Join(home, "pyenv")
	packages := filepath.Join(venv, "lib/python3.12/site-packages/nvidia/cublas/lib")
	version := filepath.Join(pyenv, "versions/3.13/lib/python3.13/site-packages/nvidia/cu13/lib")
	user := filepath.Join(home, ".local/lib/python3.11/site-packages/nvidia/cublas/lib")
	for _, dir := range []string{filepath.Join(toolkit, "lib64"), packages, version, user, filepath.Join(venv, "bin"), filepath.Join(pyenv, "shims")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, python := range []string{filepath.Join(venv, "bin/python3"), filepath.Join(pyenv, "shims/python3")} {
		if err := os.WriteFile(python, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ours := func() []string {
		return slices.DeleteFunc(blasFolders(), func(f string) bool { return !strings.HasPrefix(f, home) })
	}
	if got := ours(); !slices.Equal(got, []string{user}) {
		t.Errorf("by HOME: %v", got)
	}
	t.Setenv("CUDA_HOME", toolkit)
	t.Setenv("PATH", filepath.Join(venv, "bin")+string(filepath.ListSeparator)+filepath.Join(pyenv, "shims"))
	if got, want := ours(), []string{filepath.Join(toolkit, "lib64"), packages, version, user}; !slices.Equal(got, want) {
		t.Errorf("folders %v, want %v", got, want)
	}
	_, err := findBLAS("", 13000)
	for _, part := range []string{"libcublasLt.so.13 or libcublasLt.so.12", packages, "`pip install nvidia-cublas`", "TFC_LIBCUBLASLT"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	// A file that is no library is named with what is wrong with it; a driver for CUDA 12 is not given cuBLASLt 13.
	if err := os.WriteFile(filepath.Join(packages, "libcublasLt.so.12"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = findBLAS("", 12040)
	for _, part := range []string{"missing: libcublasLt.so.12 was", "libcublasLt.so.12 is there, but", "`pip install nvidia-cublas-cu12`"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	if _, err := findBLAS("/nowhere/libcublasLt.so", 13000); err == nil || !strings.Contains(err.Error(), "TFC_LIBCUBLASLT") {
		t.Error(err)
	}
	if _, err := loadBLAS("libm.so.6", 13000); err == nil || !strings.Contains(err.Error(), "libm.so.6 has no function cublasLtCreate") {
		t.Error(err)
	}
}
