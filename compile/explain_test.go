package compile_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

func small(t *testing.T, train string) *spec.Spec {
	t.Helper()
	s, err := parser.Parse("small.yaml", fmt.Appendf(nil, `
model: {preset: llama, vocab_size: 300, hidden_size: 16, num_layers: 7, num_heads: 2, intermediate_size: 24, max_position_embeddings: 8}
train: {batch: 6, micro_batch: 2, %s}
`, train))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// launches runs the loops of f one turn after another and counts the kernels.
func launches(f *ir.Func) (n int) {
	var run func(b *ir.Block, index int)
	run = func(b *ir.Block, index int) {
		for _, op := range b.Ops {
			switch {
			case op.Loop != nil:
				for _, i := range op.Loop.Indices(index) {
					run(op.Loop.Body, i)
				}
			case op.Str("kernel") != "" && !(op.Kind == "add" && len(op.Result().Type.Dims) == 0):
				n++
			}
		}
	}
	run(f.Body, 0)
	return n
}

// Seven layers in segments of two: the last segment has one.
func TestCostCountsEveryTurn(t *testing.T) {
	for _, train := range []string{"checkpointing: none", "checkpointing: full", "checkpointing: every(2)", "checkpointing: every(3)"} {
		s := small(t, train)
		for _, job := range ir.Jobs {
			o := passes.OptionsFor(s, ir.TargetNamed("cpu"))
			f, err := compile.Func(s, job, o, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if c := compile.CostOf(f, o.Target); math.Abs(c.Launches-float64(launches(f))) > 1e-6 {
				t.Errorf("%s, %s: %v launches, running it makes %d", train, job, c.Launches, launches(f))
			}
		}
	}
}

// The products of the forward pass, counted by hand.
func TestCostOfProducts(t *testing.T) {
	s := small(t, "steps: 1")
	f := ir.Build(s, "logits")
	f.Walk(func(op *ir.Op) {
		if op.Loop != nil { // what is not a product goes
			for i := len(op.Loop.Body.Ops) - 1; i >= 0; i-- {
				if o := op.Loop.Body.Ops[i]; o.Kind != "linear" {
					o.Remove()
				}
			}
		}
	})
	for i := len(f.Body.Ops) - 1; i >= 0; i-- {
		if op := f.Body.Ops[i]; op.Kind != "linear" && op.Loop == nil {
			op.Remove()
		}
	}
	const rows, d, ff, vocab = 8, 16, 24, 300
	want := 2.0 * rows * (7*(4*d*d+3*d*ff) + d*vocab)
	target := &ir.Target{FLOPs: 1e9, Bandwidth: math.Inf(1), Launch: 1}
	c := compile.CostOf(f, target)
	if c.FLOPs != want {
		t.Errorf("%v FLOPs, want %v", c.FLOPs, want)
	}
	if want := want/1e9 + 7*7 + 1; math.Abs(c.Seconds-want) > 1e-9 {
		t.Errorf("%v seconds, want %v", c.Seconds, want)
	}
}

func TestExplain(t *testing.T) {
	for _, s := range append(examples(t), small(t, "checkpointing: every(2)")) {
		for _, job := range ir.Jobs {
			r, err := compile.Explain(s, job, passes.OptionsFor(s, ir.TargetNamed("cpu")))
			if err != nil {
				t.Fatal(err)
			}
			sum := r.Built
			for _, p := range r.Passes {
				sum = sum.Minus(compile.Cost{Bytes: -p.Change.Bytes, FLOPs: -p.Change.FLOPs, Launches: -p.Change.Launches, Seconds: -p.Change.Seconds})
			}
			if d := sum.Minus(r.Final); math.Abs(d.Bytes) > 1e-6*r.Final.Bytes || math.Abs(d.FLOPs) > 1e-6*r.Final.FLOPs || math.Abs(d.Seconds) > 1e-6*r.Final.Seconds || math.Abs(d.Launches) > 1e-6*r.Final.Launches {
				t.Errorf("%s %s: the changes of the passes add up to %+v, not to %+v", s.Name, job, sum, r.Final)
			}
			if len(r.Passes) != len(passes.Pipeline) {
				t.Errorf("%s %s: %d passes of %d", s.Name, job, len(r.Passes), len(passes.Pipeline))
			}
			checkMemory(t, s.Name+" "+job, &r.Memory)
		}
	}
}

// checkMemory holds a plan to what its tables say of it.
func checkMemory(t *testing.T, name string, m *compile.Memory) {
	t.Helper()
	highest, buffers := 0, 0
	for i, a := range m.Buffers {
		highest = max(highest, a.Offset+a.Bytes)
		if a.Category == "" || a.First > a.Last || a.Last >= m.Times {
			t.Errorf("%s: buffer %+v of %d times", name, a, m.Times)
		}
		for _, b := range m.Buffers[:i] {
			if a.First <= b.Last && b.First <= a.Last && a.Offset < b.Offset+b.Bytes && b.Offset < a.Offset+a.Bytes {
				t.Errorf("%s: %s and %s overlap", name, a.Name, b.Name)
			}
		}
	}
	peak, fullest := 0, 0
	for _, c := range m.Categories {
		buffers += c.Buffers
		peak += c.Peak
	}
	for time := range m.Times {
		live := 0
		for _, b := range m.Buffers {
			if b.First <= time && time <= b.Last {
				live += b.Bytes
			}
		}
		fullest = max(fullest, live)
	}
	if highest != m.Arena || buffers != len(m.Buffers) || peak != fullest {
		t.Errorf("%s: highest end %d of an arena of %d, %d of %d buffers in categories, %d of %d bytes at the fullest", name, highest, m.Arena, buffers, len(m.Buffers), peak, fullest)
	}
	sum := m.Weights + m.Gradients + m.Moments + m.Cache + m.Arena
	for _, b := range m.Beside {
		sum += b.Bytes
	}
	if m.Total != sum {
		t.Errorf("%s: the parts of %d bytes add up to %d: %+v", name, m.Total, sum, m)
	}
}

// The weights that a plan counts are those that the program has.
func TestMemoryOfWeights(t *testing.T) {
	s := small(t, "steps: 1")
	r, err := compile.Explain(s, "train", passes.OptionsFor(s, ir.TargetNamed("cpu")))
	if err != nil {
		t.Fatal(err)
	}
	const want = 4 * (2*300*16 + 7*(4*16*16+3*16*24+2*16) + 16)
	if r.Memory.Weights != want || r.Memory.Moments != 2*want || r.Memory.Gradients != want {
		t.Errorf("%d bytes of weights, %d of gradients, %d of moments; want %d", r.Memory.Weights, r.Memory.Gradients, r.Memory.Moments, want)
	}
	kept := false
	for _, b := range r.Memory.Buffers {
		kept = kept || b.Slots == 7 && b.Category == "kept for the backward pass"
	}
	if !kept {
		t.Errorf("no buffer of seven layers is kept for the backward pass: %+v", r.Memory.Buffers)
	}
}

func TestMemorySVG(t *testing.T) {
	s := small(t, "checkpointing: every(2)")
	r, err := compile.Explain(s, "train", passes.OptionsFor(s, ir.TargetNamed("cpu")))
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := errors.Join(compile.MemorySVG(&a, r), compile.MemorySVG(&b, r)); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Error("drawing twice gives different bytes")
	}
	titles := 0
	for d := xml.NewDecoder(strings.NewReader(a.String())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "title" {
			titles++
		}
	}
	if titles != len(r.Memory.Buffers) {
		t.Errorf("%d buffers drawn of %d", titles, len(r.Memory.Buffers))
	}
}

// For a GPU the launches are those of the code, each as often as its loops turn.
func TestExplainOnGPU(t *testing.T) {
	for _, s := range append(examples(t), small(t, "precision: bf16, checkpointing: every(2)"), small(t, "precision: tf32")) {
		s.Target.Arch = []string{"sm_90a"}
		code, err := compile.CUDA(s, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range ir.Jobs {
			r, err := compile.Explain(s, job, passes.OptionsFor(s, ir.TargetNamed("sm_90a")))
			if err != nil {
				t.Fatal(err)
			}
			name := s.Name + " " + job
			checkMemory(t, name, &r.Memory)
			got := map[string]float64{}
			for _, l := range r.Launches {
				got[l.Op] += l.Times
				if (len(l.Kernels) > 0) == (l.Product != "" || l.Clear > 0) || len(l.Kernels) > 0 && (l.Threads == 0 || len(l.Grid) != 3) {
					t.Errorf("%s: %+v", name, l)
				}
				if strings.Contains(l.Product, "tf32") != (l.Product != "" && s.Train.Precision == "tf32") {
					t.Errorf("%s: %s in %s", name, l.Product, s.Train.Precision)
				}
			}
			want, all := map[string]float64{}, 0.0
			var run func(b *ir.Block, index int)
			run = func(b *ir.Block, index int) {
				for _, op := range b.Ops {
					if op.Loop != nil {
						for _, i := range op.Loop.Indices(index) {
							run(op.Loop.Body, i)
						}
					}
					for _, g := range code.Launches[op] {
						n := float64(g.Times * len(g.Launches))
						want[op.Kind] += n
						all += n
					}
				}
			}
			run(code.Funcs[job].Body, 0)
			sum, kinds := 0.0, map[string]float64{}
			for op, n := range got {
				kinds[op[strings.LastIndexByte(op, ' ')+1:]] += n
				sum += n
			}
			for kind, n := range want {
				if math.Abs(kinds[kind]-n) > 1e-6 {
					t.Errorf("%s: %v launches for %s, the code has %v", name, kinds[kind], kind, n)
				}
			}
			if math.Abs(sum-all) > 1e-6 {
				t.Errorf("%s: %v launches, the code has %v", name, sum, all)
			}
		}
	}
}

// A budget on a GPU holds for all that a trainer allocates, and the smallest that the error names is enough.
func TestBudgetOnGPU(t *testing.T) {
	total := func(checkpointing string) (int, error) {
		s := small(t, "precision: bf16, checkpointing: "+checkpointing)
		r, err := compile.Explain(s, "train", passes.OptionsFor(s, ir.TargetNamed("sm_90a")))
		if err != nil {
			return 0, err
		}
		return r.Memory.Total, nil
	}
	most, err := total("none")
	if err != nil {
		t.Fatal(err)
	}
	_, err = total("auto(1KiB)")
	var errs spec.Errors
	if !errors.As(err, &errs) {
		t.Fatalf("a budget of 1 KiB: %v", err)
	}
	found := regexp.MustCompile(`needs \S+ \((\d+) bytes\)`).FindStringSubmatch(errs[0].Text)
	if found == nil {
		t.Fatal(errs[0].Text)
	}
	smallest, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"weights in 16 bits ", "cuBLASLt's workspace 32MiB", "kernels' workspace ", "tokens ", "arena "} {
		if !strings.Contains(errs[0].Text, part) {
			t.Errorf("the error does not name the %s: %s", part, errs[0].Text)
		}
	}
	if smallest >= most {
		t.Fatalf("the smallest plan needs %d bytes, that which keeps all %d", smallest, most)
	}
	for _, budget := range []int{smallest, (smallest + most) / 2, most} {
		n, err := total(fmt.Sprintf("auto(%dB)", budget))
		if err != nil || n > budget || budget == smallest && n != smallest || budget == most && n != most {
			t.Errorf("a budget of %d bytes: %d, %v", budget, n, err)
		}
	}
	if n, err := total(fmt.Sprintf("auto(%dB)", smallest-1)); err == nil {
		t.Errorf("a budget of %d bytes, less than the smallest plan's, gives %d", smallest-1, n)
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{compile.FormatBytes(512), "512 B"}, {compile.FormatBytes(1536), "1.5 KiB"}, {compile.FormatBytes(-3 << 20), "-3 MiB"},
		{compile.FormatFLOPs(6.8e9), "6.8 GFLOP"}, {compile.FormatRate(40e9, "B"), "40 GB/s"},
		{compile.FormatSeconds(0.0491), "49.1 ms"}, {compile.FormatSeconds(2e-6), "2 µs"}, {compile.FormatSeconds(12.34), "12.3 s"}, {compile.FormatSeconds(0), "0 s"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
