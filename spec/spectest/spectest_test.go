package spectest_test

import (
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/spec/spectest"
)

// TestRandomSpecsAreValid also checks that the seeds reach every word of the model section's language.
func TestRandomSpecsAreValid(t *testing.T) {
	words := []string{"rope", "alibi", "learned", "none", "yarn", "ntk", "llama3", "linear", "interleaved", "fraction", "window", "global", "stride",
		"prefix", "block", "post", "both", "parallel", "parallel_shared", "layernorm", "rmsnorm", "offset", "over: all", "relu2glu", "head: true",
		"tokens(", "every(", "auto(", "full", "zeros", "decay_on: all"}
	var all strings.Builder
	for seed := range uint64(300) {
		text := spectest.Random(seed)
		all.WriteString(text)
		if _, err := parser.Parse("random.yaml", []byte(text)); err != nil {
			t.Errorf("seed %d: %v\n%s", seed, err, text)
		}
		if again := spectest.Random(seed); again != text {
			t.Errorf("seed %d gives two specs", seed)
		}
	}
	for _, w := range words {
		if !strings.Contains(all.String(), w) {
			t.Errorf("no spec has %s", w)
		}
	}
	for _, c := range []string{"gelu", "gelu_tanh", "relu", "relu2", "silu", "swiglu", "geglu", "geglu_tanh", "reglu"} {
		if !strings.Contains(all.String(), "activation: "+c+"\n") {
			t.Errorf("no spec has the activation %s", c)
		}
	}
}
