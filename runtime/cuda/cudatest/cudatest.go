// Package cudatest tests CUDA code without a GPU. It has
//
//   - a simulator (sim): headers by which g++ compiles kernels to shared libraries, in which each CUDA thread is a fiber;
//   - fakes of libcuda and libcublasLt (fake): device memory is host memory, streams and graphs run in the order that
//     they declare and no more, kernels run in the simulator, products are summed in double;
//   - what a test needs to build them, to make runtime/cuda load them, to watch their calls and to make them fail.
//
// A test starts with
//
//	fake := cudatest.New(t)
//	image := cudatest.Kernels(t, map[string][]byte{"norm.cu": …, "norm.cuh": …, "device.cuh": …})
//
// and gives image to Context.Load in place of a fatbin. Where there is no g++, the test is skipped.
//
// # What the simulator shows
//
// Kernels fail at accesses outside of an allocation (from the page after its end), outside of an array or of the dynamic
// shared memory, at misaligned accesses, at barriers and collectives that some threads do not reach, at full stacks, and
// at integer divisions by zero. The error at the next synchronisation is the one that the device gives; Faults, and
// stderr, name kernel, block, thread, and mostly the source line.
//
// Memory that nothing has written holds NaNs: device memory when it is allocated, shared memory at the start of a block,
// and the target of an asynchronous copy until it is waited for. Threads run one after another up to the next barrier,
// in blocks of an odd number from the last to the first: a read that misses its barrier sees NaNs in one of the two. Work
// on a stream runs when something waits for it, so work that misses its event reads what is not there yet.
//
// # What it does not show
//
// Races whose outcome is the same in both orders; the sums of tensor cores, which are float sums from the lowest k
// here; the precision of the device's fast functions, which are the C library's here; time: products take what the test sets
// (Fake.Set), other work a microsecond.
package cudatest

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed sim/*.h fake/*.h fake/*.cpp
var sources embed.FS

// Libraries are the fakes, compiled.
type Libraries struct {
	CUDA   string // path of libcuda.so.1
	BLASLt string // path of libcublasLt.so.13
}

// Setenv makes runtime/cuda load the fakes, for the rest of the test. Products are not timed, unless the test sets TFC_TUNE
// to nothing, and then TFC_CACHE to a folder of its own.
func (l Libraries) Setenv(t testing.TB) {
	for _, e := range l.Environ() {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
}

// Environ returns what Setenv sets, as NAME=value, for processes that a test starts.
func (l Libraries) Environ() []string {
	return []string{"TFC_LIBCUDA=" + l.CUDA, "TFC_LIBCUBLASLT=" + l.BLASLt, "TFC_TUNE=off"}
}

// Build compiles the fakes, if that has not been done. It skips the test where there is no g++.
func Build(t testing.TB) Libraries {
	t.Helper()
	c := findCompiler(t)
	l, err := built(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// compiler is g++, and what all that it compiles has in common.
type compiler struct {
	path    string
	version string   // what it says of itself
	flags   []string // of the CPU
	err     error    // why there is none
}

var theCompiler = sync.OnceValue(func() compiler {
	if runtime.GOOS != "linux" {
		return compiler{err: fmt.Errorf("the simulator of CUDA runs on Linux, this is %s", runtime.GOOS)}
	}
	name := "g++"
	path, err := exec.LookPath(name)
	if err != nil {
		return compiler{err: errors.New("there is no g++, which compiles the simulator of CUDA: apt-get install g++")}
	}
	version, err := exec.Command(path, "--version").Output()
	if err != nil {
		return compiler{err: fmt.Errorf("%s --version: %w", path, err)}
	}
	c := compiler{path: path, version: string(version)}
	if runtime.GOARCH == "amd64" && hasV3() {
		c.flags = []string{"-march=x86-64-v3"}
	}
	return c
})

func findCompiler(t testing.TB) compiler {
	t.Helper()
	c := theCompiler()
	if c.err != nil {
		t.Skip(c.err)
	}
	return c
}

// hasV3 tells whether the CPU has AVX2, FMA and what else x86-64-v3 means.
func hasV3() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(info)) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			has := strings.Fields(flags)
			for _, f := range []string{"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"} {
				if !slices.Contains(has, f) {
					return false
				}
			}
			return true
		}
	}
	return false
}

// standard are flags of everything: the language, and that memory may be read as another type than it was written.
var standard = []string{"-std=c++20", "-fPIC", "-pthread", "-DTFC_SIM", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wno-unknown-pragmas"}

var (
	fakes   Libraries
	fakesMu sync.Mutex
)

// built compiles the fakes once.
func built(c compiler) (Libraries, error) {
	fakesMu.Lock()
	defer fakesMu.Unlock()
	if fakes.CUDA != "" {
		return fakes, nil
	}
	flags := slices.Concat(standard, c.flags, []string{"-O3", "-DTFC_FAKE", "-I", "sim"})
	key := c.key(flags)
	names, err := fs.Glob(sources, "*/*")
	if err != nil {
		return Libraries{}, err
	}
	for _, name := range names {
		text, err := sources.ReadFile(name)
		if err != nil {
			return Libraries{}, err
		}
		addFile(key, name, text)
	}
	folder, err := cached("fake", key, func(dir string) error {
		for _, name := range names {
			text, err := sources.ReadFile(name)
			if err != nil {
				return err
			}
			if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), text); err != nil {
				return err
			}
		}
		return compileFakes(c, dir, flags, names)
	})
	if err != nil {
		return Libraries{}, err
	}
	fakes = Libraries{CUDA: filepath.Join(folder, "libcuda.so.1"), BLASLt: filepath.Join(folder, "libcublasLt.so.13")}
	return fakes, nil
}

// blasFiles are the sources of the fake cuBLASLt; all others are libcuda's.
var blasFiles = []string{"fake/blaslt.cpp", "fake/product.cpp"}

// compileFakes compiles the sources that are in dir.
func compileFakes(c compiler, dir string, flags, names []string) error {
	var work []func() error
	var driver, blas []string
	for _, name := range names {
		if path.Ext(name) != ".cpp" {
			continue
		}
		object := name + ".o"
		if slices.Contains(blasFiles, name) {
			blas = append(blas, object)
		} else {
			driver = append(driver, object)
		}
		work = append(work, func() error { return c.run(dir, slices.Concat(flags, []string{"-c", name, "-o", object})) })
	}
	if err := parallel(work); err != nil {
		return err
	}
	link := func(name string, objects []string, more ...string) error {
		return c.run(dir, slices.Concat([]string{"-shared", "-pthread", "-Wl,--no-undefined", "-Wl,-soname," + name, "-o", name}, objects, more))
	}
	if err := link("libcuda.so.1", driver, "-ldl"); err != nil {
		return err
	}
	return link("libcublasLt.so.13", blas, "-L.", "-l:libcuda.so.1", "-Wl,-rpath,$ORIGIN")
}

// run calls g++ in a folder. The error has what it printed.
func (c compiler) run(dir string, args []string) error {
	cmd := exec.Command(c.path, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", c.path, strings.Join(args, " "), err, out)
	}
	return nil
}

// key starts the hash of something compiled.
func (c compiler) key(flags []string) hash.Hash {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", c.path, c.version, flags)
	return h
}

func addFile(h hash.Hash, name string, text []byte) {
	fmt.Fprintf(h, "%q %d\n%s", name, len(text), text)
}

// unusedAfter is how long something compiled stays when no test asks for it.
const unusedAfter = 7 * 24 * time.Hour

// cached returns the folder of the libraries that make puts into its argument, and calls it only where the folder is not
// there. Other files are not kept. Processes may do so at once: each makes its own, and one of them stays.
func cached(kind string, key hash.Hash, make func(dir string) error) (string, error) {
	root, err := cacheFolder()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, kind+"-"+hex.EncodeToString(key.Sum(nil))[:32])
	if _, err := os.Stat(folder); err == nil {
		now := time.Now()
		_ = os.Chtimes(folder, now, now) // only says that it is in use
		return folder, nil
	}
	removeUnused(root)
	dir, err := os.MkdirTemp(root, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := make(dir); err != nil {
		return "", err
	}
	if err := removeOthers(dir); err != nil {
		return "", err
	}
	if err := os.Rename(dir, folder); err != nil {
		if _, statErr := os.Stat(folder); statErr != nil {
			return "", err
		}
	}
	return folder, nil
}

// cacheFolder is the user's, or where that cannot be written to one of the system's temporary ones.
var cacheFolder = sync.OnceValues(func() (string, error) {
	if base, err := os.UserCacheDir(); err == nil {
		dir := filepath.Join(base, "tfc", "cudatest")
		if err := os.MkdirAll(dir, 0o755); err == nil {
			return dir, nil
		}
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tfc-cudatest-%d", os.Getuid()))
	return dir, os.MkdirAll(dir, 0o700)
})

// removeOthers removes what a folder has beside libraries.
func removeOthers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.Contains(e.Name(), ".so") {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeUnused(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > unusedAfter {
			_ = os.RemoveAll(filepath.Join(root, e.Name())) // another process may be doing the same
		}
	}
}

func writeFile(name string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

// parallel does all work, as much at once as there are CPUs.
func parallel(work []func() error) error {
	errs := make([]error, len(work))
	var wg sync.WaitGroup
	free := make(chan struct{}, runtime.NumCPU())
	for i, f := range work {
		wg.Add(1)
		free <- struct{}{}
		go func() {
			defer wg.Done()
			errs[i] = f()
			<-free
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}
