package spec

import (
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestPatternAllowed(t *testing.T) {
	and := func(a ...Pattern) Pattern { return Pattern{Op: "and", Args: a} }
	or := func(a ...Pattern) Pattern { return Pattern{Op: "or", Args: a} }
	causal := Pattern{Op: "causal"}
	for _, c := range []struct {
		p    Pattern
		want string // rows of queries, columns of keys
	}{
		{causal, "x.....|xx....|xxx...|xxxx..|xxxxx.|xxxxxx"},
		{and(causal, Pattern{Op: "window", N: 2}), "x.....|xx....|.xx...|..xx..|...xx.|....xx"},
		{Pattern{Op: "window", N: 2}, "xx....|xxx...|.xxx..|..xxx.|...xxx|....xx"},
		{and(causal, or(Pattern{Op: "window", N: 1}, Pattern{Op: "global", N: 1})), "x.....|xx....|x.x...|x..x..|x...x.|x....x"},
		{and(causal, Pattern{Op: "stride", N: 2}), "x.....|.x....|x.x...|.x.x..|x.x.x.|.x.x.x"},
		{Pattern{Op: "prefix", N: 3}, "xxx...|xxx...|xxx...|xxxx..|xxxxx.|xxxxxx"},
		{and(causal, Pattern{Op: "window", N: 1, Block: 2}), "x.....|xx....|..x...|..xx..|....x.|....xx"},
		{and(causal, Pattern{Op: "global", N: 1, Block: 2}), "x.....|xx....|xx....|xx....|xx....|xx...."},
	} {
		var rows []string
		for i := range 6 {
			row := ""
			for j := range 6 {
				row += map[bool]string{true: "x", false: "."}[c.p.Allowed(i, j)]
			}
			rows = append(rows, row)
		}
		if got := strings.Join(rows, "|"); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.p, got, c.want)
		}
		future, self := false, true
		for i := range 6 {
			self = self && c.p.Allowed(i, i)
			for j := i + 1; j < 6; j++ {
				future = future || c.p.Allowed(i, j) && c.p.Op != "prefix"
			}
		}
		if c.p.seesFuture() != future || c.p.seesSelf() != self {
			t.Errorf("%s: sees the future %v and itself %v, want %v and %v", c.p, c.p.seesFuture(), c.p.seesSelf(), future, self)
		}
	}
}

func TestFrequencies(t *testing.T) {
	rope := func(s Scaling) Positions { return Positions{Kind: "rope", Theta: 10000, Fraction: 1, Scaling: s} }
	plain, m := rope(Scaling{Kind: "none"}).Frequencies(64, 1024)
	if m != 1 || len(plain) != 32 || plain[0] != 1 {
		t.Fatalf("%d frequencies from %v, scale %g", len(plain), plain[0], m)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6*math.Abs(want) {
			t.Errorf("%s: %.9g, want %.9g", what, got, want)
		}
	}
	near("pair 1", plain[1], 0.7498942093324559)
	near("pair 16", plain[16], 0.01)
	near("pair 31", plain[31], 1.333521432163324e-4)
	for i, f := range plain {
		if f != float64(float32(f)) {
			t.Errorf("pair %d is not a float32", i)
		}
	}

	linear, _ := rope(Scaling{Kind: "linear", Factor: 4}).Frequencies(64, 1024)
	near("linear", linear[5], plain[5]/4)

	// NTK: the fastest pair as before, the slowest stretched by the factor.
	ntk, _ := rope(Scaling{Kind: "ntk", Factor: 8}).Frequencies(64, 1024)
	near("ntk first", ntk[0], plain[0])
	near("ntk last", ntk[31], plain[31]/8)

	// Llama 3.1: wavelengths below original/4 stay, above original/1 are divided, between they blend.
	s := Scaling{Kind: "llama3", Factor: 8, OriginalMax: 8192, LowFreqFactor: 1, HighFreqFactor: 4}
	p := Positions{Kind: "rope", Theta: 500000, Fraction: 1}
	base, _ := p.Frequencies(128, 131072)
	p.Scaling = s
	l3, m := p.Frequencies(128, 131072)
	blended := 0
	for i := range l3 {
		switch wave := 2 * math.Pi / base[i]; {
		case wave < 2048:
			near("llama3 short", l3[i], base[i])
		case wave > 8192:
			near("llama3 long", l3[i], base[i]/8)
		default:
			blended++
			smooth := (8192/wave - 1) / 3
			near("llama3 between", l3[i], (1-smooth)*base[i]/8+smooth*base[i])
		}
	}
	if blended < 3 || m != 1 {
		t.Errorf("%d pairs blended, scale %g", blended, m)
	}

	// YaRN for 4 times 1024: pairs that turn more than 32 times in it stay, less than once are divided by 4.
	y, m := rope(Scaling{Kind: "yarn", Factor: 4, OriginalMax: 1024, BetaFast: 32, BetaSlow: 1}).Frequencies(64, 4096)
	near("yarn scale", m, 0.1*math.Log(4)+1)
	for i := range y {
		switch turns := 1024 * plain[i] / (2 * math.Pi); {
		case turns > 40:
			near("yarn fast", y[i], plain[i])
		case turns < 0.9:
			near("yarn slow", y[i], plain[i]/4)
		case y[i] > plain[i] || y[i] < plain[i]/4*(1-1e-6):
			t.Errorf("yarn pair %d: %g is not between %g and %g", i, y[i], plain[i]/4, plain[i])
		}
	}
	low, high := math.Floor(64*math.Log(1024/(32*2*math.Pi))/(2*math.Log(10000))), math.Ceil(64*math.Log(1024/(2*math.Pi))/(2*math.Log(10000)))
	for i := int(low) + 1; i < int(high); i++ {
		r := (float64(i) - low) / (high - low)
		near("yarn between", y[i], plain[i]/4*r+plain[i]*(1-r))
	}
	if _, m := rope(Scaling{Kind: "yarn", Factor: 4, OriginalMax: 1024, BetaFast: 32, BetaSlow: 1, AttentionFactor: 1.5}).Frequencies(64, 4096); m != 1.5 {
		t.Errorf("attention_factor 1.5 gives %g", m)
	}
	same, _ := rope(Scaling{Kind: "yarn", Factor: 4, BetaFast: 32, BetaSlow: 1}).Frequencies(64, 4096)
	if !slices.Equal(same, y) {
		t.Error("the original length is not max / factor when it is 0")
	}

	quarter, _ := Positions{Kind: "rope", Theta: 10000, Fraction: 0.25}.Frequencies(64, 1024)
	if len(quarter) != 8 {
		t.Errorf("%d pairs of a quarter of 64", len(quarter))
	}
	near("a quarter's pair 4", quarter[4], 0.01)
}

func TestAlibiSlopes(t *testing.T) {
	for heads, want := range map[int][]float64{
		1: {1. / 256},
		2: {1. / 16, 1. / 256},
		8: {1. / 2, 1. / 4, 1. / 8, 1. / 16, 1. / 32, 1. / 64, 1. / 128, 1. / 256},
		3: {1. / 16, 1. / 256, 1. / 4},
		6: {1. / 4, 1. / 16, 1. / 64, 1. / 256, 1. / 2, 1. / 8},
	} {
		if got := AlibiSlopes(heads); !slices.Equal(got, want) {
			t.Errorf("%d heads: %v, want %v", heads, got, want)
		}
	}
	if got := AlibiSlopes(12); math.Abs(got[8]-math.Exp2(-0.5)) > 1e-15 || math.Abs(got[11]-math.Exp2(-3.5)) > 1e-15 {
		t.Errorf("12 heads: %v", got)
	}
}

func TestScheduleLR(t *testing.T) {
	n := func(n int) Count { return Count{N: n} }
	s := Schedule{{Kind: "warmup", Steps: n(4)}, {Kind: "constant", Steps: Count{Share: 0.1}}, {Kind: "linear", Steps: n(2), To: 0.5}, {Kind: "cosine", To: 0.1}}
	for step, want := range map[int]float64{1: 0.25, 4: 1, 5: 1, 6: 1, 7: 0.75, 8: 0.5, 14: 0.3, 20: 0.1, 21: 0.1, 100: 0.1} {
		if got := s.LR(step, 20); math.Abs(got-want) > 1e-12 {
			t.Errorf("step %d: %g, want %g", step, got, want)
		}
	}
	for _, c := range []struct {
		s    Schedule
		step int
		want float64
	}{
		{Schedule{{Kind: "constant"}}, 3, 1},
		{Schedule{{Kind: "cosine"}}, 10, 0},
		{Schedule{{Kind: "cosine"}}, 5, 0.5},
		{Schedule{{Kind: "linear", Steps: n(4), To: 0.2}}, 9, 0.2},
		{Schedule{{Kind: "warmup"}}, 5, 0.5},
		{Schedule{{Kind: "warmup", Steps: n(2)}, {Kind: "inverse_sqrt"}}, 8, 0.5},
		{Schedule{{Kind: "warmup", Steps: Count{Share: 1}}, {Kind: "cosine"}}, 10, 1},
		{Schedule{{Kind: "inverse_sqrt"}}, 10, math.Sqrt(10000. / 10010)},
	} {
		if got := c.s.LR(c.step, 10); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v at step %d: %g, want %g", c.s, c.step, got, c.want)
		}
	}
	for step := 1; step <= 1000; step++ { // no phase jumps
		s := Schedule{{Kind: "warmup", Steps: n(50)}, {Kind: "cosine", To: 0.1}}
		if d := math.Abs(s.LR(step, 1000) - s.LR(step+1, 1000)); d > 0.021 {
			t.Errorf("the rate jumps by %g after step %d", d, step)
		}
	}
}

func TestGated(t *testing.T) {
	for activation, want := range map[string]string{"gelu": "gelu", "silu": "silu", "swiglu": "silu glu", "geglu": "gelu glu", "geglu_tanh": "gelu_tanh glu", "reglu": "relu glu", "relu2glu": "relu2 glu"} {
		fn, gated := (&Model{Activation: activation}).Gated()
		if gated {
			fn += " glu"
		}
		if fn != want {
			t.Errorf("%s: %s, want %s", activation, fn, want)
		}
	}
	f, _ := reflect.TypeFor[Model]().FieldByName("Activation")
	for word := range gates {
		if !slices.Contains(strings.Split(f.Tag.Get("enum"), "|"), word) {
			t.Errorf("%s gates and is no activation", word)
		}
	}
}

// TestSaturation checks products and sums against big integers.
func TestSaturation(t *testing.T) {
	values := []int{0, 1, 3, 1 << 31, 1<<31 - 1, 1 << 62, maxInt, maxInt - 1}
	clamp := func(b *big.Int) int {
		if !b.IsInt64() {
			return maxInt
		}
		return int(b.Int64())
	}
	for _, a := range values {
		for _, b := range values {
			x, y := big.NewInt(int64(a)), big.NewInt(int64(b))
			if got, want := product(a, b), clamp(new(big.Int).Mul(x, y)); got != want {
				t.Errorf("%d * %d = %d, want %d", a, b, got, want)
			}
			if got, want := sum(a, b), clamp(new(big.Int).Add(x, y)); got != want {
				t.Errorf("%d + %d = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestCounts(t *testing.T) {
	if n := (Count{Share: 0.05}).Of(50); n != 3 {
		t.Errorf("5%% of 50 is %d", n)
	}
	if n := (Batch{Kind: "tokens", N: 4096}).Sequences(128); n != 32 {
		t.Errorf("%d sequences", n)
	}
	if p := (PerLayer[int]{7}); p.At(5) != 7 || (PerLayer[int]{1, 2}).At(1) != 2 {
		t.Error("PerLayer.At")
	}
}

// TestFinite checks the one rule that no text can break.
func TestFinite(t *testing.T) {
	s := &Spec{Name: "x"}
	s.Model.NumHeads, s.Model.NumKVHeads, s.Model.IntermediateSize = []int{1}, []int{1}, []int{1}
	s.Model.Positions, s.Model.Attention = []Positions{{Theta: math.NaN()}}, []Pattern{{Op: "causal"}}
	s.Model.LogitMultiplier, s.Train.Optimizer.Betas = math.Inf(1), []float64{math.NaN(), 0.9}
	s.Train.Context = 1
	text := Check(s).Err().Error()
	for _, want := range []string{"model.positions[0].theta must be a finite", "model.logit_multiplier must be a finite"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not among\n%s", want, text)
		}
	}
}

// TestSettings checks the flat form of a model.
func TestSettings(t *testing.T) {
	m := &Model{HiddenSize: 8, Norm: Norm{Kind: "rmsnorm", Eps: 1e-5}, NumHeads: []int{2, 4}, Attention: []Pattern{{Op: "causal"}, {Op: "causal"}},
		Positions: []Positions{{Kind: "rope", Theta: 5}, {Kind: "rope", Theta: 6}}, NumKVHeads: []int{1}, IntermediateSize: []int{1}}
	got := m.Settings()
	for path, want := range map[string]any{"hidden_size": 8, "norm.kind": "rmsnorm", "norm.eps": 1e-5, "num_heads": []any{2, 4}, "attention": "causal",
		"positions.kind": "rope", "positions.theta": []any{5.0, 6.0}, "positions.scaling.kind": "", "init.weights.std": 0.0} {
		if !reflect.DeepEqual(got[path], want) {
			t.Errorf("%s: %v, want %v", path, got[path], want)
		}
	}
}

func TestErrorText(t *testing.T) {
	src := &Source{File: "m.yaml", Lines: []string{"a:", "\tb: " + strings.Repeat("é", 300)}}
	e := &Error{Pos: Pos{"m.yaml", 2, 5}, Text: "bad", Suggestion: "good", Notes: []Note{{Pos{"m.yaml", 1, 1}, "see"}}}
	errs := Errors{e, {Pos: Pos{"m.yaml", 1, 2}, Text: "first"}, e}.Sort()
	if got := errs.Error(); got != "m.yaml:1:2: first\nm.yaml:2:5: bad; did you mean \"good\"?" {
		t.Errorf("%s", got)
	}
	want := "m.yaml:2:5: bad; did you mean \"good\"?\n    2 | \tb: " + strings.Repeat("é", 196) + "…\n      | \t   ^\nm.yaml:1:1: note: see\n    1 | a:\n      | ^\n"
	if got := errs[1:].Explain(src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if (Errors{}).Err() != nil || (*Source)(nil).At("x").IsValid() || src.Snippet(Pos{Line: 9}) != "" {
		t.Error("empty lists and sources")
	}
}
