package weights

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// shardBytes is how large a file of weights grows before the next one is begun, as in Hugging Face repositories.
const shardBytes = 5_000_000_000

// Save writes a Hugging Face model folder, made if missing (its parent must exist): the weights in src under the names
// of the table, as F32, in model.safetensors or, above 5 GB, in shards with their index; and config.json, unless
// configJSON is nil. Weights of an earlier save in the folder are removed at the end. Each file is written whole or not
// at all; to replace a whole folder in one step, save to a new one and rename it, as package checkpoint does.
func Save(dir string, table []Info, src []float32, configJSON []byte) error {
	return save(disk.OS{}, dir, table, src, configJSON, shardBytes)
}

func save(fsys disk.FS, dir string, table []Info, src []float32, configJSON []byte, limit int) error {
	tensors, err := layout(table, len(src))
	if err != nil {
		return err
	}
	if err := fsys.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	sources := make([]source, len(tensors))
	for i, t := range tensors {
		sources[i] = source{t.name, t.shape(), func(put func([]float32) error) error { return t.write(src, put) }}
	}
	shards := split(sources, limit)
	written := map[string]bool{}
	names := shardNames(len(shards))
	for i, shard := range shards {
		if err := writeTensors(fsys, filepath.Join(dir, names[i]), shard, nil); err != nil {
			return err
		}
		written[names[i]] = true
	}
	if len(shards) > 1 {
		if err := writeBytes(fsys, filepath.Join(dir, indexFile), index(shards, names)); err != nil {
			return err
		}
		written[indexFile] = true
	}
	if configJSON != nil {
		if err := writeBytes(fsys, filepath.Join(dir, configFile), configJSON); err != nil {
			return err
		}
	}
	return removeOld(fsys, dir, written)
}

func writeBytes(fsys disk.FS, path string, data []byte) error {
	return disk.WriteFile(fsys, path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// split cuts the tensors, in order, into shards of at most limit bytes; a larger tensor is a shard of its own.
func split(sources []source, limit int) [][]source {
	shards, size := [][]source{nil}, 0
	for _, s := range sources {
		last := len(shards) - 1
		if len(shards[last]) > 0 && size+s.bytes() > limit {
			shards, size = append(shards, nil), 0
			last++
		}
		shards[last] = append(shards[last], s)
		size += s.bytes()
	}
	return shards
}

func shardNames(n int) []string {
	if n == 1 {
		return []string{singleFile}
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n)
	}
	return names
}

// index returns the text of model.safetensors.index.json.
func index(shards [][]source, names []string) []byte {
	total := 0
	var lines []string
	for i, shard := range shards {
		for _, s := range shard {
			total += s.bytes()
			lines = append(lines, fmt.Sprintf("    %s: %s", quote(s.name), quote(names[i])))
		}
	}
	slices.Sort(lines)
	return fmt.Appendf(nil, "{\n  \"metadata\": {\n    \"total_size\": %d\n  },\n  \"weight_map\": {\n%s\n  }\n}\n", total, strings.Join(lines, ",\n"))
}

var weightFile = regexp.MustCompile(`^model(-\d{5}-of-\d{5})?\.safetensors$`)

// removeOld removes weights that are not part of the save just written: a reader would take them for it.
func removeOld(fsys disk.FS, dir string, written map[string]bool) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); !written[name] && (name == indexFile || weightFile.MatchString(name)) {
			if err := fsys.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return fsys.SyncDir(dir)
}
