package parser

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/ir"
)

const smallSpec = `
model:
  preset: llama
  vocab_size: 40
  hidden_size: 16
  num_layers: 3
  num_heads: 4
  num_kv_heads: 2
  intermediate_size: "[24, 24, 32]"
  max_position_embeddings: 12
  attention: "[causal, causal & window(3), causal]"
tokenizer: tokenizer.json
train: {batch: 4, micro_batch: 2, context: 8}
`

func TestPrintedIRParsesBack(t *testing.T) {
	s, err := Parse("small.yaml", []byte(smallSpec))
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range ir.Jobs {
		f := ir.Build(s, job)
		if err := ir.Verify(f); err != nil {
			t.Fatal(err)
		}
		text := ir.Print(f)
		g, err := IR(job, text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(text, ir.Print(g)); diff != "" {
			t.Errorf("%s: print ∘ parse changes the text (-first +second):\n%s", job, diff)
		}
	}
}
