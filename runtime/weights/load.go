package weights

import (
	"runtime"
	"slices"
	"strings"
	"sync"
)

// basePrefixes begin the names of a model's inner tensors. A file saved from the model without its head lacks them.
var basePrefixes = []string{"transformer.", "model.", "gpt_neox."}

// harmless ends the names of tensors that hold no weights: buffers that old versions of Transformers saved.
var harmless = []string{".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"}

// heads are the names of output heads, which some files hold beside an embedding that they are tied to.
var heads = []string{"lm_head.weight", "embed_out.weight"}

// Load reads the weights of a Hugging Face model folder into dst, laid out as the table says: model.safetensors, or the
// shards of model.safetensors.index.json, of F32, BF16, F16 or F64. Names may lack the prefix transformer., model. or
// gpt_neox. Everything is checked before the first value is read: tensors missing or of another shape, and tensors that
// the program has no use for, except known buffers and an output head equal to the embedding; the error names them all,
// up to ten.
func Load(dir string, table []Info, dst []float32) error {
	tensors, err := layout(table, len(dst))
	if err != nil {
		return err
	}
	m, err := openFolder(dir)
	if err != nil {
		return err
	}
	defer m.close()
	found, err := m.match(tensors)
	if err != nil {
		return err
	}
	return inPieces(len(tensors), 1, func(from, to int) error {
		for i := from; i < to; i++ {
			f := m.where[found[i].Name]
			read := func(first int, dst []float32) error { return f.readFloats(found[i], first, dst) }
			if err := tensors[i].read(dst, read); err != nil {
				return err
			}
		}
		return nil
	})
}

// inPieces calls do for stretches that make up 0 to n, each of least or more but for the last, on all processors at once. It
// returns the error of the first stretch that has one.
func inPieces(n, least int, do func(from, to int) error) error {
	pieces := min(runtime.GOMAXPROCS(0), n/least)
	if pieces <= 1 {
		return do(0, n)
	}
	errs := make([]error, pieces)
	var all sync.WaitGroup
	for p := range pieces {
		all.Go(func() { errs[p] = do(n*p/pieces, n*(p+1)/pieces) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// match finds the tensor of the folder for each tensor wanted.
func (m *folder) match(tensors []fileTensor) ([]Tensor, error) {
	var wrong problems
	strip := m.missingPrefix(tensors)
	found := make([]Tensor, len(tensors))
	used := map[string]bool{}
	for i, t := range tensors {
		name := strings.TrimPrefix(t.name, strip)
		f := m.where[name]
		if f == nil {
			wrong.add("tensor %q is missing", t.name)
			continue
		}
		found[i], _ = f.Tensor(name)
		used[name] = true
		if !slices.Equal(found[i].Shape, t.shape()) {
			wrong.add("tensor %q: shape %v in the file, %v in the program", name, found[i].Shape, t.shape())
		} else if dtypes[found[i].DType].toFloat == nil {
			wrong.add("tensor %q: %s cannot be read as float32; F64, F32, F16 and BF16 can", name, found[i].DType)
		}
	}
	for _, f := range m.files {
		for _, t := range f.tensors {
			if used[t.Name] || hasSuffix(t.Name, harmless) {
				continue
			}
			if !slices.Contains(heads, t.Name) {
				wrong.add("tensor %q, shape %v, is not a weight of the program", t.Name, t.Shape)
				continue
			}
			tied, err := m.equalsAny(f, t, found)
			if err != nil {
				return nil, err
			}
			if !tied {
				wrong.add("tensor %q differs from the embedding that the program ties it to", t.Name)
			}
		}
	}
	return found, wrong.err(m.dir)
}

// missingPrefix returns the prefix that the wanted names have and all of the folder's lack, or "".
func (m *folder) missingPrefix(tensors []fileTensor) string {
	for _, prefix := range basePrefixes {
		wanted := slices.ContainsFunc(tensors, func(t fileTensor) bool { return strings.HasPrefix(t.name, prefix) })
		for name := range m.where {
			wanted = wanted && !strings.HasPrefix(name, prefix)
		}
		if wanted {
			return prefix
		}
	}
	return ""
}

// equalsAny says whether a tensor holds the same values as one of the same shape among the used ones.
func (m *folder) equalsAny(f *File, t Tensor, used []Tensor) (bool, error) {
	for _, u := range used {
		if u.Name == "" || u.Name == t.Name || !slices.Equal(u.Shape, t.Shape) {
			continue
		}
		same, err := sameValues(f, t, m.where[u.Name], u)
		if same || err != nil {
			return same, err
		}
	}
	return false, nil
}

func sameValues(f *File, t Tensor, g *File, u Tensor) (bool, error) {
	size := t.Size()
	a := make([]float32, min(size, readChunk/4))
	b := make([]float32, len(a))
	for at := 0; at < size; at += len(a) {
		n := min(len(a), size-at)
		if err := f.readFloats(t, at, a[:n]); err != nil {
			return false, err
		}
		if err := g.readFloats(u, at, b[:n]); err != nil {
			return false, err
		}
		if !slices.Equal(a[:n], b[:n]) {
			return false, nil
		}
	}
	return true, nil
}

func hasSuffix(name string, suffixes []string) bool {
	return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix("."+name, s) })
}
