package cudatest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
)

var configName = regexp.MustCompile(`\bConfig\b`)

// File compiles generated .cu files for the simulator and packs them as a package's file of kernels, in place of what nvcc
// makes of them.
func File(t testing.TB, files map[string][]byte, units int) []byte {
	t.Helper()
	var entries []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if entry, ok := strings.CutSuffix(name, ".cu"); ok {
			entries = append(entries, entry)
		}
	}
	file, err := kernelfile.Pack("simulated", []kernelfile.Module{{File: "all.cu", Entries: entries, Fatbin: Kernels(t, Merge(files, units))}})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Merge puts generated .cu files, each of which has a struct Config of its own, together into so many: most of a
// compilation are the bodies that they share. Other files stay as they are.
func Merge(files map[string][]byte, units int) map[string][]byte {
	merged := map[string][]byte{}
	i := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(name) != ".cu" {
			merged[name] = files[name]
			continue
		}
		unit := fmt.Sprintf("unit%d.cu", i%units)
		text := configName.ReplaceAll(files[name], fmt.Appendf(nil, "Config%d", i))
		merged[unit] = append(append(merged[unit], text...), '\n')
		i++
	}
	return merged
}
