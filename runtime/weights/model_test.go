package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/disk/disktest"
)

// builder lays weights out one after another.
type builder struct {
	table []Info
	size  int
}

func (b *builder) add(w Info, shape ...int) {
	w.Shape, w.Offset = shape, b.size
	b.table = append(b.table, w)
	b.size += w.Size()
}

// gpt2Table is the table of testdata/gpt2: two layers, width 32, matrices transposed and c_attn stacked.
func gpt2Table() ([]Info, int) {
	const d, ff, vocab, positions = 32, 128, 128, 64
	var b builder
	both := func(name, file string, out, in int) {
		b.add(Info{Name: name + ".weight", File: file + ".weight", FileTransposed: true}, out, in)
		b.add(Info{Name: name + ".bias", File: file + ".bias"}, out)
	}
	norm := func(name, file string) {
		b.add(Info{Name: name + ".weight", File: file + ".weight"}, d)
		b.add(Info{Name: name + ".bias", File: file + ".bias"}, d)
	}
	b.add(Info{Name: "embedding.weight", File: "transformer.wte.weight"}, vocab, d)
	b.add(Info{Name: "positions.weight", File: "transformer.wpe.weight"}, positions, d)
	for l := range 2 {
		layer, file := fmt.Sprintf("layers.%d.", l), fmt.Sprintf("transformer.h.%d.", l)
		norm(layer+"norm1", file+"ln_1")
		for i, name := range []string{"q", "k", "v"} {
			stacked := Info{FileRows: 3 * d, FileRow: i * d, FileGroup: d}
			w, bias := stacked, stacked
			w.Name, w.File, w.FileTransposed = layer+name+".weight", file+"attn.c_attn.weight", true
			bias.Name, bias.File = layer+name+".bias", file+"attn.c_attn.bias"
			b.add(w, d, d)
			b.add(bias, d)
		}
		both(layer+"o", file+"attn.c_proj", d, d)
		norm(layer+"norm2", file+"ln_2")
		both(layer+"up", file+"mlp.c_fc", ff, d)
		both(layer+"down", file+"mlp.c_proj", d, ff)
	}
	norm("norm", "transformer.ln_f")
	return b.table, b.size
}

// neoxTable is the table of testdata/gpt_neox: query_key_value holds q, k and v of head 0, then of head 1, …
func neoxTable() ([]Info, int) {
	const d, ff, vocab, heads = 32, 64, 128, 4
	var b builder
	both := func(name, file string, out int, in ...int) {
		b.add(Info{Name: name + ".weight", File: file + ".weight"}, append([]int{out}, in...)...)
		b.add(Info{Name: name + ".bias", File: file + ".bias"}, out)
	}
	b.add(Info{Name: "embedding.weight", File: "gpt_neox.embed_in.weight"}, vocab, d)
	for l := range 2 {
		layer, file := fmt.Sprintf("layers.%d.", l), fmt.Sprintf("gpt_neox.layers.%d.", l)
		both(layer+"norm1", file+"input_layernorm", d)
		for i, name := range []string{"q", "k", "v"} {
			inter := Info{FileRows: 3 * d, FileRow: i * d / heads, FileGroup: d / heads, FileStride: 3 * d / heads}
			w, bias := inter, inter
			w.Name, w.File = layer+name+".weight", file+"attention.query_key_value.weight"
			bias.Name, bias.File = layer+name+".bias", file+"attention.query_key_value.bias"
			b.add(w, d, d)
			b.add(bias, d)
		}
		both(layer+"o", file+"attention.dense", d, d)
		both(layer+"norm2", file+"post_attention_layernorm", d)
		both(layer+"up", file+"mlp.dense_h_to_4h", ff, d)
		both(layer+"down", file+"mlp.dense_4h_to_h", d, ff)
	}
	both("norm", "gpt_neox.final_layer_norm", d)
	b.add(Info{Name: "head.weight", File: "embed_out.weight"}, vocab, d)
	return b.table, b.size
}

func load(t *testing.T, dir string, table []Info, size int) []float32 {
	t.Helper()
	dst := make([]float32, size)
	if err := Load(dir, table, dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

// tensorsOf reads a fixture as named tensors, to write variants of it.
func tensorsOf(t *testing.T, dir string) []Named {
	t.Helper()
	tensors, err := ReadTensors(filepath.Join(dir, singleFile))
	if err != nil {
		t.Fatal(err)
	}
	return tensors
}

func variant(t *testing.T, tensors []Named) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteTensors(filepath.Join(dir, singleFile), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRoundTripIsByteIdentical(t *testing.T) {
	for name, make := range map[string]func() ([]Info, int){"gpt2": gpt2Table, "gpt_neox": neoxTable} {
		table, size := make()
		dir := filepath.Join("testdata", name)
		weights := load(t, dir, table, size)
		out := filepath.Join(t.TempDir(), "out")
		if err := Save(out, table, weights, []byte("{}\n")); err != nil {
			t.Fatal(err)
		}
		want, _ := os.ReadFile(filepath.Join(dir, singleFile))
		got, _ := os.ReadFile(filepath.Join(out, singleFile))
		if len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("%s: the file saved differs from the file loaded", name)
		}
		if config, _ := os.ReadFile(filepath.Join(out, configFile)); string(config) != "{}\n" {
			t.Errorf("%s: config.json is %q", name, config)
		}
	}
}

// The rows land where the definitions of the two families say, element by element.
func TestLoadPlacesRows(t *testing.T) {
	check := func(dir, file, weight string, table []Info, size int, at func(out, in int) int) {
		t.Helper()
		weights := load(t, dir, table, size)
		tensors := tensorsOf(t, dir)
		raw := tensors[slices.IndexFunc(tensors, func(n Named) bool { return n.Name == file })]
		w := table[slices.IndexFunc(table, func(w Info) bool { return w.Name == weight })]
		for out := range 32 {
			for in := range 32 {
				if got, want := weights[w.Offset+out*32+in], raw.Data[at(out, in)]; got != want {
					t.Fatalf("%s[%d, %d] = %v, want %v", weight, out, in, got, want)
				}
			}
		}
	}
	table, size := gpt2Table()
	check("testdata/gpt2", "transformer.h.1.attn.c_attn.weight", "layers.1.k.weight", table, size,
		func(out, in int) int { return in*96 + 32 + out })
	table, size = neoxTable()
	check("testdata/gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight", "layers.1.k.weight", table, size,
		func(out, in int) int { return ((out/8*3+1)*8+out%8)*32 + in })
}

// A transposed tensor that needs several blocks, the last one partial.
func TestTransposedInBlocks(t *testing.T) {
	const out, in = 700, 1001
	table := []Info{
		{Name: "a", Shape: []int{300, in}, File: "x", FileTransposed: true, FileRows: out, FileGroup: 300},
		{Name: "b", Shape: []int{400, in}, Offset: 300 * in, File: "x", FileTransposed: true, FileRows: out, FileRow: 300, FileGroup: 400},
	}
	src := make([]float32, out*in)
	for i := range src {
		src[i] = float32(i)
	}
	dir := filepath.Join(t.TempDir(), "m")
	if err := Save(dir, table, src, nil); err != nil {
		t.Fatal(err)
	}
	if got := load(t, dir, table, len(src)); !slices.Equal(got, src) {
		t.Error("the round trip changed values")
	}
	raw := tensorsOf(t, dir)[0]
	if raw.Shape[0] != in || raw.Data[5*out+650] != src[650*in+5] {
		t.Error("the file does not hold the transpose")
	}
}

func TestShards(t *testing.T) {
	table, size := gpt2Table()
	weights := load(t, "testdata/gpt2", table, size)
	dir := filepath.Join(t.TempDir(), "m")
	if err := save(disk.OS{}, dir, table, weights, nil, 40_000); err != nil {
		t.Fatal(err)
	}
	shards, _ := filepath.Glob(filepath.Join(dir, "model-0000?-of-00004.safetensors"))
	if len(shards) != 4 {
		t.Fatalf("%d shards of 4: %v", len(shards), shards)
	}
	if got := load(t, dir, table, size); !slices.Equal(got, weights) {
		t.Error("the shards hold other values")
	}
	var index struct {
		Metadata struct {
			TotalSize int `json:"total_size"`
		}
		WeightMap map[string]string `json:"weight_map"`
	}
	text, _ := os.ReadFile(filepath.Join(dir, indexFile))
	if err := json.Unmarshal(text, &index); err != nil || index.Metadata.TotalSize != 4*size || len(index.WeightMap) != 28 {
		t.Errorf("index: %v, total_size %d, %d tensors", err, index.Metadata.TotalSize, len(index.WeightMap))
	}

	// A later save in one file replaces the shards, and shards replace one file.
	if err := Save(dir, table, weights, nil); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Errorf("left beside model.safetensors: %v", names)
	}
	if err := save(disk.OS{}, dir, table, weights, nil, 40_000); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 5 {
		t.Errorf("%v, want four shards and their index", names)
	}
}

func TestShardsRefused(t *testing.T) {
	table, size := gpt2Table()
	weights := load(t, "testdata/gpt2", table, size)
	const first, second = "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"
	replaced := func(from, to string) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, indexFile)
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			changed := strings.Replace(string(text), from, to, 1)
			if changed == string(text) {
				return fmt.Errorf("%q is not in the index", from)
			}
			return os.WriteFile(path, []byte(changed), 0o644)
		}
	}
	cases := []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"missing shard", "shard " + second + " is missing", func(dir string) error { return os.Remove(filepath.Join(dir, second)) }},
		{"parent folder", `"../x.safetensors" is not the name of a file in the folder`, replaced(first, "../x.safetensors")},
		{"absolute", `"/etc/passwd" is not the name`, replaced(first, "/etc/passwd")},
		{"sub-folder", "is not the name", replaced(first, "a/b.safetensors")},
		{"backslash", "is not the name", replaced(first, `..\\x.safetensors`)},
		{"NUL", "is not the name", replaced(first, `a\u0000`)},
		{"dots", "is not the name", replaced(first, "..")},
		{"no name", "is not the name", replaced(first, "")},
		{"long name", "is not the name", replaced(first, strings.Repeat("x", 300))},
		{"drive", "is not the name", replaced(first, "C:x")},
		{"wrong shard", `is not in ` + second, replaced(first, second)},
		{"tensor unlisted", "is not in the index", replaced(`    "transformer.h.0.attn.c_attn.bias": "`+first+"\",\n", "")},
		{"tensor twice", "is given twice", replaced("transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_attn.weight")},
		{"no weight_map", "no weight_map", replaced("weight_map", "weights")},
		{"shard is a number", "is expected to open a string", replaced(`"`+first+`"`, "1")},
		{"trailing text", "more text after the end", replaced("  }\n}\n", "  }\n}\n}")},
		{"link out", "is a link out of the folder", func(dir string) error {
			out := filepath.Join(filepath.Dir(dir), "elsewhere")
			return errors.Join(os.Rename(filepath.Join(dir, first), out), os.Symlink(out, filepath.Join(dir, first)))
		}},
		{"one tensor in two shards", `"transformer.h.0.attn.c_attn.bias" is in ` + second + ", the index has it in " + first, func(dir string) error {
			tensors, err := ReadTensors(filepath.Join(dir, second))
			if err != nil {
				return err
			}
			tensors = append(tensors, Named{"transformer.h.0.attn.c_attn.bias", []int{1}, []float32{1}})
			return WriteTensors(filepath.Join(dir, second), tensors, nil)
		}},
	}
	for _, c := range cases {
		dir := filepath.Join(t.TempDir(), "m")
		if err := save(disk.OS{}, dir, table, weights, nil, 40_000); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(dir); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := Load(dir, table, make([]float32, size)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// The Hugging Face cache holds links from snapshots/<commit>/ to blobs/.
func TestLoadFromCache(t *testing.T) {
	repo := t.TempDir()
	commit := filepath.Join(repo, "snapshots", "0123abc")
	data, _ := os.ReadFile("testdata/gpt2/model.safetensors")
	err := errors.Join(os.MkdirAll(commit, 0o755), os.Mkdir(filepath.Join(repo, "blobs"), 0o755),
		os.WriteFile(filepath.Join(repo, "blobs", "feed"), data, 0o644),
		os.WriteFile(filepath.Join(repo, "secret"), data, 0o644),
		os.Symlink("../../blobs/feed", filepath.Join(commit, singleFile)))
	if err != nil {
		t.Fatal(err)
	}
	table, size := gpt2Table()
	load(t, commit, table, size)
	if err := errors.Join(os.Remove(filepath.Join(commit, singleFile)), os.Symlink("../../secret", filepath.Join(commit, singleFile))); err != nil {
		t.Fatal(err)
	}
	if err := Load(commit, table, make([]float32, size)); err == nil || !strings.Contains(err.Error(), "a link out of the folder") {
		t.Errorf("a link beside blobs: %v", err)
	}
}

func TestLoadNamesEveryMismatch(t *testing.T) {
	table, size := gpt2Table()
	tensors := tensorsOf(t, "testdata/gpt2")
	find := func(name string) int {
		return slices.IndexFunc(tensors, func(n Named) bool { return n.Name == "transformer."+name })
	}
	tensors[find("wpe.weight")] = Named{"transformer.wpe.weight", []int{32, 32}, make([]float32, 1024)}
	tensors[find("ln_f.bias")].Name = "transformer.ln_g.bias"
	err := Load(variant(t, tensors), table, make([]float32, size))
	for _, want := range []string{
		`tensor "transformer.wpe.weight": shape [32 32] in the file, [64 32] in the program`,
		`tensor "transformer.ln_f.bias" is missing`,
		`tensor "transformer.ln_g.bias", shape [32], is not a weight of the program`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	err = Load(variant(t, nil), table, make([]float32, size))
	if err == nil || !strings.Contains(err.Error(), "and 18 more") || strings.Count(err.Error(), "\n") != 10 {
		t.Errorf("28 missing tensors: %v", err)
	}

	data, _ := os.ReadFile("testdata/gpt2/model.safetensors")
	integers := strings.Replace(string(data), `"dtype":"F32","shape":[96]`, `"dtype":"U32","shape":[96]`, 1)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, singleFile), []byte(integers), 0o644); err != nil {
		t.Fatal(err)
	}
	err = Load(dir, table, make([]float32, size))
	if err == nil || !strings.Contains(err.Error(), `"transformer.h.0.attn.c_attn.bias": U32 cannot be read as float32`) {
		t.Errorf("integers: %v", err)
	}
}

func TestLoadLeavesAside(t *testing.T) {
	table, size := gpt2Table()
	want := load(t, "testdata/gpt2", table, size)
	tensors := tensorsOf(t, "testdata/gpt2")
	wte := tensors[slices.IndexFunc(tensors, func(n Named) bool { return n.Name == "transformer.wte.weight" })]
	extra := append(slices.Clone(tensors),
		Named{"transformer.h.0.attn.bias", []int{1, 1, 2, 2}, make([]float32, 4)},
		Named{"transformer.h.0.attn.masked_bias", []int{}, []float32{-1e4}},
		Named{"lm_head.weight", wte.Shape, wte.Data})
	if got := load(t, variant(t, extra), table, size); !slices.Equal(got, want) {
		t.Error("buffers and a tied head changed the weights")
	}
	for i := range extra { // as saved from the model without its head
		extra[i].Name = strings.TrimPrefix(extra[i].Name, "transformer.")
	}
	if got := load(t, variant(t, extra), table, size); !slices.Equal(got, want) {
		t.Error("names without their prefix changed the weights")
	}
	untied := slices.Clone(wte.Data)
	untied[len(untied)-1]++
	err := Load(variant(t, append(slices.Clone(tensors), Named{"lm_head.weight", wte.Shape, untied})), table, make([]float32, size))
	if err == nil || !strings.Contains(err.Error(), `"lm_head.weight" differs from the embedding`) {
		t.Errorf("an untied head: %v", err)
	}
}

func TestLoadNothing(t *testing.T) {
	table, size := gpt2Table()
	dir := t.TempDir()
	if err := Load(dir, table, make([]float32, size)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("empty folder: %v", err)
	}
	if err := Load(filepath.Join(dir, "absent"), table, make([]float32, size)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pytorch_model.bin"), []byte("PK\x03\x04"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Load(dir, table, make([]float32, size)); err == nil || !strings.Contains(err.Error(), "pytorch_model.bin is there, but only safetensors") {
		t.Errorf("folder of pickles: %v", err)
	}
	if err := Load("testdata/gpt2/model.safetensors", table, make([]float32, size)); err == nil || !strings.Contains(err.Error(), "give the model's folder") {
		t.Errorf("a file: %v", err)
	}
}

func TestLayoutRefuses(t *testing.T) {
	part := func(name string, row, rows int) Info {
		return Info{Name: name, Shape: []int{4, 2}, File: "x", FileRows: rows, FileRow: row, FileGroup: 4}
	}
	cases := map[string][]Info{
		"overlap or leave a hole between rows 2 and 4":               {part("a", 0, 8), part("b", 2, 8)},
		"overlap or leave a hole between rows 4 and 6":               {part("a", 0, 10), part("b", 6, 10)},
		"cover 4 of 8 rows":                                          {part("a", 0, 8)},
		"cover 8 of 6 rows":                                          {part("a", 0, 6), part("b", 4, 6)},
		"weights a and b disagree on the shape":                      {part("a", 0, 8), part("b", 4, 9)},
		"weight c: elements 95 to 105 lie outside the buffer of 100": {{Name: "c", Shape: []int{10}, Offset: 95, File: "c"}},
		"weight d: shape [] has an empty dimension":                  {{Name: "d", File: "d"}},
		"only a matrix can be transposed":                            {{Name: "e", Shape: []int{1, 2, 3}, File: "e", FileTransposed: true}},
		"weight f: negative":                                         {{Name: "f", Shape: []int{4}, File: "f", FileRow: -1}},
	}
	for want, table := range cases {
		if err := Load("testdata/gpt2", table, make([]float32, 100)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// Whichever call fails, what loads is the old model or the new one, and success means the new one.
func TestSaveFailingAnyCall(t *testing.T) {
	table, size := gpt2Table()
	old := make([]float32, size)
	fresh := load(t, "testdata/gpt2", table, size)
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "m")
		if err := Save(dir, table, old, nil); err != nil {
			t.Fatal(err)
		}
		faulty := &disktest.Faulty{FS: disk.OS{}, FailAt: n}
		err := save(faulty, dir, table, fresh, []byte("{}"), shardBytes)
		got := load(t, dir, table, size)
		if isNew := slices.Equal(got, fresh); !isNew && (err == nil || !slices.Equal(got, old)) {
			t.Fatalf("call %d: neither the old model nor the new after error %v", n, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, disk.TempPrefix+"*")); len(left) > 0 {
			t.Errorf("call %d: leftovers %v", n, left)
		}
		if faulty.Calls < n {
			return
		}
		if err == nil {
			t.Errorf("call %d failed and Save did not say so", n)
		}
	}
}

func TestWriteTensors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	tensors := []Named{
		{"b", []int{2, 1}, []float32{1, 2}}, {"a<&>\"\u2028é", []int{}, []float32{3}}, {"empty", []int{0}, nil},
	}
	if err := WriteTensors(path, tensors, map[string]string{"step": "7", "a": "x"}); err != nil {
		t.Fatal(err)
	}
	got, err := ReadTensors(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].Name != tensors[1].Name || got[1].Name != "b" || got[1].Data[1] != 2 || got[2].Name != "empty" {
		t.Errorf("read back %v", got)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := map[string]string{"format": "pt", "step": "7", "a": "x"}; !maps.Equal(f.Metadata(), want) {
		t.Errorf("metadata %v", f.Metadata())
	}
	if f.start%8 != 0 {
		t.Errorf("the data starts at byte %d", f.start)
	}
	for want, bad := range map[string][]Named{
		"is given twice":           {{"a", []int{1}, []float32{1}}, {"a", []int{1}, []float32{1}}},
		"has 3 elements, the data": {{"a", []int{3}, []float32{1}}},
		"cannot name a tensor":     {{"__metadata__", []int{1}, []float32{1}}},
		"has a negative dimension": {{"a", []int{-1, -1}, []float32{1}}},
		"at most 8 are allowed":    {{"a", []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, []float32{1}}},
	} {
		if err := WriteTensors(path, bad, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if again, _ := ReadTensors(path); len(again) != 3 {
		t.Error("a refused write changed the file")
	}
}

func TestCompareConfig(t *testing.T) {
	dir := t.TempDir()
	put := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, configFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(`{"n_layer": 16, "eps": 1e-05, "rope": {"type": "llama3", "factor": 8.0}, "auto_map": {"x": "y.py"}, "kinds": [1, "a"], "window": null}`)
	same := `{"n_layer": 16, "eps": 0.00001, "rope": {"factor": 8}, "kinds": [1, "a"], "window": null, "absent": null}`
	if err := CompareConfig(dir, []byte(same)); err != nil {
		t.Error(err)
	}
	other := `{"n_layer": 12, "eps": 1e-6, "rope": {"factor": 4, "type": "linear"}, "kinds": [1, "b"], "n_head": 4, "window": 8}`
	err := CompareConfig(dir, []byte(other))
	for _, want := range []string{
		"n_layer: 16 in the file, 12 in the program", "eps: 1e-05 in the file, 1e-6 in the program",
		`rope.type: "llama3" in the file, "linear" in the program`, "rope.factor: 8.0 in the file, 4 in the program",
		`kinds: [1,"a"] in the file, [1,"b"] in the program`, "n_head: absent in the file, 4 in the program",
		"window: null in the file, 8 in the program",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	for text, want := range map[string]string{
		`{"n_layer": 12, "n_layer": 16}`:       `"n_layer" is given twice`,
		`[]`:                                   "an object is expected",
		`{} x`:                                 "more text after the end",
		`{"a": "` + strings.Repeat("x", 1<<20): "at most 1048576 are expected",
		strings.Repeat(`{"a":`, 1000):          "nested more than 64",
	} {
		put(text)
		if err := CompareConfig(dir, []byte(`{"n_layer": 16}`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	put(`{"n": 9007199254740993}`)
	if err := CompareConfig(dir, []byte(`{"n": 9007199254740992}`)); err == nil {
		t.Error("whole numbers that only float64 holds equal")
	}
	if err := CompareConfig(t.TempDir(), []byte(`{}`)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no config.json: %v", err)
	}
}
