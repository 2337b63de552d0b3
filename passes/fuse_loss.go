package passes

import "github.com/tfc-dev/tfc/ir"

// fuseLoss merges linear, its bias, scale and soft cap with the cross-entropy that alone reads the logits.
func fuseLoss(f *ir.Func, o Options) (int, error) {
	n := 0
	for _, loss := range opsOf(f, "cross_entropy") {
		uses := f.Uses()
		v := loss.Args[0]
		attrs := ir.Attrs{}
		if o.Target != nil && o.Target.HeadTile > 0 {
			attrs["tile"] = max(o.Target.HeadTile, o.Target.HeadRows()*v.Type.Cols())
		}
		chain := []*ir.Op{}
		// step takes the op of a kind that gives v, if only the chain reads v.
		step := func(kind string) *ir.Op {
			op := v.Op
			if op == nil || op.Kind != kind || len(uses[v]) != 1 || op.Block != loss.Block {
				return nil
			}
			chain = append(chain, op)
			v = op.Args[0]
			return op
		}
		if op := step("softcap"); op != nil {
			attrs["softcap"] = op.Float("cap")
		}
		if op := step("scale"); op != nil {
			attrs["scale"] = op.Float("by")
		}
		var bias *ir.Value
		if op := step("bias"); op != nil {
			bias = op.Args[1]
		}
		lin := step("linear")
		if lin == nil || lin.Args[3] != nil || lin.Str("act") != "" {
			continue
		}
		if lin.Args[2] != nil {
			if bias != nil {
				continue
			}
			bias = lin.Args[2]
		}
		b := ir.NewBuilder(f, f.Body)
		b.Before(loss)
		b.Pos, b.By = loss.Pos, "fuse-loss"
		rows := loss.Results[1]
		b.Free(loss.Args[0].Name) // the tile takes the name of the logits
		b.Free(loss.Result().Name)
		b.Free(rows.Name)
		fused := b.Op("head_loss", []string{loss.Result().Name, rows.Name, "logits"}, []*ir.Value{lin.Args[0], lin.Args[1], bias, loss.Args[1], loss.Args[2]}, attrs)
		f.Replace(loss.Result(), fused.Result())
		for _, op := range append(chain, loss) {
			op.Remove()
		}
		n++
	}
	return n, nil
}
