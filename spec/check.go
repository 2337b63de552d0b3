package spec

import (
	"fmt"
	"go/token"
	"math"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Check finds every rule of the language that a spec breaks. Ranges of single numbers are in the struct tags; the rules
// here say how values fit together.
func Check(s *Spec) Errors {
	c := &checker{s: s, m: &s.Model, t: &s.Train}
	for _, r := range lengthRules {
		r.check(c)
	}
	if len(c.errs) == 0 { // the other rules look at each layer
		for _, r := range rules {
			r.check(c)
		}
	}
	return c.errs.Sort()
}

// Rules lists the names of the rules; the error tests have an example of each under its name.
func Rules() (names []string) {
	for _, r := range slices.Concat(lengthRules, rules) {
		names = append(names, r.name)
	}
	return names
}

// rule is one thing that a spec must keep.
type rule struct {
	name  string
	check func(*checker)
}

var lengthRules = []rule{
	{"per-layer-length", checkLengths},
}

var rules = []rule{
	{"package-name", checkName},
	{"finite", checkFinite},
	{"kv-heads-divide", checkKVHeads},
	{"rotated-even", checkRotated},
	{"scaling", checkScaling},
	{"learned-everywhere", checkLearned},
	{"pattern-causal", checkCausal},
	{"pattern-self", checkSelf},
	{"prefix-targets", checkPrefix},
	{"parallel-norm", checkParallel},
	{"tied-head-bias", checkHeadBias},
	{"positive", checkPositive},
	{"vocabulary", checkVocabulary},
	{"parameters", checkParameters},
	{"local-paths", checkPaths},
	{"eval-share", checkEvalShare},
	{"how-long", checkHowLong},
	{"context", checkContext},
	{"batch-tokens", checkBatchTokens},
	{"micro-batch", checkMicroBatch},
	{"step-size", checkStepSize},
	{"betas", checkBetas},
	{"schedule-phases", checkPhases},
	{"schedule-fits", checkSchedule},
	{"checkpoint-layers", checkCheckpointing},
	{"target-twice", checkTarget},
	{"fp8-arch", checkFP8},
}

type checker struct {
	s    *Spec
	m    *Model
	t    *Train
	errs Errors

	given bool // the last error stands at a value that the spec gives
}

var settingPath = regexp.MustCompile(`^[^.\[]*(\.[^.\[]*)?`)

// fail reports an error at the value at path.
func (c *checker) fail(path, format string, args ...any) *Error {
	if c.s.Source != nil {
		_, c.given = c.s.Source.Pos[settingPath.FindString(path)]
	}
	e := &Error{Pos: c.s.Source.At(path), Text: fmt.Sprintf(format, args...)}
	c.errs = append(c.errs, e)
	return e
}

// note points an error to the value at path too, where the spec has it. An error at a value that the spec does not
// give itself moves there.
func (c *checker) note(e *Error, path, format string, args ...any) {
	if c.s.Source == nil {
		return
	}
	p, ok := c.s.Source.Pos[path]
	switch {
	case !ok || p == e.Pos:
	case c.given:
		e.Notes = append(e.Notes, Note{p, fmt.Sprintf(format, args...)})
	default:
		e.Pos = p
	}
}

// layers calls f for the value of each layer that a per-layer setting tells apart.
func layers[T any](p PerLayer[T], path string, f func(l int, path string)) {
	if len(p) == 1 {
		f(0, path)
		return
	}
	for l := range p {
		f(l, fmt.Sprintf("%s[%d]", path, l))
	}
}

func checkLengths(c *checker) {
	length := func(path string, n int) {
		if n != 1 && n != c.m.NumLayers {
			e := c.fail("model."+path, "%s has %d values for %d layers", path, n, c.m.NumLayers)
			c.note(e, "model.num_layers", "num_layers is here")
		}
	}
	length("num_heads", len(c.m.NumHeads))
	length("num_kv_heads", len(c.m.NumKVHeads))
	length("intermediate_size", len(c.m.IntermediateSize))
	length("positions", len(c.m.Positions))
	length("attention", len(c.m.Attention))
}

var packageName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func checkName(c *checker) {
	n := c.s.Name
	if packageName.MatchString(n) && !token.IsKeyword(n) && n != "main" && n != "init" && len(n) <= 64 && !strings.HasSuffix(n, "_test") {
		return
	}
	c.fail("name", "name %q cannot name a Go package; use small letters, digits and _, starting with a letter, and no word of Go's", n)
}

// checkFinite guards specs that were not parsed; the parser makes finite numbers only.
func checkFinite(c *checker) {
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Float64:
			if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
				c.fail(path, "%s must be a finite number", path)
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				f := v.Type().Field(i)
				if key := f.Tag.Get("yaml") + f.Tag.Get("arg"); key != "-" {
					walk(v.Field(i), strings.Trim(path+"."+key, "."))
				}
			}
		}
	}
	walk(reflect.ValueOf(*c.s), "")
}

func checkKVHeads(c *checker) {
	for l := range max(len(c.m.NumHeads), len(c.m.NumKVHeads)) {
		heads, kv := c.m.NumHeads.At(l), c.m.NumKVHeads.At(l)
		if kv > 0 && heads%kv == 0 {
			continue
		}
		e := c.fail(layerPath("model.num_kv_heads", len(c.m.NumKVHeads), l), "num_kv_heads must divide num_heads, and %d does not divide %d", kv, heads)
		c.note(e, "model.num_heads", "num_heads is here")
		return
	}
}

// layerPath is the path of a per-layer setting of n values at layer l.
func layerPath(path string, n, l int) string {
	if n == 1 {
		return path
	}
	return fmt.Sprintf("%s[%d]", path, l)
}

func checkRotated(c *checker) {
	layers(c.m.Positions, "model.positions", func(l int, path string) {
		p := c.m.Positions[l]
		if n := p.Rotated(c.m.HeadDim); p.Kind == "rope" && (n%2 != 0 || n < 2) {
			e := c.fail(path, "rope turns numbers in pairs, and of a head's %d it would turn %d; change head_dim or fraction", c.m.HeadDim, n)
			c.note(e, "model.head_dim", "head_dim is here")
		}
	})
}

func checkScaling(c *checker) {
	layers(c.m.Positions, "model.positions", func(l int, path string) {
		p := c.m.Positions[l]
		s := p.Scaling
		path += ".scaling"
		switch {
		case p.Kind != "rope":
		case s.Kind == "llama3" && (s.LowFreqFactor <= 0 || s.HighFreqFactor <= s.LowFreqFactor):
			c.fail(path, "llama3 scaling needs 0 < low_freq_factor < high_freq_factor, not %g and %g", s.LowFreqFactor, s.HighFreqFactor)
		case s.Kind == "yarn" && (s.BetaSlow <= 0 || s.BetaFast <= s.BetaSlow):
			c.fail(path, "yarn scaling needs 0 < beta_slow < beta_fast, not %g and %g", s.BetaSlow, s.BetaFast)
		case s.Kind == "yarn" && s.AttentionFactor < 0:
			c.fail(path, "attention_factor must be at least 0, not %g", s.AttentionFactor)
		case (s.Kind == "yarn" || s.Kind == "ntk") && p.Theta <= 1:
			c.fail(path, "%s scaling needs theta above 1, not %g", s.Kind, p.Theta)
		case s.Kind == "ntk" && p.Rotated(c.m.HeadDim) <= 2:
			c.fail(path, "ntk scaling needs more than one rotated pair in a head")
		case (s.Kind == "yarn" || s.Kind == "llama3") && s.OriginalMax > c.m.MaxPositionEmbeddings:
			e := c.fail(path, "original_max_position_embeddings is %d, more than max_position_embeddings, %d", s.OriginalMax, c.m.MaxPositionEmbeddings)
			c.note(e, "model.max_position_embeddings", "max_position_embeddings is here")
		}
	})
}

func checkLearned(c *checker) {
	learned := func(p Positions) bool { return p.Kind == "learned" }
	if i := slices.IndexFunc(c.m.Positions, learned); i >= 0 && len(c.m.Positions) > 1 &&
		slices.ContainsFunc(c.m.Positions, func(p Positions) bool { return !learned(p) }) {
		c.fail(layerPath("model.positions", len(c.m.Positions), i), "learned positions are added to the embeddings, before all layers; use them for all layers or for none")
	}
}

// seesFuture says whether a query may see later keys other than those of a prefix.
func (p Pattern) seesFuture() bool {
	switch p.Op {
	case "and":
		return !slices.ContainsFunc(p.Args, func(a Pattern) bool { return !a.seesFuture() })
	case "or":
		return slices.ContainsFunc(p.Args, Pattern.seesFuture)
	case "window":
		return p.N > 1 || p.Block > 1
	case "global", "stride":
		return true
	}
	return false
}

func checkCausal(c *checker) {
	layers(c.m.Attention, "model.attention", func(l int, path string) {
		if p := c.m.Attention[l]; p.seesFuture() {
			text := p.String()
			if p.Op == "or" {
				text = "(" + text + ")"
			}
			c.fail(path, "under %s a token sees the tokens that it must predict; write causal & %s", p, text)
		}
	})
}

// seesSelf says whether every query sees its own key.
func (p Pattern) seesSelf() bool {
	switch p.Op {
	case "and":
		return !slices.ContainsFunc(p.Args, func(a Pattern) bool { return !a.seesSelf() })
	case "or":
		return slices.ContainsFunc(p.Args, Pattern.seesSelf)
	}
	return p.Op != "global"
}

func checkSelf(c *checker) {
	layers(c.m.Attention, "model.attention", func(l int, path string) {
		if p := c.m.Attention[l]; !p.seesSelf() {
			c.fail(path, "under %s some tokens do not see themselves; add | window(1) to the global part", p)
		}
	})
}

func checkPrefix(c *checker) {
	layers(c.m.Attention, "model.attention", func(l int, path string) {
		if n := c.m.Attention[l].Prefix(); n >= c.t.Context {
			e := c.fail(path, "prefix(%d) leaves nothing to learn in sequences of %d tokens; make it shorter than train.context", n, c.t.Context)
			c.note(e, "train.context", "train.context is here")
		}
	})
}

func checkParallel(c *checker) {
	if c.m.Residual != "serial" && c.m.NormPlacement != "pre" {
		e := c.fail("model.residual", "%s sublayers both start from the block's input, so norm_placement must be pre, not %s", c.m.Residual, c.m.NormPlacement)
		c.note(e, "model.norm_placement", "norm_placement is here")
	}
}

func checkHeadBias(c *checker) {
	if c.m.TieWordEmbeddings && c.m.Bias.Head {
		e := c.fail("model.bias.head", "a tied head is the embedding table, which has no bias; drop the bias or untie the head")
		c.note(e, "model.tie_word_embeddings", "the head is tied here")
	}
}

func checkPositive(c *checker) {
	positive := func(path string, x float64) {
		if x <= 0 {
			c.fail(path, "%s must be more than 0, not %g", path[strings.LastIndexByte(path, '.')+1:], x)
		}
	}
	positive("model.norm.eps", c.m.Norm.Eps)
	if c.m.QKNorm.Kind != "none" {
		positive("model.qk_norm.eps", c.m.QKNorm.Eps)
	}
	positive("model.attention_multiplier", c.m.AttentionMultiplier)
	positive("model.embedding_multiplier", c.m.EmbeddingMultiplier)
	positive("model.logit_multiplier", c.m.LogitMultiplier)
	positive("model.residual_multiplier", c.m.ResidualMultiplier)
	positive("generate.top_p", c.s.Generate.TopP)
}

// minVocabulary is a token for each byte and one for the end of a text.
const minVocabulary = 257

func checkVocabulary(c *checker) {
	if c.s.Tokenizer.File == "" && c.m.VocabSize < minVocabulary {
		c.fail("model.vocab_size", "vocab_size must be at least %d, one token a byte and the end of text, not %d", minVocabulary, c.m.VocabSize)
	}
}

// maxParameters bounds models, so that sizes in bytes of weights, gradients and optimizer states stay far from overflow.
const maxParameters = 1 << 44

func checkParameters(c *checker) {
	if n := c.m.Parameters(); n > maxParameters {
		c.fail("model", "the model has more than %d parameters; check its sizes", maxParameters)
		return
	}
	widest := product(c.t.MicroBatch, c.t.Context, max(c.m.VocabSize, c.m.HiddenSize))
	for l := range c.m.NumLayers {
		widest = max(widest, product(c.t.MicroBatch, c.t.Context, c.m.IntermediateSize.At(l)),
			product(c.t.MicroBatch, c.t.Context, c.m.NumHeads.At(l), max(c.m.HeadDim, c.t.Context)))
	}
	if widest > maxParameters {
		c.fail("train.micro_batch", "one activation would have more than %d numbers; make micro_batch or context smaller", maxParameters)
	}
}

func checkPaths(c *checker) {
	local := func(at, p string) {
		switch {
		case p == "" || !filepath.IsLocal(p) || strings.Contains(p, `\`) || path.IsAbs(p):
			c.fail(at, "path %q must be relative and stay in the spec's folder, with / between its parts", p)
		case !validPattern(p):
			c.fail(at, "%q is not a pattern of files; see path.Match for *, ? and [...]", p)
		}
	}
	for i, f := range c.s.Data.Train.Files {
		local(layerPath("data.train", 0, i), f)
	}
	for i, f := range c.s.Data.Eval.Files {
		local(layerPath("data.eval", 0, i), f)
	}
	if f := c.s.Tokenizer.File; f != "" {
		local("tokenizer.file", f)
	}
}

func validPattern(p string) bool {
	_, err := path.Match(p, "")
	return err == nil
}

func checkEvalShare(c *checker) {
	if e := c.s.Data.Eval; len(e.Files) == 0 && (e.Share <= 0 || e.Share > 0.5) {
		c.fail("data.eval", "eval must hold out more than 0%% and at most 50%% of the text, not %g%%", e.Share*100)
	}
}

func checkHowLong(c *checker) {
	if (c.t.Steps > 0) == (c.t.Epochs > 0) {
		c.fail("train.steps", "train needs steps or epochs above 0, and not both; steps is %d and epochs %g", c.t.Steps, c.t.Epochs)
	}
}

func checkContext(c *checker) {
	if c.t.Context > c.m.MaxPositionEmbeddings {
		e := c.fail("train.context", "context is %d, more than max_position_embeddings, %d", c.t.Context, c.m.MaxPositionEmbeddings)
		c.note(e, "model.max_position_embeddings", "max_position_embeddings is here")
	}
}

func checkBatchTokens(c *checker) {
	if b := c.t.Batch; b.Kind == "tokens" && (b.N%c.t.Context != 0 || b.N < c.t.Context) {
		e := c.fail("train.batch", "a batch of %d tokens is not a whole number of sequences of %d", b.N, c.t.Context)
		if up := (b.N/c.t.Context + 1) * c.t.Context; up > 0 {
			e.Suggestion = fmt.Sprintf("tokens(%d)", up)
		}
		c.note(e, "train.context", "context is here")
	}
}

func checkMicroBatch(c *checker) {
	n := c.t.Batch.Sequences(c.t.Context)
	if c.t.MicroBatch > 0 && n > 0 && n%c.t.MicroBatch != 0 {
		e := c.fail("train.micro_batch", "micro_batch must divide the batch, and %d does not divide %d sequences", c.t.MicroBatch, n)
		c.note(e, "train.batch", "the batch is here")
	}
}

func checkStepSize(c *checker) {
	if o := c.t.Optimizer; o.LR <= 0 {
		c.fail("train.optimizer.lr", "lr must be more than 0, not %g", o.LR)
	} else if o.Eps <= 0 {
		c.fail("train.optimizer.eps", "eps must be more than 0, not %g", o.Eps)
	}
}

func checkBetas(c *checker) {
	if n := len(c.t.Optimizer.Betas); n != 2 {
		c.fail("train.optimizer.betas", "betas are two numbers, as [0.9, 0.95], not %d", n)
	}
}

func checkPhases(c *checker) {
	for i, p := range c.t.Schedule {
		if i < len(c.t.Schedule)-1 && p.Steps == (Count{}) {
			c.fail(fmt.Sprintf("train.schedule[%d]", i), "%s must say how many steps it takes, as %s(100); only the last phase may leave that out", p.Kind, p.Kind)
		}
	}
}

func checkSchedule(c *checker) {
	share, steps := 0.0, 0
	for _, p := range c.t.Schedule {
		share += p.Steps.Share
		steps = addSteps(steps, p.Steps.N)
	}
	switch {
	case share > 1+1e-9:
		c.fail("train.schedule", "the phases take %g%% of the steps", share*100)
	case c.t.Steps > 0 && float64(steps)+share*float64(c.t.Steps) > float64(c.t.Steps)+0.5:
		e := c.fail("train.schedule", "the phases take %d steps, and the training has %d", steps+int(share*float64(c.t.Steps)+0.5), c.t.Steps)
		c.note(e, "train.steps", "steps is here")
	}
}

// addSteps adds without overflow.
func addSteps(a, b int) int {
	if a > math.MaxInt/2-b {
		return math.MaxInt / 2
	}
	return a + b
}

func checkCheckpointing(c *checker) {
	if k := c.t.Checkpointing; k.Kind == "every" && k.N > c.m.NumLayers {
		e := c.fail("train.checkpointing", "every(%d) is more than the model's %d layers", k.N, c.m.NumLayers)
		c.note(e, "model.num_layers", "num_layers is here")
	}
}

func checkTarget(c *checker) {
	twice := func(path string, words []string) {
		for i, w := range words {
			if first := slices.Index(words, w); first < i {
				e := c.fail(fmt.Sprintf("%s[%d]", path, i), "%s is listed twice", w)
				c.note(e, fmt.Sprintf("%s[%d]", path, first), "it is first listed here")
			}
		}
	}
	twice("target.devices", c.s.Target.Devices)
	twice("target.arch", c.s.Target.Arch)
}

// checkFP8 wants GPUs that have products in 8 bits. A CPU takes it as bf16.
func checkFP8(c *checker) {
	if c.t.Precision != "fp8" || !slices.Contains(c.s.Target.Devices, "cuda") {
		return
	}
	for i, arch := range c.s.Target.Arch {
		if !slices.Contains(FP8Arch, arch) {
			e := c.fail("train.precision", "fp8 needs GPUs that multiply 8 bits, and %s does not: target.arch may list %s", arch, strings.Join(FP8Arch, " and "))
			c.note(e, fmt.Sprintf("target.arch[%d]", i), "%s is here", arch)
			return
		}
	}
}

// FP8Arch are the architectures that multiply operands in 8 bits.
var FP8Arch = []string{"sm_89", "sm_90a"}
