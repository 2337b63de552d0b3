package passes

import "github.com/tfc-dev/tfc/ir"

// fuseGLU merges, on a GPU and in 16 bits, a gated activation into the product that gives its gate and up, and its derivative into the
// product before that: between them they keep what the derivative multiplies by, and nothing else may read it. What a checkpoint policy
// chose stays: a layer that computes its activation again from gate and up is left as it is.
func fuseGLU(f *ir.Func, o Options) (int, error) {
	n := 0
	if o.Target == nil || !o.Target.CUDA {
		return n, nil
	}
	for _, op := range opsOf(f, "glu") {
		n += fuseGated(f, op)
	}
	return n, nil
}

// wholePieces is how many elements of 16 bits the kernels for gated products move at once: columns come in so many.
const wholePieces = 8

func fuseGated(f *ir.Func, glu *ir.Op) int {
	split := glu.Args[0].Op
	if split == nil || split.Kind != "split" || len(split.Results) != 2 || split.Block != glu.Block || glu.Args[0] != split.Results[0] || glu.Args[1] != split.Results[1] {
		return 0
	}
	lin := split.Args[0].Op
	if lin == nil || lin.Kind != "linear" || lin.Block != glu.Block || lin.Args[3] != nil || lin.Str("act") != "" || lin.Str("weights") != "" || !onlyReader(f, lin.Result(), split) {
		return 0
	}
	y := glu.Result().Type
	if y.DType == ir.F32 || y.Cols()%wholePieces != 0 || lin.Args[1].Type.Cols()%wholePieces != 0 {
		return 0
	}
	var grads []gluGradient
	for _, use := range f.Uses()[split.Results[0]] {
		if use == glu {
			continue
		}
		g, ok := gluGradientOf(f, use, split)
		if !ok {
			return 0
		}
		grads = append(grads, g)
	}
	if len(f.Uses()[split.Results[1]]) != 1+len(grads) {
		return 0
	}

	b := ir.NewBuilder(f, f.Body)
	b.By = "fuse-glu"
	b.Before(lin)
	b.Pos = lin.Pos
	old, pre := glu.Result(), lin.Result()
	b.Free(old.Name)
	b.Free(pre.Name)
	made := b.Op("linear_glu", []string{old.Name, pre.Name}, lin.Args[:3], ir.Attrs{"fn": glu.Str("fn")}).Results
	made[0].Type, made[1].Type = old.Type, pre.Type
	f.Replace(old, made[0])
	for _, g := range grads {
		d := g.concat.Result()
		b.Before(g.concat)
		b.Pos = g.dx.Pos
		b.Free(d.Name)
		dPre := b.Op("linear_glu_dx", []string{d.Name}, []*ir.Value{g.dx.Args[0], g.dx.Args[1], made[1]}, ir.Attrs{"fn": glu.Str("fn")}).Result()
		dPre.Type = d.Type
		f.Replace(d, dPre)
		for _, op := range []*ir.Op{g.concat, g.grad, g.dx} {
			op.Remove()
		}
		for _, use := range f.Uses()[dPre] { // as fuseColumnSums
			if use != nil && use.Kind == "bias_grad" && use.Block == dPre.Block {
				dPre.Op.Into = use.Into
				use.Remove()
				break
			}
		}
	}
	for _, op := range []*ir.Op{glu, split, lin} {
		op.Remove()
	}
	return 1
}

// gluGradient is the derivative of a gated activation between the product that it takes its gradient from and its own gradients side by
// side.
type gluGradient struct{ dx, grad, concat *ir.Op }

// gluGradientOf returns what use is a part of, where that reads the halves of a split and nothing else reads what is inside.
func gluGradientOf(f *ir.Func, use *ir.Op, halves *ir.Op) (gluGradient, bool) {
	if use == nil || use.Kind != "glu_grad" || use.Args[1] != halves.Results[0] || use.Args[2] != halves.Results[1] {
		return gluGradient{}, false
	}
	g := gluGradient{dx: use.Args[0].Op, grad: use}
	if g.dx == nil || g.dx.Kind != "linear_dx" || g.dx.Args[2] != nil || g.dx.Args[3] != nil || len(g.dx.Into) > 0 || !onlyReader(f, use.Args[0], use) || g.dx.Args[1].Type.Rows()%wholePieces != 0 {
		return g, false
	}
	readers := f.Uses()[use.Results[0]]
	if len(readers) != 1 || readers[0] == nil {
		return g, false
	}
	g.concat = readers[0]
	return g, g.concat.Kind == "concat" && len(g.concat.Args) == 2 && g.concat.Args[0] == use.Results[0] && g.concat.Args[1] == use.Results[1] &&
		onlyReader(f, use.Results[0], g.concat) && onlyReader(f, use.Results[1], g.concat)
}
