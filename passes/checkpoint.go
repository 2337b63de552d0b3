package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
)

// checkpoint lets the backward pass compute values of the forward pass again instead of keeping them for every layer
// (Chen et al., arXiv 1604.06174):
//
//	none      the backward loop reads what it needs of the forward loop, which keeps it for each layer
//	full      only the residual stream is kept; the rest of a layer is computed again when its gradient is due
//	every(n)  the stream is kept at every n-th layer; the n layers from there are computed again, keeping their values,
//	          before their gradients are due
//	auto(b)   what costs least time such that the run fits b bytes
//
// It returns the number of ops that run again.
func checkpoint(f *ir.Func, o Options) (int, error) {
	c := o.Checkpointing
	if f.Name != "train" || c.Kind == "none" || c.Kind == "" || recomputed(f) > 0 {
		return 0, nil
	}
	ps := pairs(f)
	if len(ps) == 0 {
		return 0, nil
	}
	held := Holding{Parts: fixed(f), Align: align}
	if c.Kind == "auto" && o.Holding != nil {
		var err error
		if held, err = o.Holding(); err != nil {
			return 0, err
		}
	}
	s := newSearch(f, ps, o.Target, held)
	switch c.Kind {
	case "full":
		s.apply(f, s.everything(1))
	case "every":
		s.apply(f, s.everything(c.N))
	case "auto":
		best, err := s.auto(int(c.Budget))
		if err != nil {
			return 0, err
		}
		s.apply(f, best)
	default:
		return 0, fmt.Errorf("no checkpointing %q", c.Kind)
	}
	return recomputed(f), nil
}

// recomputed counts the ops that run again.
func recomputed(f *ir.Func) int {
	n := 0
	f.Walk(func(op *ir.Op) {
		if op.By == "checkpoint" && op.Loop == nil {
			n++
		}
	})
	return n
}

// pair is a forward loop over layers, and the backward loop that answers it.
type pair struct{ forward, backward *ir.Op }

func (p pair) layers() int { return p.forward.Loop.Iterations() }

// pairs finds the loops whose values other loops read, in the order of the program. A loop that carries nothing prepares weights,
// and is no forward pass.
func pairs(f *ir.Func) []pair {
	var ps []pair
	f.Walk(func(op *ir.Op) {
		if op.Loop == nil {
			return
		}
		for _, inner := range op.Loop.Body.Ops {
			for _, a := range inner.Args {
				if a != nil && a.Block != nil && !a.Block.Encloses(inner.Block) && len(a.Block.Loop.Loop.Carries) > 0 {
					ps = append(ps, pair{a.Block.Loop, op})
					return
				}
			}
		}
	})
	for i, j := 0, len(ps)-1; i < j; i, j = i+1, j-1 { // the last forward loop is answered first
		ps[i], ps[j] = ps[j], ps[i]
	}
	return ps
}
