package passes

import (
	"fmt"
	"sort"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

func canonicalize(f *ir.Func, _ Options) (int, error) {
	total := 0
	for {
		simplify(f)
		n := foldScales(f) + mergeEqual(f.Body, f) + removeDead(f)
		if n == 0 {
			return total, nil
		}
		total += n
	}
}

// simplify lets readers of an op that gives back its argument read that; the op is dead then.
func simplify(f *ir.Func) {
	f.Walk(func(op *ir.Op) {
		var same bool
		switch op.Kind {
		case "scale":
			same = op.Float("by") == 1
		case "dropout":
			same = op.Float("p") == 0
		case "cast":
			same = op.Args[0].Type.DType == op.Result().Type.DType
		}
		if same {
			f.Replace(op.Result(), op.Args[0])
		}
	})
}

// foldScales turns a + scale(b) into one add with a factor, and scale(scale(x)) into one scale.
func foldScales(f *ir.Func) int {
	n := 0
	uses := f.Uses()
	f.Walk(func(op *ir.Op) {
		switch op.Kind {
		case "add":
			s := op.Args[1].Op
			if s == nil || s.Kind != "scale" || len(uses[s.Result()]) != 1 {
				return
			}
			by := s.Float("by")
			if own := op.Float("by"); own != 0 {
				by *= own
			}
			if by == 0 {
				return
			}
			op.Args[1], op.Attrs["by"] = s.Args[0], by
			n++
		case "scale":
			s := op.Args[0].Op
			if s == nil || s.Kind != "scale" || len(uses[s.Result()]) != 1 {
				return
			}
			op.Args[0], op.Attrs["by"] = s.Args[0], op.Float("by")*s.Float("by")
			n++
		}
	})
	return n
}

// mergeEqual lets ops of one block that compute the same thing from the same values be one.
func mergeEqual(b *ir.Block, f *ir.Func) int {
	n := 0
	seen := map[string]*ir.Op{}
	for _, op := range append([]*ir.Op(nil), b.Ops...) {
		if op.Loop != nil {
			n += mergeEqual(op.Loop.Body, f)
			continue
		}
		if len(op.Into) > 0 || len(op.Results) == 0 || op.Kind == "attention_cached" {
			continue
		}
		key := signature(op)
		first := seen[key]
		if first == nil {
			seen[key] = op
			continue
		}
		for i, r := range op.Results {
			f.Replace(r, first.Results[i])
		}
		op.Remove()
		n++
	}
	return n
}

// signature writes what op computes: its kind, operands and attributes.
func signature(op *ir.Op) string {
	var attrs []string
	for k, v := range op.Attrs {
		attrs = append(attrs, fmt.Sprintf("%s=%v", k, v))
	}
	sort.Strings(attrs)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v", op.Kind, attrs)
	for _, a := range op.Args {
		fmt.Fprintf(&b, " %p", a)
	}
	return b.String()
}

// effects are the ops that do something beside their results.
var effects = map[string]bool{"zero_grads": true, "adamw": true, "attention_cached": true}

// removeDead takes out ops whose results nobody reads.
func removeDead(f *ir.Func) int {
	n := 0
	for {
		uses := f.Uses()
		var dead []*ir.Op
		f.Walk(func(op *ir.Op) {
			if effects[op.Kind] || op.Loop != nil {
				return
			}
			for _, w := range op.Into {
				if w != nil {
					return
				}
			}
			for _, r := range op.Results {
				if len(uses[r]) > 0 {
					return
				}
			}
			dead = append(dead, op)
		})
		if len(dead) == 0 {
			return n
		}
		for _, op := range dead {
			op.Remove()
		}
		n += len(dead)
	}
}
