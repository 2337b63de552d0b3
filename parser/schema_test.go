package parser

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("spec.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("spec.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// readPlain reads a text as an editor does, which knows YAML only.
func readPlain(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return v
}

func TestSchemaAccepts(t *testing.T) {
	schema := compileSchema(t)
	files, err := filepath.Glob("../examples/specs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(readPlain(t, string(text))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for name, keys := range families {
		text, err := Format([]byte("model: " + strings.TrimSuffix(keys, "}") + ", preset: " + name + "}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(readPlain(t, string(text))); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSchemaRejects(t *testing.T) {
	schema := compileSchema(t)
	for _, text := range []string{
		"train: {steps: 3}", "model: 3", "model: {hiden_size: 3}", "model: {num_layers: 0}", "model: {num_layers: 20000}", "model: {hidden_size: 3.5}",
		"model: {activation: gelu_new}", "model: {norm: batchnorm}", `model: {norm: "rmsnorm(eps: 1"}`, "model: {attention: sliding(3)}",
		"model: {attention: [causal, 3]}", "model: {tie_word_embeddings: 1}", "model: {preset: resnet}", "model: {bias: {head: 1}}",
		"model: {dropout: {attention: 2}}", "model: {positions: alibi(3)}", "model: {}\ntrain: {batch: {n: 4}}", "model: {}\ntrain: {checkpointing: auto}",
		"model: {}\ntrain: {schedule: warmup => cosine}", "model: {}\ntrain: {precision: fp32}", "model: {}\ntarget: {devices: [gpu]}",
		"model: {}\ntarget: {devices: []}", "model: {}\ndata: {eval: 0.1}", "model: {}\nserve: {}", "model: {}\ntrain: {save: 3}",
	} {
		if err := schema.Validate(readPlain(t, text)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

// TestSchemaDocuments checks that every key has a description or is plain from its name, and that most have one.
func TestSchemaDocuments(t *testing.T) {
	text := string(Schema())
	for _, want := range []string{
		`"description": "width of the residual stream"`, `"default": "hidden_size / num_heads"`, `"default": 1000`, `"maximum": 10000`,
		"layernorm(eps: 1e-5, bias: true)", "warmup(steps: 0)", "base of the rotary frequencies", `"gemma2"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the schema lacks %s", want)
		}
	}
	if !bytes.Equal(Schema(), Schema()) {
		t.Error("two schemas differ")
	}
}
