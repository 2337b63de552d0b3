package compile_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/nvcc"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/golden"
)

// golden/cuda holds what nvcc 13.0.88 says of the kernels of every example spec: registers, shared memory and stack of each on
// sm_80 and sm_90a, where the spec lists them. A kernel that spills registers is an error. Without nvcc there is nothing to compare with.
func TestResources(t *testing.T) {
	const dir = "../golden/cuda"
	toolkit, err := nvcc.Find(t.Context())
	if errors.Is(err, nvcc.ErrNotFound) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	recorded := toolkit.Version.String() == "13.0.88" // others allot otherwise
	if recorded {
		golden.Owns(t, dir)
	}
	for _, s := range examples(t) {
		t.Run(s.Name, func(t *testing.T) {
			var text strings.Builder
			_, err := compile.CUDA(s, nil, func(sources []cudagen.Source, _ []string) ([]cudagen.Source, error) {
				var job nvcc.Job
				for _, arch := range []string{"sm_80", "sm_90a"} { // of a spec in fp8 the second alone
					if slices.Contains(s.Target.Arch, arch) {
						job.Archs = append(job.Archs, arch)
					}
				}
				for _, f := range sources {
					job.Add(f.Name, f.Data, f.Arch)
				}
				r, err := toolkit.Compile(t.Context(), job)
				if err != nil {
					return nil, err
				}
				for _, k := range r.Kernels {
					fmt.Fprintf(&text, "%s\n", k.Entry)
					for _, arch := range slices.Sorted(maps.Keys(k.Usage)) {
						u := k.Usage[arch]
						fmt.Fprintf(&text, "  %-6s %3d registers, %d bytes shared, %d bytes stack\n", arch, u.Registers, u.Shared, u.Stack)
					}
				}
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if recorded {
				golden.Check(t, filepath.Join(dir, s.Name+".txt"), text.String())
			}
		})
	}
}
