package spec

import (
	"fmt"
	"reflect"
	"strings"
)

// Settings returns the model's settings by path, as norm.eps, in plain values: int, float64, bool, string; attention
// patterns as text; a list of such values where layers differ.
func (m *Model) Settings() map[string]any {
	out := map[string]any{}
	flatten(reflect.ValueOf(m).Elem(), "", out)
	return out
}

// flatten adds the values under path.
func flatten(v reflect.Value, path string, out map[string]any) {
	switch x := v.Interface().(type) {
	case Pattern:
		out[path] = x.String()
		return
	case int, float64, bool, string:
		out[path] = x
		return
	}
	if v.Kind() == reflect.Slice {
		flattenLayers(v, path, out)
		return
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := f.Tag.Get("yaml") + f.Tag.Get("arg")
		if f.Tag.Get("call") != "" {
			key = "kind"
		}
		flatten(v.Field(i), strings.TrimPrefix(path+"."+key, "."), out)
	}
}

// flattenLayers adds a per-layer value: once where all layers have it, else as a list.
func flattenLayers(v reflect.Value, path string, out map[string]any) {
	layers := make([]map[string]any, v.Len())
	for i := range layers {
		layers[i] = map[string]any{}
		flatten(v.Index(i), path, layers[i])
	}
	for key, first := range layers[0] {
		all, same := make([]any, len(layers)), true
		for i, l := range layers {
			all[i] = l[key]
			same = same && l[key] == first
		}
		if out[key] = first; !same {
			out[key] = all
		}
	}
}

// Differences lists the paths at which the settings of two models of the same size differ.
func (m *Model) Differences(other *Model) (paths []string) {
	a, b := m.Settings(), other.Settings()
	for path := range a {
		if fmt.Sprint(a[path]) != fmt.Sprint(b[path]) {
			paths = append(paths, path)
		}
	}
	return paths
}
