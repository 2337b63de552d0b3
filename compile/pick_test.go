package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/parser"
)

// A vocabulary that is too large for the kernels of sampling makes a program all the same; its tokens are picked on the host.
func TestPickByVocabulary(t *testing.T) {
	for _, c := range []struct {
		vocab   int
		kernels []string
	}{
		{8192, []string{"sample_tokens"}}, {8193, []string{"sample_best_tokens", "sample_tokens"}},
		{1<<20 - 1, []string{"sample_best_tokens", "sample_tokens"}}, {1 << 20, nil},
	} {
		s, err := parser.Parse("large.yaml", fmt.Appendf(nil, `
model: {preset: llama, vocab_size: %d, hidden_size: 8, num_layers: 1, num_heads: 1, intermediate_size: 8, max_position_embeddings: 8}
train: {batch: 1}
target: {devices: [cuda, cpu]}
`, c.vocab))
		if err != nil {
			t.Fatal(err)
		}
		files, err := compile.Package(s, "example.com/large", "test", nil)
		if err != nil {
			t.Fatal(err)
		}
		var kernels []string
		picks := false
		for _, f := range files {
			if name, ok := strings.CutPrefix(f.Path, "kernels/sample"); ok && strings.HasSuffix(name, ".cu") {
				kernels = append(kernels, "sample"+strings.TrimSuffix(name, ".cu"))
			}
			picks = picks || f.Path == "cuda.go" && strings.Contains(string(f.Data), "Pick:")
		}
		if fmt.Sprint(kernels) != fmt.Sprint(c.kernels) || picks != (c.kernels != nil) {
			t.Errorf("a vocabulary of %d: kernels %v, a job to pick: %v", c.vocab, kernels, picks)
		}
	}
}
