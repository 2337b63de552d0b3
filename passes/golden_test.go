package passes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/golden"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/ir/irtest"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// goldenCase is a file of golden/passes/<pass>: a sentence, headers, and what the pass makes of a function.
//
//	Three projections of one value become one product.
//	fires: 1
//	target: sm_90a               the default is cpu
//	precision: bf16              the default is f32
//	weights: int8                the default is f32
//	checkpointing: every(2)      the default is none
//	error: there are no kernels  instead of fires
//	-- before --
//	-- after --                  absent where nothing fires
//	-- plan --                   of plan-memory, instead of after
type goldenCase struct {
	doc     string
	headers [][2]string
	before  string
	after   string
}

func (c *goldenCase) header(name, otherwise string) string {
	for _, h := range c.headers {
		if h[0] == name {
			return h[1]
		}
	}
	return otherwise
}

var afterMarks = map[string]string{"plan-memory": "-- plan --\n"}

func afterMark(pass string) string {
	if m := afterMarks[pass]; m != "" {
		return m
	}
	return "-- after --\n"
}

func readCase(t *testing.T, pass, path string) *goldenCase {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, body, ok := strings.Cut(string(text), "-- before --\n")
	if !ok {
		t.Fatal("no -- before -- line")
	}
	c := &goldenCase{}
	for i, line := range strings.Split(strings.TrimSuffix(head, "\n"), "\n") {
		name, value, isHeader := strings.Cut(line, ": ")
		switch {
		case i == 0:
			c.doc = line
		case isHeader && slices.Contains([]string{"fires", "target", "precision", "weights", "checkpointing", "error"}, name):
			c.headers = append(c.headers, [2]string{name, value})
		default:
			t.Fatalf("no header: %q", line)
		}
	}
	if !strings.HasSuffix(c.doc, ".") {
		t.Error("the first line is no sentence")
	}
	c.before, c.after, _ = strings.Cut(body, afterMark(pass))
	return c
}

func (c *goldenCase) text(pass string) string {
	s := c.doc + "\n"
	for _, h := range c.headers {
		s += h[0] + ": " + h[1] + "\n"
	}
	s += "-- before --\n" + c.before
	if c.after != "" {
		s += afterMark(pass) + c.after
	}
	return s
}

func (c *goldenCase) options(t *testing.T) passes.Options {
	t.Helper()
	// A whole spec, for its checkpointing alone.
	text := fmt.Sprintf("model: {vocab_size: 300, hidden_size: 8, num_layers: 9, num_heads: 1}\ntrain: {checkpointing: %q}\n", c.header("checkpointing", "none"))
	s, err := parser.Parse("options.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o := passes.Options{Target: ir.TargetNamed(c.header("target", "cpu")), Precision: c.header("precision", "f32"), Weights: c.header("weights", "f32"), Clip: 1,
		Optimizer: spec.Optimizer{Betas: []float64{0.9, 0.95}, Eps: 1e-8, WeightDecay: 0.1}, Checkpointing: s.Train.Checkpointing}
	if o.Target == nil {
		t.Fatalf("no target %s", c.header("target", ""))
	}
	return o
}

func TestGoldenPasses(t *testing.T) {
	for _, p := range passes.Pipeline {
		dir := filepath.Join("..", "golden", "passes", p.Name)
		golden.Owns(t, dir)
		files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		hits, misses := 0, 0
		for _, path := range files {
			name := strings.TrimSuffix(filepath.Base(path), ".txt")
			c := readCase(t, p.Name, path)
			if c.header("fires", "0") == "0" {
				misses++
			} else {
				hits++
			}
			t.Run(p.Name+"/"+name, func(t *testing.T) {
				runCase(t, p, c)
				golden.Check(t, path, c.text(p.Name))
			})
		}
		if hits == 0 || misses == 0 && p.Name != "plan-memory" { // which always has its work to do
			t.Errorf("%s: %d cases where it fires, %d where it does not", p.Name, hits, misses)
		}
	}
}

// runCase takes the case's function through the pass and fills in what it became.
func runCase(t *testing.T, p passes.Pass, c *goldenCase) {
	parse := func() *ir.Func {
		f, err := parser.IR("before", c.before)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f, o := parse(), c.options(t)
	before := ir.Print(f)
	if diff := cmp.Diff(c.before, before); diff != "" && !golden.Updating() {
		t.Errorf("the function is not written as it prints (-file +print):\n%s", diff)
	}
	c.before, c.after = before, ""

	n, err := p.Run(f, o)
	if want := c.header("error", ""); want != "" || err != nil {
		if err == nil || !strings.Contains(err.Error(), want) || want == "" {
			t.Errorf("error %v, want %q", err, want)
		}
		return
	}
	if fires := c.header("fires", ""); strconv.Itoa(n) != fires {
		t.Errorf("fires %d times, want %s", n, fires)
	}
	if err := ir.Verify(f); err != nil {
		t.Fatalf("%v\n%s", err, ir.Print(f))
	}
	after := ir.Print(f)
	switch {
	case p.Name == "plan-memory":
		c.after = planText(f)
		if after != before {
			t.Errorf("the function changed to\n%s", after)
		}
	case n > 0:
		c.after = after
	case after != before:
		t.Errorf("nothing fired, and the function changed to\n%s", after)
	}
	sameMeaning(t, p, parse(), f)
	// Run again it finds nothing to do; plan-memory plans anew.
	if m, err := p.Run(f, o); p.Name != "plan-memory" && (m != 0 || err != nil || ir.Print(f) != after) {
		t.Errorf("run again, it fires %d times: %v\n%s", m, err, ir.Print(f))
	}
}

// apart is how far a pass may move results, of the largest of a tensor, where to round is its purpose: a product of operands in 8 bits is off by 4
// to 6 %, and the cases have up to seven in a row; weights of generation are off by a sixteenth of the largest of a group at most, which
// adds up over layers.
var apart = map[string]float64{"fp8": 0.2, "quantize": 1. / 8}

// sameMeaning evaluates a function before and after a pass. grad adds a result and updates the weights.
func sameMeaning(t *testing.T, p passes.Pass, before, after *ir.Func) {
	t.Helper()
	want, err := run(before, 5)
	if err != nil {
		t.Fatal(err)
	}
	got, err := run(after, 5)
	if err != nil {
		t.Fatal(err)
	}
	tolerance := max(1e-12, apart[p.Name])
	if err := irtest.Near(got.results, want.results, tolerance); err != nil {
		t.Error(err)
	}
	if p.Name == "grad" {
		return
	}
	if len(got.results) != len(want.results) {
		t.Errorf("%d results, want %d", len(got.results), len(want.results))
	}
	if err := irtest.NearState(got.state, want.state, tolerance); err != nil {
		t.Error(err)
	}
}

// planText writes a plan: its buffers, with the ops of their lives counted in order, and where each value is.
func planText(f *ir.Func) string {
	var b strings.Builder
	fmt.Fprintf(&b, "arena %d bytes\n", f.Plan.Bytes)
	for _, x := range f.Plan.Buffers {
		last := strconv.Itoa(x.Last)
		if x.Last >= 1<<30 { // the function returns it
			last = "end"
		}
		fmt.Fprintf(&b, "buffer %s at %d: %d x %d bytes, ops %d..%s\n", x.Name, x.Offset, x.Slots, x.Slot, x.First, last)
	}
	place := func(v *ir.Value) {
		p, ok := f.Plan.Places[v]
		if !ok {
			fmt.Fprintf(&b, "%v nowhere\n", v)
			return
		}
		fmt.Fprintf(&b, "%v in %s", v, p.Buffer.Name)
		if p.Column > 0 || p.Stride != v.Type.Cols() {
			fmt.Fprintf(&b, ", columns from %d of %d", p.Column, p.Stride)
		}
		if p.Loop != nil {
			fmt.Fprintf(&b, ", slot %s", p.Loop.Var)
			if p.Shift > 0 {
				fmt.Fprintf(&b, "+%d", p.Shift)
			}
		} else if p.Shift > 0 {
			fmt.Fprintf(&b, ", slot %d", p.Shift)
		}
		b.WriteByte('\n')
	}
	f.Walk(func(op *ir.Op) {
		if op.Loop != nil {
			for _, c := range op.Loop.Carries {
				place(c)
			}
		}
		for _, r := range op.Results {
			place(r)
		}
	})
	return b.String()
}

// TestPassesAreWhole checks what every pass must have: a file named as it, a folder of cases, a sentence; and that the
// order of the table keeps what each row says.
func TestPassesAreWhole(t *testing.T) {
	at := map[string]int{}
	for i, p := range passes.Pipeline {
		if _, twice := at[p.Name]; twice {
			t.Errorf("%s is in the table twice", p.Name)
		}
		at[p.Name] = i
		for _, before := range p.After {
			if j, ok := at[before]; !ok || j >= i {
				t.Errorf("%s must stand after %s", p.Name, before)
			}
		}
		if p.Run == nil || !strings.HasSuffix(p.Doc, ".") || strings.Contains(p.Doc, "\n") {
			t.Errorf("%s: run %v, doc %q", p.Name, p.Run != nil, p.Doc)
		}
		if passes.Named(p.Name) != &passes.Pipeline[i] {
			t.Errorf("Named(%q) finds another row", p.Name)
		}
		if _, err := os.Stat(strings.ReplaceAll(p.Name, "-", "_") + ".go"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join("..", "golden", "passes", p.Name)); err != nil {
			t.Error(err)
		}
	}
	if passes.Named("no-such-pass") != nil {
		t.Error("Named finds a pass that is not there")
	}
	entries, err := os.ReadDir(filepath.Join("..", "golden", "passes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := at[e.Name()]; !ok {
			t.Errorf("golden/passes/%s is of no pass", e.Name())
		}
	}
}
