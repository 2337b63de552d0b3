//go:build unix

package nvcc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
)

// job has two sources that share one file and have one each of their own.
func job() Job {
	return Job{
		Sources: map[string]string{
			"a.cu": "#include \"shared.cuh\"\n#include \"sub/a.cuh\"\n#include <math.h>\n" + kernel("a"),
			"b.cu": "#include \"shared.cuh\"\n  #  include \"b.cuh\"\n" + kernel("b"),
		},
		Includes: map[string]string{
			"shared.cuh": "#include \"device.cuh\"\n", "device.cuh": "#pragma once\n#ifdef TFC_SIM\n#include \"sim.h\"\n#endif\n",
			"sub/a.cuh": "#include \"deep.cuh\"\n#include \"device.cuh\"\n", "sub/deep.cuh": "// deep\n", "b.cuh": "// b\n", "other.cuh": "// nobody's\n",
		},
		Archs: []string{"sm_90a", "sm_80"},
	}
}

func TestCompile(t *testing.T) {
	f := newFake(t)
	j := job()
	j.Defines = []string{"LIMIT=3"}
	var steps []string
	j.Progress = func(done, total int) { steps = append(steps, fmt.Sprint(done, "/", total)) }
	r := f.compile(t, j)

	usage := map[string]Usage{}
	for _, arch := range j.Archs {
		usage[arch] = Usage{Registers: 32, Shared: 512, Barriers: 1}
	}
	if diff := cmp.Diff([]Kernel{{"a", "a.cu", usage}, {"b", "b.cu", usage}}, r.Kernels); diff != "" {
		t.Errorf("kernels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1/4", "2/4", "3/4", "4/4"}, steps); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	version, modules, err := kernelfile.Unpack(r.Fatbin)
	if err != nil {
		t.Fatal(err)
	}
	want := []kernelfile.Module{
		{File: "a.cu", Entries: []string{"a"}, Fatbin: []byte("code of a.cu for sm_80\ncode of a.cu for sm_90a\n")},
		{File: "b.cu", Entries: []string{"b"}, Fatbin: []byte("code of b.cu for sm_80\ncode of b.cu for sm_90a\n")},
	}
	if diff := cmp.Diff(want, modules); diff != "" || version != "12.4.131" {
		t.Errorf("version %s, modules (-want +got):\n%s", version, diff)
	}
	calls := f.called(t)
	slices.Sort(calls)
	if diff := cmp.Diff([]string{
		"fatbinary --create=out.fatbin -64 -compress-all -ident=a.cu --image3=kind=elf,sm=80,file=sm_80.cubin --image3=kind=elf,sm=90a,file=sm_90a.cubin",
		"fatbinary --create=out.fatbin -64 -compress-all -ident=b.cu --image3=kind=elf,sm=80,file=sm_80.cubin --image3=kind=elf,sm=90a,file=sm_90a.cubin",
		"nvcc -cubin -gencode arch=compute_80,code=sm_80 -std=c++20 -O3 -Xptxas -v -DLIMIT=3 -I. -o out.cubin a.cu",
		"nvcc -cubin -gencode arch=compute_80,code=sm_80 -std=c++20 -O3 -Xptxas -v -DLIMIT=3 -I. -o out.cubin b.cu",
		"nvcc -cubin -gencode arch=compute_90a,code=sm_90a -std=c++20 -O3 -Xptxas -v -DLIMIT=3 -I. -o out.cubin a.cu",
		"nvcc -cubin -gencode arch=compute_90a,code=sm_90a -std=c++20 -O3 -Xptxas -v -DLIMIT=3 -I. -o out.cubin b.cu",
	}, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// Compilers see the files that a source includes and no others, and leave nothing behind.
func TestFilesSeen(t *testing.T) {
	f := newFake(t)
	j := job()
	j.Archs = []string{"sm_80"}
	seen := filepath.Join(f.dir, "seen")
	j.Sources = map[string]string{"a.cu": j.Sources["a.cu"] + "//sh (find . -type f; echo $TMPDIR | sed 's,.*/,,') | sort > " + seen + "\n//sh : > $TMPDIR/left\n"}
	f.compile(t, j)
	text, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	want := "./a.cu\n./device.cuh\n./out.cubin\n./script\n./shared.cuh\n./sub/a.cuh\n./sub/deep.cuh\ntemp\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestOnly(t *testing.T) {
	f := newFake(t)
	j := job()
	j.Only = map[string][]string{"b.cu": {"sm_90a"}}
	r := f.compile(t, j)
	if r.Compiled != 3 || len(r.Kernels[0].Usage) != 2 || len(r.Kernels[1].Usage) != 1 {
		t.Errorf("%d compilations, %v", r.Compiled, r.Kernels)
	}
}

func TestCache(t *testing.T) {
	f := newFake(t)
	first := f.compile(t, job())
	if first.Compiled != 4 || first.Cached != 0 {
		t.Errorf("at first: %d compiled, %d cached", first.Compiled, first.Cached)
	}
	f.called(t)
	again := f.compile(t, job())
	if calls := f.called(t); calls != nil || again.Compiled != 0 || again.Cached != 4 {
		t.Errorf("the same: %d compiled, %d cached, calls %v", again.Compiled, again.Cached, calls)
	}
	first.Compiled, first.Cached = again.Compiled, again.Cached
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the result from the cache (-first +again):\n%s", diff)
	}

	for _, test := range []struct {
		name     string
		change   func(*Job)
		compiled int
	}{
		{"a file nobody includes", func(j *Job) { j.Includes["other.cuh"] += "//" }, 0},
		{"spills are allowed", func(j *Job) { j.AllowSpills = true }, 0},
		{"the order of architectures", func(j *Job) { slices.Reverse(j.Archs) }, 0},
		{"a source", func(j *Job) { j.Sources["a.cu"] += "//" }, 2},
		{"a file that one includes", func(j *Job) { j.Includes["b.cuh"] += "//" }, 2},
		{"a file included below another, by its folder", func(j *Job) { j.Includes["sub/deep.cuh"] += "//" }, 2},
		{"a file that both include", func(j *Job) { j.Includes["device.cuh"] += "//" }, 4},
		{"a file that was not there", func(j *Job) { j.Includes["sim.h"] = "" }, 4},
		{"another architecture", func(j *Job) { j.Archs = append(j.Archs, "sm_89") }, 2},
		{"a macro", func(j *Job) { j.Defines = []string{"X"} }, 4},
		{"line tables", func(j *Job) { j.LineInfo = true }, 4},
		{"flags in the environment", func(*Job) { t.Setenv("NVCC_APPEND_FLAGS", "--use_fast_math") }, 4},
		{"the host compiler", func(*Job) {
			program(t, filepath.Join(f.dir, "bin", "gcc"), strings.Replace(fakeGCC, "12.2.0", "13.1.0", 1))
		}, 4},
		{"nvcc", func(*Job) { f.build += "Build 2" }, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := job()
			test.change(&j)
			if r := f.compile(t, j); r.Compiled != test.compiled {
				t.Errorf("%d compiled, want %d", r.Compiled, test.compiled)
			}
			if r := f.compile(t, j); r.Compiled != 0 {
				t.Errorf("%d compiled again", r.Compiled)
			}
		})
	}
}

func TestCacheDamaged(t *testing.T) {
	f := newFake(t)
	want := f.compile(t, job())
	for name, damage := range map[string]func(text []byte) []byte{
		"a bit":      func(text []byte) []byte { text[len(text)-3] ^= 4; return text },
		"in the sum": func(text []byte) []byte { text[20] ^= 1; return text },
		"cut":        func(text []byte) []byte { return text[:len(text)/2] },
		"empty":      func([]byte) []byte { return nil },
		"no JSON":    func(text []byte) []byte { return []byte(strings.Replace(string(text), "{", "[", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			files := f.entries(t)
			if len(files) != 6 {
				t.Fatalf("%d entries, want 4 cubins and 2 fatbins", len(files))
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, damage(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got := f.compile(t, job())
			if got.Compiled != 4 || string(got.Fatbin) != string(want.Fatbin) {
				t.Errorf("%d compiled; the same fatbin: %v", got.Compiled, string(got.Fatbin) == string(want.Fatbin))
			}
			if r := f.compile(t, job()); r.Compiled != 0 {
				t.Errorf("%d compiled again", r.Compiled)
			}
		})
	}
}

func TestCacheFolder(t *testing.T) {
	f := newFake(t)
	t.Setenv("TFC_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", filepath.Join(f.dir, "user"))
	f.compile(t, job())
	if files, _ := filepath.Glob(filepath.Join(f.dir, "user/tfc/nvcc/??/*")); len(files) != 6 {
		t.Errorf("in the user's folder: %v", files)
	}
	for name, env := range map[string][2]string{
		"a file":    {"TFC_CACHE", filepath.Join(f.dir, "calls")},
		"no folder": {"HOME", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CACHE_HOME", "")
			t.Setenv(env[0], env[1])
			if _, err := f.Compile(context.Background(), job()); err == nil || !strings.Contains(err.Error(), "set TFC_CACHE to ") {
				t.Error(err)
			}
		})
	}
}

// Jobs at the same time share a cache.
func TestCacheShared(t *testing.T) {
	f := newFake(t)
	results := make([]*Result, 4)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			var err error
			if results[i], err = f.Compile(context.Background(), job()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, r := range results[1:] {
		if r != nil && string(r.Fatbin) != string(results[0].Fatbin) {
			t.Error("jobs at the same time differ")
		}
	}
	f.clean(t)
}

func TestTrim(t *testing.T) {
	f := newFake(t)
	f.compile(t, job())
	files := f.entries(t)
	age := func(file string, by time.Duration) {
		t.Helper()
		at := time.Now().Add(-by)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range files {
		age(file, keep-time.Hour)
	}
	used := job()
	used.Archs = []string{"sm_80"}
	f.compile(t, used) // makes other fatbins, and renews what it uses of the old
	stale := filepath.Join(f.cache, scratch+"dead")
	other := filepath.Join(f.cache, "readme")
	program(t, filepath.Join(stale, "x"), "")
	program(t, other, "")
	age(stale, 2*keep)
	age(other, 2*keep)

	c := cache{f.cache}
	c.trim(time.Now().Add(2 * time.Hour)) // too soon after the first
	if n := len(f.entries(t)); n != len(files)+2 {
		t.Errorf("%d entries after a look that is too soon", n)
	}
	c.trim(time.Now().Add(25 * time.Hour))
	if n := len(f.entries(t)); n != 4 {
		t.Errorf("%d entries are left, want the 2 cubins in use and the 2 new fatbins", n)
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("a dead build's folder is still there: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}

// Sources are compiled as many at a time as GOMAXPROCS says: each waits until that many run.
func TestParallel(t *testing.T) {
	const width = 3
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(width))
	f := newFake(t)
	running := filepath.Join(f.dir, "running")
	most := filepath.Join(f.dir, "most")
	program(t, filepath.Join(running, "x"), "")
	j := Job{Sources: map[string]string{}, Archs: []string{"sm_80"}}
	for i := range 2 * width {
		name := fmt.Sprintf("k%d", i)
		j.Sources[name+".cu"] = kernel(name,
			"//sh touch "+running+"/$src; ls "+running+" | wc -l >> "+most,
			"//sh n=0; while [ $(wc -l < "+most+") -lt 3 ] && [ $n -lt 500 ]; do sleep 0.01; n=$((n+1)); done",
			"//sh sleep 0.05; rm "+running+"/$src")
	}
	f.compile(t, j)
	text, err := os.ReadFile(most)
	if err != nil {
		t.Fatal(err)
	}
	top := 0
	for _, field := range strings.Fields(string(text)) {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		top = max(top, n-1) // beside x
	}
	if top != width {
		t.Errorf("%d ran at a time, want %d", top, width)
	}
}

func TestCancel(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	f := newFake(t)
	pid := filepath.Join(f.dir, "pid")
	j := Job{
		Sources: map[string]string{"a.cu": kernel("a"), "b.cu": kernel("b", "//sh sleep 60 & echo $! > "+pid+".new; mv "+pid+".new "+pid+"; wait"), "c.cu": kernel("c")},
		Archs:   []string{"sm_80"},
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(pid); err == nil && len(f.entries(t)) == 2 {
				return
			}
		}
	}()
	start := time.Now()
	_, err := f.Compile(ctx, j)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	f.clean(t)
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for range 200 { // a dead child may wait for its parent
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if syscall.Kill(child, 0) != nil || err == nil && strings.Contains(string(stat), ") Z ") {
			child = 0
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if child != 0 {
		t.Errorf("process %d, which nvcc started, still runs", child)
	}

	j.Sources["b.cu"] = kernel("b")
	if r := f.compile(t, j); r.Cached != 2 {
		t.Errorf("%d of the 2 that were done before are in the cache", r.Cached)
	}
}

func TestFailures(t *testing.T) {
	for _, test := range []struct {
		name string
		sh   string // of a.cu
		want string
	}{
		{"diagnostics", `printf '%s\n' 'a.cu(3): error: no' '  extern "C" __attribute__((global)) void a(float *y) {}' '                                           ^' >&2; exit 1`,
			"a.cu:3:29: no\n    3 | extern \"C\" __global__ void a(float *y) {}\n      |                             ^\nstories.yaml:3: note: this line became a.cu for sm_80"},
		{"silence", `: > out.cubin; exit 9`, "a.cu: nvcc failed (exit status 9):\nptxas info    : Compiling entry function 'a' for 'sm_80'\n"},
		{"a wrong flag", `echo 'nvcc fatal   : Unsupported gpu architecture '"'compute_80'" >&2; exit 1`,
			"nvcc: Unsupported gpu architecture 'compute_80'\nstories.yaml:3: note: this line became a.cu for sm_80"},
		{"a spill", `echo '    40 bytes stack frame, 30 bytes spill stores, 20 bytes spill loads' >&2`,
			"a.cu:3: kernel a needs more registers than the 32 that sm_80 gives it: a thread stores 30 bytes in memory and loads 20; " +
				"let it hold less at a time, or give it fewer threads a block\n    3 | extern \"C\" __global__ void a(float *y) {}\nstories.yaml:3: note: this line became a.cu for sm_80"},
		{"a host compiler that is too new", `echo '/cuda/host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not supported! The nvcc flag' >&2; exit 1`,
			"compile the kernels: nvcc has no host compiler that it supports: $DIR/bin/gcc: unsupported GNU version! gcc versions later than 12 are not supported!; set NVCC_CCBIN to another"},
		{"no result", `rm out.cubin`, "compile the kernels: $DIR/bin/nvcc compiled a.cu and wrote no result: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFake(t)
			j := Job{Sources: map[string]string{"a.cu": kernel("a", "//sh "+test.sh)}, Archs: []string{"sm_80", "sm_89", "sm_90a"}}
			_, err := f.Compile(context.Background(), j)
			if want := strings.ReplaceAll(test.want, "$DIR", f.dir); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			f.clean(t)
			spill := test.name == "a spill"
			if n := len(f.entries(t)); n > 0 && !spill {
				t.Errorf("%d entries in the cache", n)
			}
			if spill {
				j.AllowSpills = true
				if u := f.compile(t, j).Kernels[0].Usage["sm_80"]; u.SpillStores != 30 || u.SpillLoads != 20 || u.Stack != 40 {
					t.Errorf("usage %+v", u)
				}
			}
		})
	}
}

// All sources are tried, and what many say about a shared file is said once.
func TestManyFailures(t *testing.T) {
	f := newFake(t)
	j := Job{Sources: map[string]string{}, Includes: map[string]string{"s.cuh": "one\ntwo\n"}, Archs: []string{"sm_80", "sm_90a"}}
	for i := range 30 {
		name := fmt.Sprintf("k%02d", i)
		j.Sources[name+".cu"] = "#include \"s.cuh\"\n" + kernel(name, "//sh echo 's.cuh(2): error: shared' >&2; echo \"$src(1): error: own\" >&2; exit 1")
	}
	_, err := f.Compile(context.Background(), j)
	var list Errors
	if !errors.As(err, &list) {
		t.Fatal(err)
	}
	if n := len(list); n < maxErrors+1 || n > maxErrors+1+runtime.GOMAXPROCS(0) {
		t.Errorf("%d errors", n)
	}
	text := err.Error()
	if !strings.HasPrefix(text, "k00.cu:1: own\n    1 | #include \"s.cuh\"\n") || !strings.Contains(text, "k09.cu:1: own\n") || strings.Contains(text, "k10.cu:") {
		t.Error(text)
	}
	if !strings.HasSuffix(text, fmt.Sprintf("\nand %d more errors", len(list)-maxErrors)) {
		t.Error(text)
	}
}

func TestNoKernel(t *testing.T) {
	f := newFake(t)
	_, err := f.Compile(context.Background(), Job{Sources: map[string]string{"a.cu": "int x;\n"}, Archs: []string{"sm_80"}})
	if err == nil || err.Error() != "a.cu: there is no kernel in it" {
		t.Error(err)
	}
	_, err = f.Compile(context.Background(), Job{Sources: map[string]string{"a.cu": kernel("same"), "b.cu": kernel("same")}, Archs: []string{"sm_80"}})
	if err == nil || err.Error() != "kernel same is in both a.cu and b.cu; a kernel's name must be its own" {
		t.Error(err)
	}
	if r := f.compile(t, Job{Archs: []string{"sm_80"}}); len(r.Kernels) != 0 {
		t.Error(r.Kernels)
	}
}

func TestWarnings(t *testing.T) {
	f := newFake(t)
	j := job()
	j.Sources["a.cu"] += "//sh echo 'b.cuh(1): warning #177-D: unused' >&2; echo 'ptxas info    : (C7510) Potential Performance Loss: wgmma' >&2\n"
	for range 2 { // made, and from the cache
		var got []string
		for _, w := range f.compile(t, j).Warnings {
			got = append(got, w.Error())
		}
		if diff := cmp.Diff([]string{"ptxas: Potential Performance Loss: wgmma", "b.cuh:1: unused"}, got); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
	}
}

func TestToolsElsewhere(t *testing.T) {
	f := newFake(t)
	real := filepath.Join(f.dir, "real")
	if err := os.Rename(filepath.Join(f.dir, "bin"), real); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(f.dir, "path")+":/usr/bin:/bin")
	program(t, filepath.Join(f.dir, "path", "gcc"), fakeGCC)
	link := filepath.Join(f.dir, "nvcc")
	if err := os.Symlink(filepath.Join(real, "nvcc"), link); err != nil {
		t.Fatal(err)
	}
	f.NVCC = link
	f.compile(t, job()) // fatbinary is beside the file that the link leads to
	j := job()
	j.Archs = j.Archs[:1]
	if err := os.Rename(filepath.Join(real, "fatbinary"), filepath.Join(f.dir, "fatbinary")); err != nil {
		t.Fatal(err)
	}
	f.NVCC = filepath.Join(real, "nvcc")
	if _, err := f.Compile(context.Background(), j); err == nil || !strings.Contains(err.Error(), "fatbinary comes with nvcc, but is neither beside it in ") {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(f.dir, "fatbinary"), filepath.Join(f.dir, "path", "fatbinary")); err != nil {
		t.Fatal(err)
	}
	f.compile(t, j)
	program(t, filepath.Join(f.dir, "path", "fatbinary"), "#!/bin/sh\necho fatbinary fatal : no >&2; exit 1\n")
	j.Archs = []string{"sm_86"}
	if _, err := f.Compile(context.Background(), j); err == nil || !strings.Contains(err.Error(), ".cu: exit status 1: fatbinary fatal : no") {
		t.Error(err)
	}
}

func TestJobs(t *testing.T) {
	for name, j := range map[string]Job{
		"source":       {Sources: map[string]string{"../a.cu": ""}, Archs: []string{"sm_80"}},
		"no .cu":       {Sources: map[string]string{"a": ""}, Archs: []string{"sm_80"}},
		"option":       {Sources: map[string]string{"-a.cu": ""}, Archs: []string{"sm_80"}},
		"include":      {Includes: map[string]string{"../a.cuh": ""}, Archs: []string{"sm_80"}},
		"include dot":  {Includes: map[string]string{"./a.cuh": ""}, Archs: []string{"sm_80"}},
		"no arch":      {},
		"arch":         {Archs: []string{"80"}},
		"define":       {Archs: []string{"sm_80"}, Defines: []string{"3=4"}},
		"only":         {Archs: []string{"sm_80"}, Only: map[string][]string{"a.cu": {"sm_80"}}},
		"only of none": {Archs: []string{"sm_80"}, Sources: map[string]string{"a.cu": ""}, Only: map[string][]string{"a.cu": {}}},
		"only another": {Archs: []string{"sm_80"}, Sources: map[string]string{"a.cu": ""}, Only: map[string][]string{"a.cu": {"sm_90a"}}},
	} {
		if _, err := (&Toolkit{}).Compile(context.Background(), j); err == nil || !strings.HasPrefix(err.Error(), "nvcc: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
