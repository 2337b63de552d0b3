package cuda

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// blasLibrary is cuBLASLt. The functions are named as in cublasLt.h, less cublasLt.
type blasLibrary struct {
	library *library
	version int // 10000*major + 100*minor + patch

	create, destroy, getVersion, getStatusName, getStatusString cfunc
	matmulDescCreate, matmulDescDestroy, matmulDescSetAttribute cfunc
	matrixLayoutCreate, matrixLayoutDestroy                     cfunc
	preferenceCreate, preferenceDestroy, preferenceSetAttribute cfunc
	algoGetHeuristic, algoCheck, matmul                         cfunc
}

func (l *blasLibrary) functions() []symbol {
	return []symbol{
		{to: &l.create, names: []string{"cublasLtCreate"}},
		{to: &l.destroy, names: []string{"cublasLtDestroy"}},
		{to: &l.getVersion, names: []string{"cublasLtGetVersion"}},
		{to: &l.getStatusName, names: []string{"cublasLtGetStatusName"}},
		{to: &l.getStatusString, names: []string{"cublasLtGetStatusString"}},
		{to: &l.matmulDescCreate, names: []string{"cublasLtMatmulDescCreate"}},
		{to: &l.matmulDescDestroy, names: []string{"cublasLtMatmulDescDestroy"}},
		{to: &l.matmulDescSetAttribute, names: []string{"cublasLtMatmulDescSetAttribute"}},
		{to: &l.matrixLayoutCreate, names: []string{"cublasLtMatrixLayoutCreate"}},
		{to: &l.matrixLayoutDestroy, names: []string{"cublasLtMatrixLayoutDestroy"}},
		{to: &l.preferenceCreate, names: []string{"cublasLtMatmulPreferenceCreate"}},
		{to: &l.preferenceDestroy, names: []string{"cublasLtMatmulPreferenceDestroy"}},
		{to: &l.preferenceSetAttribute, names: []string{"cublasLtMatmulPreferenceSetAttribute"}},
		{to: &l.algoGetHeuristic, names: []string{"cublasLtMatmulAlgoGetHeuristic"}},
		{to: &l.algoCheck, names: []string{"cublasLtMatmulAlgoCheck"}},
		{to: &l.matmul, names: []string{"cublasLtMatmul"}},
	}
}

// loadedBLAS is the cuBLASLt of the process, once it could be loaded.
var loadedBLAS struct {
	sync.Mutex
	path    string
	library *blasLibrary
}

// openBLAS returns cuBLASLt for a driver. A failure is not remembered.
func openBLAS(driverVersion int) (*blasLibrary, error) {
	path := os.Getenv("TFC_LIBCUBLASLT")
	loadedBLAS.Lock()
	defer loadedBLAS.Unlock()
	if loadedBLAS.library != nil && loadedBLAS.path == path {
		return loadedBLAS.library, nil
	}
	l, err := loadBLAS(path, driverVersion)
	if err != nil {
		return nil, err
	}
	loadedBLAS.path, loadedBLAS.library = path, l
	return l, nil
}

func loadBLAS(path string, driverVersion int) (*blasLibrary, error) {
	opened, err := findBLAS(path, driverVersion)
	if err != nil {
		return nil, err
	}
	l := &blasLibrary{library: opened}
	if err := opened.resolve(l.functions()); err != nil {
		return nil, fmt.Errorf("%w: it is not cuBLASLt of CUDA 12 or later", err)
	}
	l.version = int(l.getVersion.call())
	return l, nil
}

// findBLAS opens the library at path, or where path is empty the newest that suits the driver: cuBLASLt 13 needs a driver
// for CUDA 13, 12 runs with both.
func findBLAS(path string, driverVersion int) (*library, error) {
	if path != "" {
		l, err := openLibrary(path)
		if err != nil {
			return nil, fmt.Errorf("cuBLASLt cannot be loaded from TFC_LIBCUBLASLT: %w", err)
		}
		return l, nil
	}
	names := []string{"libcublasLt.so.13", "libcublasLt.so.12"}
	if driverVersion < 13000 {
		names = names[1:]
	}
	folders := blasFolders()
	broken := ""
	for _, name := range names {
		if l, err := openLibrary(name); err == nil {
			return l, nil
		}
		for _, folder := range folders {
			file := filepath.Join(folder, name)
			if _, err := os.Stat(file); err != nil {
				continue
			}
			l, err := openLibrary(file)
			if err == nil {
				return l, nil
			}
			broken = fmt.Sprintf(" (%s is there, but: %s)", file, err)
		}
	}
	where := "no folder of a CUDA toolkit or of Python packages was found"
	if len(folders) > 0 {
		where = strings.Join(folders, ", ")
	}
	return nil, fmt.Errorf("cuBLASLt is missing: %s was looked for where the loader looks, and in: %s%s; install the CUDA toolkit "+
		"or `pip install %s`, or name the file in TFC_LIBCUBLASLT", strings.Join(names, " or "), where, broken, pipPackage(driverVersion))
}

func pipPackage(driverVersion int) string {
	if driverVersion < 13000 {
		return "nvidia-cublas-cu12"
	}
	return "nvidia-cublas"
}

// blasFolders lists the folders that there are of those where CUDA's libraries get installed: toolkits, then the packages
// of every Python that the user's settings and PATH lead to.
func blasFolders() []string {
	var folders []string
	add := func(pattern ...string) {
		found, _ := filepath.Glob(filepath.Join(pattern...)) // a bad pattern finds nothing
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.IsDir() && !slices.Contains(folders, f) {
				folders = append(folders, f)
			}
		}
	}
	target := map[string]string{"amd64": "x86_64-linux", "arm64": "sbsa-linux"}[runtime.GOARCH]
	for _, root := range []string{os.Getenv("CUDA_HOME"), os.Getenv("CUDA_PATH"), "/usr/local/cuda"} {
		if root != "" {
			add(root, "lib64")
			add(root, "lib")
			add(root, "targets", target, "lib")
		}
	}
	if conda := os.Getenv("CONDA_PREFIX"); conda != "" {
		add(conda, "lib")
	}
	for _, prefix := range pythonPrefixes() {
		for _, packages := range []string{"lib/python3*/site-packages", "lib64/python3*/site-packages",
			"lib/python3*/dist-packages", "local/lib/python3*/dist-packages", "lib/python3/dist-packages"} {
			add(prefix, packages, "nvidia", "*", "lib")
		}
	}
	return folders
}

// pythonPrefixes lists folders that Pythons are installed below.
func pythonPrefixes() []string {
	var prefixes []string
	add := func(prefix string) {
		if prefix != "" && !slices.Contains(prefixes, prefix) {
			prefixes = append(prefixes, prefix)
		}
	}
	add(os.Getenv("VIRTUAL_ENV"))
	add(os.Getenv("CONDA_PREFIX"))
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		python := filepath.Join(dir, "python3")
		if _, err := os.Stat(python); err != nil || dir == "" {
			continue
		}
		if filepath.Base(dir) == "shims" { // pyenv: scripts, in place of the Pythons themselves
			versions, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "versions", "*"))
			for _, v := range versions {
				add(v)
			}
			continue
		}
		add(filepath.Dir(filepath.Clean(dir)))
		if real, err := filepath.EvalSymlinks(python); err == nil {
			add(filepath.Dir(filepath.Dir(real)))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		add(filepath.Join(home, ".local"))
	}
	return prefixes
}

// Status codes of cuBLASLt that are treated apart from others (cublasStatus_t).
const (
	statusNotInitialized = 1
	statusNotSupported   = 15
)

func (l *blasLibrary) check(f *cfunc, status int32) error {
	if status == 0 {
		return nil
	}
	text := func(f *cfunc) string {
		address := f.call(uintptr(status))
		return cString(*(**byte)(unsafe.Pointer(&address)))
	}
	return &Error{Call: f.name, Code: int(status), Name: text(&l.getStatusName), Text: text(&l.getStatusString), cublas: true}
}

// isStatus reports whether err is a call of cuBLASLt that returned status.
func isStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.cublas && e.Code == status
}

// versionText returns the version as its makers write it: 13.1.0.
func (l *blasLibrary) versionText() string {
	return fmt.Sprintf("%d.%d.%d", l.version/10000, l.version/100%100, l.version%100)
}
