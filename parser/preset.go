package parser

import (
	"fmt"
	"path"
	"reflect"
	"sort"
	"strings"
	"sync"

	"github.com/tfc-dev/tfc/spec"
	"gopkg.in/yaml.v3"
)

// Preset is a family of models whose settings a spec can start from.
type Preset struct {
	Name string // model.preset in a spec
	Doc  string // one line
}

// Presets lists the presets by name.
func Presets() []Preset {
	var list []Preset
	for _, name := range presetNames() {
		list = append(list, Preset{name, presets()[name].doc})
	}
	return list
}

// preset is a preset's file: a model section, and the family's names in Hugging Face files.
type preset struct {
	doc         string
	model       *yaml.Node
	fixed       *yaml.Node // a model section: what the family's config.json cannot say otherwise
	huggingFace *spec.HuggingFace
}

func presetNames() []string {
	var names []string
	for name := range presets() {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// presets reads the embedded files, which the tests hold free of errors.
var presets = sync.OnceValue(func() map[string]*preset {
	files, err := spec.PresetFiles.ReadDir("presets")
	if err != nil {
		panic("parser: " + err.Error())
	}
	all := map[string]*preset{}
	for _, f := range files {
		text, err := spec.PresetFiles.ReadFile(path.Join("presets", f.Name()))
		if err != nil {
			panic("parser: " + err.Error())
		}
		p, errs := readPreset(f.Name(), text)
		if errs != nil {
			panic(fmt.Sprintf("parser: preset %s", errs))
		}
		all[strings.TrimSuffix(f.Name(), ".yaml")] = p
	}
	return all
})

// readPreset reads a preset's file. The model section is checked when a spec uses it.
func readPreset(file string, text []byte) (*preset, spec.Errors) {
	doc, errs := readYAML(file, text)
	if errs != nil {
		return nil, errs
	}
	var top struct {
		Doc         string           `yaml:"doc"`
		HuggingFace spec.HuggingFace `yaml:"huggingface"`
	}
	p := &preset{huggingFace: &top.HuggingFace}
	root := *doc.root
	root.Content = nil
	for i := 0; i+1 < len(doc.root.Content); i += 2 {
		switch doc.root.Content[i].Value {
		case "model":
			p.model = doc.root.Content[i+1]
		case "fixed":
			p.fixed = doc.root.Content[i+1]
		default:
			root.Content = append(root.Content, doc.root.Content[i:i+2]...)
		}
	}
	if p.model == nil || p.fixed == nil {
		return nil, spec.Errors{{Pos: spec.Pos{File: file, Line: 1, Col: 1}, Text: "a preset has the sections model and fixed"}}
	}
	d := newDecoder(doc, doc.src)
	sc := d.scope(reflect.ValueOf(&top).Elem(), []source{{&root, fromSpec, nil}}, nil, "")
	for _, e := range sc.order {
		d.decode(e, sc)
	}
	p.doc = top.Doc
	return p, d.errs
}
