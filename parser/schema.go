package parser

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	goparser "go/parser"
	"go/token"
	"reflect"
	"regexp"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Schema returns the JSON Schema (draft 2020-12) of specs, made from the struct tags and comments of package spec, so that
// editors complete and check them. It accepts every spec that Parse accepts when calls that hold ": " are quoted, as
// Format writes them; what lies inside expressions is checked by their shape only.
func Schema() []byte {
	g := &schemaMaker{docs: languageDocs()}
	root := g.mapping(reflect.TypeFor[spec.Spec]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "tfc spec"
	root["required"] = []string{"model"}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		panic("parser: " + err.Error())
	}
	return b.Bytes()
}

type object = map[string]any

type schemaMaker struct{ docs map[string]string }

// languageDocs reads the comments of package spec: Type or Type.Field to text.
func languageDocs() map[string]string {
	docs := map[string]string{}
	files, err := spec.LanguageFiles.ReadDir(".")
	if err != nil {
		panic("parser: " + err.Error())
	}
	for _, f := range files {
		text, err := spec.LanguageFiles.ReadFile(f.Name())
		if err != nil {
			panic("parser: " + err.Error())
		}
		tree, err := goparser.ParseFile(token.NewFileSet(), f.Name(), text, goparser.ParseComments)
		if err != nil {
			panic("parser: " + err.Error())
		}
		for _, d := range tree.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.TYPE {
				continue
			}
			for _, s := range decl.Specs {
				t := s.(*ast.TypeSpec)
				docs[t.Name.Name] = oneLine(decl.Doc.Text())
				if st, ok := t.Type.(*ast.StructType); ok {
					for _, field := range st.Fields.List {
						for _, name := range field.Names {
							docs[t.Name.Name+"."+name.Name] = oneLine(field.Comment.Text())
						}
					}
				}
			}
		}
	}
	return docs
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// mapping is the schema of a struct of keys.
func (g *schemaMaker) mapping(t reflect.Type) object {
	keys := object{}
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		s := g.field(f)
		doc := g.docs[t.Name()+"."+f.Name]
		if doc == "" {
			doc = g.docs[f.Type.Name()]
		}
		if more, ok := s["description"].(string); ok {
			doc += "; " + more
		}
		if doc != "" {
			s["description"] = doc
		}
		if text, ok := f.Tag.Lookup("default"); ok {
			s["default"] = constant(text)
		}
		keys[key] = s
	}
	return object{"type": "object", "properties": keys, "additionalProperties": false}
}

// constant is a default as JSON: a number, a boolean or a text.
func constant(text string) any {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err == nil {
		return v
	}
	return text
}

// arithmetic shapes: anything that looks like an expression on names and numbers.
const (
	arithmeticShape = `^[-+*/(),.\s0-9A-Za-z_]+$`
	listShape       = `^[^\[]*\[.*\].*$`
)

func matching(pattern, doc string) object {
	s := object{"type": "string", "pattern": pattern}
	if doc != "" {
		s["description"] = doc
	}
	return s
}

func anyOf(options ...object) object { return object{"anyOf": options} }

// field is the schema of one key's value.
func (g *schemaMaker) field(f reflect.StructField) object {
	t := f.Type
	if f.Name == "Preset" {
		return object{"enum": presetNames()}
	}
	if !isMapping(t) {
		return g.value(t, f.Tag)
	}
	s := g.mapping(t)
	for i := range t.NumField() {
		if _, bare := t.Field(i).Tag.Lookup("bare"); bare {
			return anyOf(s, g.field(t.Field(i)))
		}
	}
	return s
}

// value is the schema of a value of type t that is not a mapping.
func (g *schemaMaker) value(t reflect.Type, tag reflect.StructTag) object {
	texts := object{"type": "array", "items": object{"type": "string"}, "minItems": 1}
	switch {
	case isPerLayer(t):
		one := g.value(t.Elem(), tag)
		return anyOf(one, matching(listShape, "a list for the layers, as [a, b] * 4"), object{"type": "array", "items": one, "minItems": 1})
	case t == reflect.TypeFor[spec.Pattern]():
		_, names := constructors(t)
		return matching(`^([\s()&|]|(`+strings.Join(names, "|")+`)\b(\s*\([^()]*\))?)+$`, "patterns joined by & and |: "+strings.Join(g.usages(t), ", "))
	case t == reflect.TypeFor[spec.Schedule]():
		_, names := constructors(t.Elem())
		phase := `\s*(` + strings.Join(names, "|") + `)\b(\s*\([^()]*\))?\s*`
		return matching("^"+phase+"(->"+phase+")*$", "phases joined by ->: "+strings.Join(g.usages(t.Elem()), ", "))
	case t == reflect.TypeFor[spec.Corpus]():
		return anyOf(append(g.calls(t), object{"type": "string", "description": "a pattern of files, as texts/*.txt"}, texts)...)
	case t == reflect.TypeFor[spec.EvalSplit]():
		return anyOf(matching(`^\s*[0-9.]+%\s*$`, "a share of the training text"), object{"type": "string", "not": object{"pattern": `^[-0-9.\s]+$`}, "description": "a pattern of files"}, texts)
	}
	switch t.Kind() {
	case reflect.Int, reflect.Uint64:
		return anyOf(ranged("integer", t, tag), matching(arithmeticShape, "arithmetic on other keys"))
	case reflect.Float64:
		return anyOf(ranged("number", t, tag), matching(arithmeticShape, "arithmetic on other keys"))
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return word(tag)
	case reflect.Slice:
		return anyOf(word(tag), object{"type": "array", "items": word(tag), "minItems": 1})
	}
	options := g.calls(t)
	if kind, _ := constructors(t); kind.Tag.Get("bare") != "" {
		number := arguments(t, kind.Tag.Get("bare"))[0]
		options = append(options, g.value(number.Type, number.Tag))
	}
	return anyOf(options...)
}

func word(tag reflect.StructTag) object {
	if enum := tag.Get("enum"); enum != "" {
		return object{"enum": strings.Split(enum, "|")}
	}
	return object{"type": "string"}
}

// ranged is a number within the range of a tag.
func ranged(kind string, t reflect.Type, tag reflect.StructTag) object {
	s := object{"type": kind}
	if t.Kind() == reflect.Uint64 {
		s["minimum"] = 0
	}
	if text := tag.Get("min"); text != "" {
		s["minimum"] = constant(text)
	}
	if text := tag.Get("max"); text != "" {
		s["maximum"] = constant(text)
	}
	return s
}

// calls are the constructors of t, a schema each.
func (g *schemaMaker) calls(t reflect.Type) (options []object) {
	_, names := constructors(t)
	usages := g.usages(t)
	for i, name := range names {
		required := false
		var lines []string
		for _, f := range arguments(t, name) {
			_, optional := f.Tag.Lookup("default")
			required = required || !optional
			if doc := g.docs[t.Name()+"."+f.Name]; doc != "" {
				lines = append(lines, f.Tag.Get("arg")+": "+doc)
			}
		}
		brackets := `(\s*\(.*\))?`
		switch {
		case required:
			brackets = `\s*\(.*\)`
		case len(arguments(t, name)) == 0:
			brackets = ""
		}
		s := matching(`^\s*`+regexp.QuoteMeta(name)+brackets+`\s*$`, oneLine(usages[i]+" "+strings.Join(lines, "; ")))
		s["examples"] = []string{usages[i]}
		options = append(options, s)
	}
	return options
}

// usages writes each constructor with its arguments and their defaults.
func (g *schemaMaker) usages(t reflect.Type) (texts []string) {
	_, names := constructors(t)
	for _, name := range names {
		var parts []string
		for _, f := range arguments(t, name) {
			text, ok := f.Tag.Lookup("default")
			if !ok {
				text = sample(f)
			}
			parts = append(parts, fmt.Sprintf("%s: %s", f.Tag.Get("arg"), text))
		}
		if len(parts) > 0 {
			name += "(" + strings.Join(parts, ", ") + ")"
		}
		texts = append(texts, name)
	}
	return texts
}
