package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// HuggingFace says how a family names its weights and settings in Hugging Face files. It comes from a preset's YAML.
type HuggingFace struct {
	ModelType    string              `yaml:"model_type"`                            // config.json's model_type
	Architecture string              `yaml:"architecture"`                          // config.json's architectures[0]
	Prefix       string              `yaml:"prefix"`                                // of the file's names, which files of the model without its head may lack
	Config       map[string]string   `yaml:"config"`                                // config.json's keys; see Spec.HuggingFaceConfig for their texts
	Attention    string              `yaml:"attention" enum:"causal|uniform|mixed"` // what config.json can say: causal; or one sliding window for all layers; or for some
	Free         []string            `yaml:"free"`                                  // settings that config.json can vary inside the preset's fixed section, as norm.eps
	Weights      map[string]string   `yaml:"weights"`                               // tfc's weight to the file's; {layer} stands for the layer's number
	Transposed   []string            `yaml:"transposed"`                            // tfc's names of matrices stored [in, out] instead of [out, in]
	Fused        map[string][]string `yaml:"fused"`                                 // a file's weight to the tfc weights it holds, as rows one after another
	Interleaved  []string            `yaml:"interleaved"`                           // those of Fused that hold their weights by head: the first head's rows of each, then the second's
	Ignored      []string            `yaml:"ignored"`                               // what old files hold that is no weight

	// Differs lists the settings of this spec that the family's config.json cannot express, as model.norm.kind: a file
	// exported with them would compute something else in Transformers.
	Differs []string `yaml:"-"`
}

// Compare fills in Differs: what m has otherwise than fixed, the same model with the settings that the family has fixed.
func (h *HuggingFace) Compare(m, fixed *Model) {
	h.Differs = slices.DeleteFunc(m.Differences(fixed), func(path string) bool {
		return h.varies(path, m.Settings()[path])
	})
	for path, v := range m.Settings() {
		if _, byLayer := v.([]any); byLayer && path != "attention" {
			h.Differs = append(h.Differs, path)
		}
	}
	if !h.saysAttention(m) {
		h.Differs = append(h.Differs, "attention")
	}
	slices.Sort(h.Differs)
	h.Differs = slices.Compact(h.Differs)
}

// varies says whether config.json can say that the setting at path has a value.
func (h *HuggingFace) varies(path string, value any) bool {
	for _, free := range h.Free {
		name, values, limited := strings.Cut(free, "=")
		if name == path {
			return !limited || slices.Contains(strings.Split(values, "|"), fmt.Sprint(value))
		}
	}
	return false
}

// saysAttention says whether config.json can express the attention of all layers.
func (h *HuggingFace) saysAttention(m *Model) bool {
	windows := map[int]bool{}
	for _, p := range m.Attention { // as many as there are, which are not yet checked to be those of the layers
		if p.Op != "causal" && p.windowOf() == 0 {
			return false
		}
		windows[p.windowOf()] = true
	}
	switch h.Attention {
	case "causal":
		return len(windows) == 1 && windows[0]
	case "uniform":
		return len(windows) == 1
	}
	return len(windows) == 1 || len(windows) == 2 && windows[0]
}

// Placement says where a file holds one weight. Row r of the weight, as [out, in], is row
// Row + r/Group*Stride + r%Group of the file's tensor, which has Rows rows; Group 0 means that the weight is the whole
// tensor. A vector is a matrix of one column.
type Placement struct {
	File       string // the tensor's name
	Transposed bool   // the file has the tensor as [in, out]
	Rows       int
	Row        int
	Group      int
	Stride     int
}

// Place returns where the family's files hold a weight of m, such as wte or layers.3.q.weight. ok is false for a weight
// that the family does not have.
func (h *HuggingFace) Place(weight string, m *Model) (p Placement, ok bool) {
	name, layer := weight, 0
	if rest, in := strings.CutPrefix(weight, "layers."); in {
		number, role, _ := strings.Cut(rest, ".")
		l, err := strconv.Atoi(number)
		if err != nil {
			return p, false
		}
		name, layer = "layers."+role, l
	}
	p.Transposed = slices.Contains(h.Transposed, name)
	if file, whole := h.Weights[name]; whole {
		p.File = atLayer(file, layer)
		return p, true
	}
	for file, parts := range h.Fused {
		at := slices.Index(parts, name)
		if at < 0 {
			continue
		}
		p.File = atLayer(file, layer)
		for i, part := range parts {
			if i < at {
				p.Row += m.rows(part, layer)
			}
			p.Rows += m.rows(part, layer)
		}
		p.Group, p.Stride = m.rows(name, layer), m.rows(name, layer)
		if slices.Contains(h.Interleaved, file) {
			p.Group, p.Stride, p.Row = m.HeadDim, len(parts)*m.HeadDim, at*m.HeadDim
		}
		return p, true
	}
	return p, false
}

func atLayer(file string, layer int) string {
	return strings.ReplaceAll(file, "{layer}", strconv.Itoa(layer))
}

// rows returns how many rows a fused part has, as [out, in].
func (m *Model) rows(part string, layer int) int {
	switch role := strings.Split(part, ".")[1]; role {
	case "q":
		return m.NumHeads.At(layer) * m.HeadDim
	case "k", "v":
		return m.NumKVHeads.At(layer) * m.HeadDim
	case "gate", "up":
		return m.IntermediateSize.At(layer)
	}
	panic("spec: a fused part must be q, k, v, gate or up, not " + part)
}
