package compile

import (
	"fmt"
	"strings"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/ir"
)

// Launch is a piece of work that an op puts on a GPU's stream.
type Launch struct {
	Op      string   `json:"op"`                // what it computes, as the program names it
	Times   float64  `json:"times"`             // that one call of the function puts it there; where loops vary, on average
	Kernels []string `json:"kernels,omitempty"` // entries that layers take in turn; one for most
	Grid    []string `json:"grid,omitempty"`    // blocks along each axis: numbers, or where the rows of the call decide, formulas
	Threads int      `json:"threads,omitempty"` // of a block
	Shared  int      `json:"shared,omitempty"`  // bytes of dynamic shared memory of a block
	Product string   `json:"product,omitempty"` // of cuBLASLt: D = op(A)·op(B) as rows × columns × summed, and what is done besides
	Clear   int      `json:"clear,omitempty"`   // bytes that are set to zero
}

// launchesOf lists the launches of f on an architecture, in the order of the program.
func launchesOf(f *ir.Func, code *cudagen.Code, arch string) []Launch {
	var list []Launch
	turns(f.Body, 1, nil, func(op *ir.Op, times float64) {
		for _, g := range code.Launches[op] {
			if g.On != "" && g.On != arch || g.Off == arch {
				continue
			}
			for _, l := range g.Launches {
				x := Launch{Op: opName(op), Times: times * float64(g.Times), Clear: l.Clear}
				switch {
				case l.Product != nil:
					x.Product = productText(l.Product)
				case len(l.Kernels) > 0:
					for _, k := range l.Kernels {
						x.Kernels = append(x.Kernels, k.Entry)
						x.Threads, x.Shared = max(x.Threads, k.Threads), max(x.Shared, k.Shared)
					}
					for _, n := range l.Grid {
						x.Grid = append(x.Grid, countText(n))
					}
				}
				list = append(list, x)
			}
		}
	})
	return list
}

// opName is an op without its arguments: "qkv = linear".
func opName(op *ir.Op) string {
	var names []string
	for _, v := range op.Results {
		names = append(names, v.Name)
	}
	for _, p := range op.Into {
		if p != nil {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return op.Kind
	}
	return strings.Join(names, ", ") + " = " + op.Kind
}

func countText(n ir.Count) string {
	if n.Per == 0 {
		return fmt.Sprint(n.N)
	}
	s := "rows"
	if n.Per > 1 {
		s = fmt.Sprintf("⌈rows/%d⌉", n.Per)
	}
	if n.N > 1 {
		s += fmt.Sprintf("·%d", n.N)
	}
	return s
}

// productText says what a product multiplies and what it does besides.
func productText(p *ir.Product) string {
	rows := fmt.Sprint(p.M)
	if p.Rows {
		rows = "rows"
	}
	transposed := func(t bool) string {
		if t {
			return "ᵀ"
		}
		return ""
	}
	s := fmt.Sprintf("A%s·B%s, %s × %d × %d, %s", transposed(p.TransA), transposed(p.TransB), rows, p.N, p.K, p.A)
	if p.B != p.A {
		s += fmt.Sprintf("·%s", p.B)
	}
	if p.TF32 {
		s += " in tf32"
	}
	if p.D != p.A {
		s += fmt.Sprintf(" to %s", p.D)
	}
	if p.Beta != 0 {
		s += ", + C"
	}
	if p.Epilogue != "" {
		s += ", " + strings.ReplaceAll(p.Epilogue, "_", " ")
	}
	return s
}
