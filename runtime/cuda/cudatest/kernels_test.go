package cudatest

import (
	"slices"
	"strings"
	"testing"
)

func TestEntries(t *testing.T) {
	text := `// extern "C" __global__ void not_this(int x) {}
extern "C" __global__ void __launch_bounds__(256) norm(bf16 *y) {
extern "C" __global__ void __launch_bounds__(round_up(Config::threads, 32), 2)
attention (bf16 *y) {
    extern "C" __global__ void plain() {}
__device__ void body() {}
`
	want := []entry{{"norm", "256"}, {"attention", "round_up(Config::threads, 32)"}, {"plain", "1024"}}
	if got := entriesOf([]byte(text)); !slices.Equal(got, want) {
		t.Errorf("entries %q, not %q", got, want)
	}
}

func TestIncludes(t *testing.T) {
	files := map[string][]byte{
		"a.cu":             []byte("#include \"norm.cuh\"\n#include <stdint.h>\n"),
		"norm.cuh":         []byte("#  include \"lib/reduce.cuh\"\n#include \"missing.cuh\"\n"),
		"lib/reduce.cuh":   []byte("#include \"beside.cuh\"\n#include \"device.cuh\"\n"),
		"lib/beside.cuh":   nil,
		"device.cuh":       []byte("#include \"norm.cuh\"\n"),
		"not_included.cuh": nil,
	}
	want := []string{"a.cu", "device.cuh", "lib/beside.cuh", "lib/reduce.cuh", "norm.cuh"}
	if got := includes("a.cu", files); !slices.Equal(got, want) {
		t.Errorf("includes %q, not %q", got, want)
	}
}

func TestKernelErrors(t *testing.T) {
	c := findCompiler(t)
	for _, x := range []struct {
		files map[string][]byte
		says  string
	}{
		{map[string][]byte{"a.cuh": nil}, "there is no .cu file"},
		{map[string][]byte{"a.cu": []byte("__device__ void body() {}\n")}, "a.cu has no kernel"},
		{map[string][]byte{"a.cu": []byte("#include \"sim.h\"\nextern \"C\" __global__ void wrong(int *p) { p = 1; }\n")}, "a.cu:2:"},
	} {
		if _, err := compileKernels(c, x.files); err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%v, which does not say %q", err, x.says)
		}
	}
}
