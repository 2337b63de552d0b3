package cudatest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
)

var configName = regexp.MustCompile(`\bConfig\b`)

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
