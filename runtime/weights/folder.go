package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
	configFile = "config.json"
	maxIndex   = 100_000_000 // bytes
	maxConfig  = 1 << 20     // bytes
	maxShards  = 10_000
)

// folder is a model folder, with each tensor's file.
type folder struct {
	dir   string
	files []*File
	where map[string]*File
}

// openFolder opens model.safetensors, or the shards that model.safetensors.index.json lists.
func openFolder(dir string) (*folder, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file; give the model's folder", dir)
	}
	m := &folder{dir: dir, where: map[string]*File{}}
	err := m.openSingle()
	if errors.Is(err, fs.ErrNotExist) {
		err = m.openShards()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w%s", err, otherWeights(dir))
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *folder) close() {
	for _, f := range m.files {
		f.Close() // files that were only read
	}
}

func (m *folder) open(name string) (*File, error) {
	path, err := inside(m.dir, name)
	if err != nil {
		return nil, err
	}
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	m.files = append(m.files, f)
	return f, nil
}

func (m *folder) openSingle() error {
	f, err := m.open(singleFile)
	if err != nil {
		return err
	}
	for _, t := range f.tensors {
		m.where[t.Name] = f
	}
	return nil
}

func (m *folder) openShards() error {
	path, err := inside(m.dir, indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: neither %s nor %s: %w", m.dir, singleFile, indexFile, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	data, err := disk.ReadFile(disk.OS{}, path, maxIndex)
	if err != nil {
		return err
	}
	index, err := parseIndex(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	shards := map[string]*File{}
	for _, shard := range index {
		shards[shard] = nil
	}
	if len(shards) > maxShards {
		return fmt.Errorf("%s: %d shards, at most %d are allowed", path, len(shards), maxShards)
	}
	for _, shard := range slices.Sorted(maps.Keys(shards)) {
		f, err := m.open(shard)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: shard %s is missing; was the download complete?", path, shard) // not ErrNotExist: there is a model
		}
		if err != nil {
			return err
		}
		shards[shard] = f
	}
	return m.checkIndex(path, index, shards)
}

// checkIndex compares the index with what is in the shards.
func (m *folder) checkIndex(path string, index map[string]string, shards map[string]*File) error {
	var wrong problems
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if _, ok := shards[index[name]].Tensor(name); !ok {
			wrong.add("tensor %q is not in %s, where the index has it", name, index[name])
		}
		m.where[name] = shards[index[name]]
	}
	for _, shard := range slices.Sorted(maps.Keys(shards)) {
		for _, t := range shards[shard].tensors {
			switch listed := index[t.Name]; listed {
			case shard:
			case "":
				wrong.add("tensor %q in %s is not in the index", t.Name, shard)
			default:
				wrong.add("tensor %q is in %s, the index has it in %s", t.Name, shard, listed)
			}
		}
	}
	return wrong.err(path)
}

// parseIndex reads {"metadata": …, "weight_map": {tensor: shard}}.
func parseIndex(data []byte) (map[string]string, error) {
	index := map[string]string{}
	r := strictjson.NewReader(data)
	err := r.Object(func(key string) error {
		if key != "weight_map" {
			return r.Skip()
		}
		return r.Object(func(name string) error {
			shard, err := r.String()
			if err != nil {
				return err
			}
			if !plainName(shard) {
				return fmt.Errorf("tensor %q: %q is not the name of a file in the folder", name, shard)
			}
			index[name] = shard
			return nil
		})
	})
	if err == nil {
		err = r.End()
	}
	if err == nil && len(index) == 0 {
		err = errors.New("no weight_map")
	}
	return index, err
}

// plainName says whether a name that a file gives can only mean a file in the same folder.
func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\\\x00:")
}

// inside returns the path of a file in a model folder. A link may lead to another place in the folder, or, in the
// layout of the Hugging Face cache (snapshots/<commit>/<file> beside blobs/), to a blob; nowhere else.
func inside(dir, name string) (string, error) {
	realDir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	path, err := filepath.EvalSymlinks(filepath.Join(realDir, name))
	if err != nil {
		return "", err
	}
	repo, snapshots := filepath.Split(filepath.Dir(realDir))
	homes := []string{realDir}
	if snapshots == "snapshots" {
		homes = append(homes, filepath.Join(repo, "blobs"))
	}
	for _, home := range homes {
		if rel, err := filepath.Rel(home, path); err == nil && filepath.IsLocal(rel) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is a link out of the folder, to %s", filepath.Join(dir, name), path)
}

// otherWeights says which weights a folder has that cannot be read.
func otherWeights(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz":
			return fmt.Sprintf("; %s is there, but only safetensors can be read: convert it first", e.Name())
		}
	}
	return ""
}
