package compile_test

import (
	"math"
	"slices"
	"testing"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
)

// TestLaunchFLOPs: the FLOPs of an op's launches are those of the op table, of every op of every example.
func TestLaunchFLOPs(t *testing.T) {
	for _, s := range examples(t) {
		c, err := compile.CUDA(s, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		for job, f := range c.Funcs {
			rows := 1
			for _, y := range f.Symbols {
				if y.Dynamic {
					rows *= y.Size
				}
			}
			f.Walk(func(op *ir.Op) {
				groups := c.Launches[op]
				if op.Loop != nil || len(groups) == 0 || op.Kind == "attention_cached" { // whose FLOPs are those of the keys at hand
					return
				}
				for _, off := range []bool{false, true} { // of launches for one architecture and those for the others, either
					if off && !slices.ContainsFunc(groups, func(g ir.Group) bool { return g.Off != "" }) {
						continue
					}
					sum := 0.0
					for _, gr := range groups {
						if off && gr.On != "" || !off && gr.Off != "" {
							continue
						}
						for _, l := range gr.Launches {
							if p := l.Product; p != nil && !gr.Measures { // of the first steps alone
								sum += float64(gr.Times) * 2 * float64(p.M) * float64(p.N) * float64(p.K)
							}
							for _, k := range l.Kernels { // of layers in turn: the op table has their mean
								sum += float64(gr.Times) * float64(k.Cost.FLOPs+rows*k.Cost.RowFLOPs) / float64(len(l.Kernels))
							}
						}
					}
					if want := ir.Table[op.Kind].FLOPs(op); math.Abs(sum-want) > 1e-3*want+float64(rows) {
						t.Errorf("%s, %s: launches of %s (%v) have %g FLOPs, the op has %g", s.Name, job, op.Kind, op.Pos, sum, want)
					}
				}
			})
		}
	}
}

// TestLaunchBytes spells out what launches of the training step of stories.yaml move: 8192 rows of 512 columns in bf16, or
// of 1536, 2048 and 10000; parameters are f32.
func TestLaunchBytes(t *testing.T) {
	s, err := parser.Load("../examples/specs/stories.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := compile.CUDA(s, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	const (
		n         = 8192
		x         = n * 512 * 2
		stats     = n * 2 * 4
		params    = 512 * 4
		parameter = 30602240 // all of them
	)
	want := map[string]int{
		"embed":         x + 4*n + n*512*4,                     // no more rows of the table than there are tokens
		"add_positions": 2*x + 4*n + 512*512*4,                 // and no more than there are positions
		"layernorm":     2*x + stats + 2*params,                //
		"attention":     4*x + n*8*4,                           // the row sums of 8 heads
		"add_layernorm": 4*x + stats + 2*params,                //
		"dropout":       2 * x,                                 //
		"add":           3 * x,                                 //
		"count":         4*4*n + 4,                             // the targets of all micro-batches
		"adamw":         parameter * (2*4 + 2*4 + 2*4 + 4 + 2), // weights and moments are updated, gradients read, copies written
	}
	seen := map[string]bool{}
	c.Funcs["train"].Walk(func(op *ir.Op) {
		groups := c.Launches[op]
		if len(groups) == 0 || want[op.Kind] == 0 || len(op.Results) > 0 && len(op.Results[0].Type.Dims) == 0 && op.Kind == "add" {
			return
		}
		launches := groups[0].Launches
		bytes := launches[len(launches)-1].Kernels[0].Cost.Bytes
		if bytes != want[op.Kind] {
			t.Errorf("%s moves %d bytes, want %d", op.Kind, bytes, want[op.Kind])
		}
		seen[op.Kind] = true
	})
	if len(seen) != len(want) {
		t.Errorf("only %v were seen", seen)
	}
	c.Funcs["decode"].Walk(func(op *ir.Op) {
		if op.Kind != "attention_cached" {
			return
		}
		k := c.Launches[op][0].Launches[0].Kernels[0].Cost
		// q, k, v in, o out, k and v into the cache, a position and a slot; of a key of the cache, with its value, 2 × 512 numbers.
		if k.RowBytes != 6*512*2+8 || k.KeyBytes != 2*512*2 || k.KeyFLOPs != 4*512 || k.Keys == nil || k.Keys.String() != "causal" || k.Bytes+k.FLOPs+k.RowFLOPs != 0 {
			t.Errorf("attention_cached costs %+v", k)
		}
	})
}

// TestSharedMemory: a launch that is not of one architecture alone fits a block of sm_86 and sm_89, which run the code of sm_80.
func TestSharedMemory(t *testing.T) {
	const most = 99 << 10
	for _, s := range examples(t) {
		c, err := compile.CUDA(s, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		launches := 0
		for op, groups := range c.Launches {
			for _, gr := range groups {
				for _, l := range gr.Launches {
					for _, k := range l.Kernels {
						if launches++; k.Arch == "" && gr.On == "" && k.Shared > most {
							t.Errorf("%s: %s of %s (%v) takes %d bytes of shared memory, of %d", s.Name, k.Name, op.Kind, op.Pos, k.Shared, most)
						}
					}
				}
			}
		}
		if launches == 0 {
			t.Errorf("%s: no launches", s.Name)
		}
	}
}
