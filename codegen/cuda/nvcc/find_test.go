//go:build unix

package nvcc

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func versioned(version string) string {
	return fmt.Sprintf("#!/bin/sh\necho 'Cuda compilation tools, release %s, V%s.7'\n", version, version)
}

func TestFind(t *testing.T) {
	for _, test := range []struct {
		name string
		has  map[string]string // programs, below the root
		env  map[string]string // $ROOT is the root
		want string            // the path, below the root
		from string
		err  error
		says []string
	}{
		{name: "nothing", err: ErrNotFound, says: []string{
			"CUDA_HOME (not set), CUDA_PATH (not set), PATH (not set), ", "/usr/local/cuda, ", "/usr/local/cuda-*, ", "/opt/cuda; install the CUDA toolkit, 12.0 or newer"}},
		{name: "TFC_NVCC", has: map[string]string{"x/nvcc-12": versioned("12.4"), "home/bin/nvcc": versioned("13.0")},
			env: map[string]string{"TFC_NVCC": "$ROOT/x/nvcc-12", "CUDA_HOME": "$ROOT/home"}, want: "x/nvcc-12", from: "TFC_NVCC"},
		{name: "TFC_NVCC alone counts", has: map[string]string{"home/bin/nvcc": versioned("13.0")},
			env: map[string]string{"TFC_NVCC": "$ROOT/none", "CUDA_HOME": "$ROOT/home"}, err: ErrNotFound, says: []string{"TFC_NVCC is $ROOT/none, which is no program"}},
		{name: "CUDA_HOME", has: map[string]string{"home/bin/nvcc": versioned("12.0"), "path/bin/nvcc": versioned("13.0")},
			env: map[string]string{"CUDA_HOME": "$ROOT/home", "CUDA_PATH": "$ROOT/path"}, want: "home/bin/nvcc", from: "CUDA_HOME"},
		{name: "CUDA_PATH", has: map[string]string{"path/bin/nvcc": versioned("13.0"), "a/nvcc": versioned("13.0")},
			env: map[string]string{"CUDA_HOME": "$ROOT/home", "CUDA_PATH": "$ROOT/path", "PATH": "$ROOT/a"}, want: "path/bin/nvcc", from: "CUDA_PATH"},
		{name: "PATH", has: map[string]string{"b/nvcc": versioned("13.0"), "usr/local/cuda/bin/nvcc": versioned("13.0")},
			env: map[string]string{"PATH": "$ROOT/a:$ROOT/b"}, want: "b/nvcc", from: "PATH"},
		{name: "/usr/local/cuda", has: map[string]string{"usr/local/cuda/bin/nvcc": versioned("12.1"), "usr/local/cuda-13.0/bin/nvcc": versioned("13.0")},
			want: "usr/local/cuda/bin/nvcc", from: "$ROOT/usr/local/cuda"},
		{name: "the newest", has: map[string]string{"usr/local/cuda-12.9/bin/nvcc": versioned("12.9"), "usr/local/cuda-12.10/bin/nvcc": versioned("12.10"), "usr/local/cuda-12/bin/nvcc": versioned("12.9")},
			want: "usr/local/cuda-12.10/bin/nvcc", from: "$ROOT/usr/local/cuda-12.10"},
		{name: "/opt/cuda", has: map[string]string{"opt/cuda/bin/nvcc": versioned("12.1")}, want: "opt/cuda/bin/nvcc", from: "$ROOT/opt/cuda"},
		{name: "too old", has: map[string]string{"a/nvcc": versioned("11.8")}, env: map[string]string{"PATH": "$ROOT/a"}, err: ErrTooOld,
			says: []string{"$ROOT/a/nvcc, from PATH, is version 11.8.7; install the CUDA toolkit, 12.0 or newer"}},
		{name: "too old, and a newer one", has: map[string]string{"a/nvcc": versioned("11.8"), "opt/cuda/bin/nvcc": versioned("12.1")},
			env: map[string]string{"PATH": "$ROOT/a"}, want: "opt/cuda/bin/nvcc", from: "$ROOT/opt/cuda"},
		{name: "something else", has: map[string]string{"a/nvcc": "#!/bin/sh\necho hello\n"}, env: map[string]string{"PATH": "$ROOT/a"},
			says: []string{`does not say its version but "hello"`}},
		{name: "broken", has: map[string]string{"a/nvcc": "#!/bin/sh\necho no such library >&2; exit 3\n"}, env: map[string]string{"PATH": "$ROOT/a"},
			says: []string{"$ROOT/a/nvcc, from PATH, does not run: exit status 3: no such library"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			clearEnv(t)
			t.Setenv("PATH", "")
			for file, text := range test.has {
				program(t, filepath.Join(root, file), text)
			}
			for name, value := range test.env {
				t.Setenv(name, strings.ReplaceAll(value, "$ROOT", root))
			}
			got, err := find(context.Background(), root)
			if test.want == "" {
				if err == nil {
					t.Fatalf("found %s", got.NVCC)
				}
				if test.err != nil && !errors.Is(err, test.err) {
					t.Errorf("%v is not %v", err, test.err)
				}
				for _, text := range test.says {
					if text = strings.ReplaceAll(text, "$ROOT", root); !strings.Contains(err.Error(), text) {
						t.Errorf("%q does not say %q", err, text)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want, from := filepath.Join(root, test.want), strings.ReplaceAll(test.from, "$ROOT", root); got.NVCC != want || got.From != from {
				t.Errorf("found %s from %s, want %s from %s", got.NVCC, got.From, want, from)
			}
			if got.Version.Major < 12 || got.Version.Patch != 7 {
				t.Errorf("version %s", got.Version)
			}
		})
	}
}

func TestHost(t *testing.T) {
	compiler := func(name string) string { return "#!/bin/sh\necho '" + name + " 12.2'\n" }
	for _, test := range []struct {
		name  string
		has   map[string]string
		env   map[string]string
		want  string
		from  string
		flags string
		says  string // the error, which is ErrNoHost
	}{
		{name: "gcc", has: map[string]string{"a/gcc": compiler("gcc"), "a/g++": compiler("g++")}, want: "a/gcc", from: "PATH"},
		{name: "g++ alone", has: map[string]string{"a/g++": compiler("g++")}, want: "a/g++", from: "PATH", flags: "-ccbin $ROOT/a/g++"},
		{name: "clang", has: map[string]string{"a/clang++": compiler("clang")}, want: "a/clang++", from: "PATH", flags: "-ccbin $ROOT/a/clang++"},
		{name: "NVCC_CCBIN", has: map[string]string{"a/gcc": compiler("gcc"), "b/g++-12": compiler("g++")}, env: map[string]string{"NVCC_CCBIN": "$ROOT/b/g++-12"},
			want: "b/g++-12", from: "NVCC_CCBIN", flags: "-ccbin $ROOT/b/g++-12"},
		{name: "NVCC_CCBIN is a name", has: map[string]string{"a/g++-12": compiler("g++")}, env: map[string]string{"NVCC_CCBIN": "g++-12"},
			want: "a/g++-12", from: "NVCC_CCBIN", flags: "-ccbin $ROOT/a/g++-12"},
		{name: "NVCC_CCBIN is a folder", has: map[string]string{"b/gcc": compiler("gcc")}, env: map[string]string{"NVCC_CCBIN": "$ROOT/b"},
			want: "b/gcc", from: "NVCC_CCBIN", flags: "-ccbin $ROOT/b/gcc"},
		{name: "NVCC_CCBIN is wrong", has: map[string]string{"a/gcc": compiler("gcc")}, env: map[string]string{"NVCC_CCBIN": "g++-99"},
			says: "NVCC_CCBIN is g++-99, but"},
		{name: "flags", env: map[string]string{"NVCC_APPEND_FLAGS": "-ccbin=icpx"}, from: "NVCC_APPEND_FLAGS"},
		{name: "nothing", says: "there is no gcc, g++ or clang++ in PATH; install GCC's C++ compiler (apt-get install g++, dnf install gcc-c++)"},
		{name: "broken", has: map[string]string{"a/gcc": "#!/bin/sh\nexit 1\n"}, says: "a/gcc does not run: exit status 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			clearEnv(t)
			t.Setenv("PATH", filepath.Join(root, "a"))
			for file, text := range test.has {
				program(t, filepath.Join(root, file), text)
			}
			in := func(text string) string { return strings.ReplaceAll(text, "$ROOT", root) }
			for name, value := range test.env {
				t.Setenv(name, in(value))
			}
			got, err := (&Toolkit{}).Host(context.Background())
			if test.says != "" {
				if !errors.Is(err, ErrNoHost) || !strings.Contains(err.Error(), in(test.says)) {
					t.Errorf("%v is not %q", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := test.want; want != "" && got.Path != filepath.Join(root, want) || got.From != test.from {
				t.Errorf("found %s from %s, want %s from %s", got.Path, got.From, want, test.from)
			}
			if flags := strings.Join(got.flags(), " "); flags != in(test.flags) {
				t.Errorf("flags %q, want %q", flags, in(test.flags))
			}
		})
	}
}

// gcc without its C++ half, as Debian's package gcc has it.
func TestHostWithoutCpp(t *testing.T) {
	f := newFake(t)
	program(t, filepath.Join(f.dir, "bin", "gcc"),
		"#!/bin/sh\n[ \"$1\" = --version ] && { echo gcc 12; exit; }\necho \"gcc: fatal error: cannot execute 'cc1plus': No such file\" >&2\necho compilation terminated. >&2\nexit 1\n")
	_, err := f.Compile(context.Background(), Job{Sources: map[string]string{"a.cu": kernel("a")}, Archs: []string{"sm_80"}})
	if !errors.Is(err, ErrNoHost) || !strings.Contains(err.Error(), "gcc cannot preprocess C++20: gcc: fatal error: cannot execute 'cc1plus': No such file; install GCC's C++ compiler") {
		t.Error(err)
	}
	if calls := f.called(t); calls != nil {
		t.Errorf("nvcc was called: %v", calls)
	}
}

func TestCheck(t *testing.T) {
	f := newFake(t)
	check := func() error {
		t.Helper()
		host, err := f.Host(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return f.Check(context.Background(), host)
	}
	for _, test := range []struct {
		sh   string
		says string // "": no error
		host bool   // the error is ErrNoHost
	}{
		{sh: `[ "$*" = "-E -std=c++20 empty.cu" ]`},
		{sh: `echo '/x/host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than 12 are not supported! The flag' >&2; exit 1`,
			says: "nvcc has no host compiler that it supports: $DIR/bin/gcc: unsupported GNU version! gcc versions later than 12 are not supported!; set NVCC_CCBIN", host: true},
		{sh: `echo 'nvcc fatal   : no cicc' >&2; echo >&2; exit 1`, says: "$DIR/bin/nvcc does not work: exit status 1: nvcc fatal   : no cicc"},
	} {
		program(t, f.NVCC, "#!/bin/sh\n"+test.sh+"\n")
		err := check()
		if test.says == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), strings.ReplaceAll(test.says, "$DIR", f.dir)) || errors.Is(err, ErrNoHost) != test.host {
			t.Errorf("%v, want %s", err, test.says)
		}
	}
	program(t, filepath.Join(f.dir, "bin", "gcc"), "#!/bin/sh\n[ \"$1\" = --version ] && exit\nexit 1\n")
	if err := check(); !errors.Is(err, ErrNoHost) {
		t.Error(err)
	}
}
