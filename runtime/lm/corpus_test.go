package lm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The text comes from where the settings say, and what is held out is not learned.
func TestWhereTheTextComesFrom(t *testing.T) {
	root := fakeRoot(t)
	writeText(t, filepath.Join(root, "held"), "two")
	first := trained(t, fakeConfig(nil))
	if err := first.Tokenizer().Save(filepath.Join(root, "own.json")); err != nil {
		t.Fatal(err)
	}
	change := func(f func(c *Config)) Config {
		c := fakeConfig(nil)
		f(&c)
		return c
	}
	hashes := map[string]string{}
	for _, c := range []struct {
		name string
		cfg  Config
		o    TrainOptions
	}{
		{"files and a share", fakeConfig(nil), TrainOptions{}},
		{"another share", change(func(c *Config) { c.Data.EvalShare = 0.5 }), TrainOptions{}},
		{"files held out", change(func(c *Config) { c.Data.EvalShare, c.Data.EvalFiles = 0, []string{"held/text/*.txt"} }), TrainOptions{}},
		{"stories", change(func(c *Config) { c.Data.Files, c.Data.Stories = nil, Stories{Count: 30, Seed: 3} }), TrainOptions{}},
		{"files instead of stories", change(func(c *Config) { c.Data.Files, c.Data.Stories = nil, Stories{Count: 30, Seed: 3} }),
			TrainOptions{Data: []string{"held/text/a.txt"}}},
	} {
		run := filepath.Join(t.TempDir(), "run")
		c.o.Run, c.o.Root, c.o.Steps = run, root, 1
		m := fakeModel(t, c.cfg, 1)
		mustTrain(t, m, t.Context(), c.o)
		r, err := m.openRun(t.Context(), c.o)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := hashes[r.dataHash]; ok {
			t.Errorf("%s and %s are the same text", c.name, other)
		}
		hashes[r.dataHash] = c.name
		whole := make([]int32, len(r.tokens))
		if err := r.learn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.loader.Batch(r.step, 0, whole, make([]int32, len(whole))); !slices.Equal(whole, r.tokens) {
			t.Errorf("%s: the micro-batches are not the batch", c.name)
		}
		trainDocs, evalDocs, err := texts(t.Context(), c.cfg.Data, root, c.o.Data)
		if err != nil || trainDocs.Bytes() == 0 || evalDocs.Bytes() == 0 {
			t.Errorf("%s: %v", c.name, err)
		}
		r.close()
		if e, err := m.Evaluate(t.Context(), EvalOptions{Root: root}); err != nil || e.Tokens == 0 {
			t.Errorf("%s: %+v, %v", c.name, e, err)
		}
	}

	// Another seed, another order. Another text held out, other data.
	held := change(func(c *Config) { c.Data.EvalShare, c.Data.EvalFiles = 0, []string{"held/text/*.txt"} })
	var tokens [3][]int32
	var hash [3]string
	for i, seed := range []uint64{1, 2, 1} {
		if i == 2 {
			writeText(t, filepath.Join(root, "held"), "three")
		}
		r, err := fakeModel(t, held, seed).openRun(t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root})
		if err == nil {
			err = r.learn(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		tokens[i], hash[i] = r.tokens, r.dataHash
		r.close()
	}
	if slices.Equal(tokens[0], tokens[1]) || !slices.Equal(tokens[0], tokens[2]) {
		t.Error("the order does not come from the seed")
	}
	if hash[0] != hash[1] || hash[0] == hash[2] {
		t.Errorf("data %v", hash)
	}

	own := change(func(c *Config) { c.Tokenizer.File = "own.json" })
	m := fakeModel(t, own, 1)
	mustTrain(t, m, t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root, Data: []string{"held/text/a.txt"}, Steps: 1})
	if m.Tokenizer().Hash() != first.Tokenizer().Hash() {
		t.Error("the tokenizer of the spec was not used")
	}
	if err := os.WriteFile(filepath.Join(root, "own.json"), []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"own.json", "none.json"} {
		own.Tokenizer.File = file
		_, err := fakeModel(t, own, 1).Train(t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root})
		if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), file) {
			t.Errorf("tokenizer %s: %v", file, err)
		}
	}

	none := change(func(c *Config) { c.Data.EvalShare = 0 })
	if _, err := trained(t, none).Evaluate(t.Context(), EvalOptions{Root: root}); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "data.eval") {
		t.Errorf("evaluating on nothing: %v", err)
	}
	if _, err := first.Evaluate(t.Context(), EvalOptions{Root: root, Data: []string{"x*"}}); !errors.Is(err, ErrFile) {
		t.Errorf("evaluating on files that are not there: %v", err)
	}
}

// Where the first positions of a sequence are not learned, they are not evaluated either.
func TestLossFrom(t *testing.T) {
	root := fakeRoot(t)
	cfg := fakeConfig(nil)
	all, err := trained(t, cfg).Evaluate(t.Context(), EvalOptions{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	cfg.LossFrom = 12
	later, err := trained(t, cfg).Evaluate(t.Context(), EvalOptions{Root: root})
	if err != nil || later.Tokens > all.Tokens/3 || later.Tokens < all.Tokens/5 {
		t.Errorf("%d of %d tokens, %v", later.Tokens, all.Tokens, err)
	}
	ignored := 0
	m := fakeModel(t, cfg, 1)
	r, err := m.openRun(t.Context(), TrainOptions{Run: filepath.Join(t.TempDir(), "run"), Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, target := range r.targets {
		if target < 0 {
			ignored++
			if i%cfg.Train.Context >= cfg.LossFrom {
				t.Errorf("position %d is not learned", i)
			}
		}
	}
	if ignored != cfg.Train.Batch*cfg.LossFrom {
		t.Errorf("%d targets are left out", ignored)
	}
}
