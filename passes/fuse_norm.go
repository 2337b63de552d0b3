package passes

import "github.com/tfc-dev/tfc/ir"

// fuseNorm merges x = add(a, b) with the first norm of x in the same block.
func fuseNorm(f *ir.Func, _ Options) (int, error) {
	n := 0
	for _, norm := range opsOf(f, "layernorm", "rmsnorm") {
		add := norm.Args[0].Op
		if add == nil || add.Kind != "add" || add.Float("by") != 0 || add.Block != norm.Block || norm.Int("group") > 0 {
			continue
		}
		b := ir.NewBuilder(f, f.Body)
		b.Before(add)
		b.Pos, b.By = norm.Pos, "fuse-norm"
		olds := append([]*ir.Value{add.Result()}, norm.Results...)
		var names []string
		for _, v := range olds {
			names = append(names, v.Name)
			b.Free(v.Name)
		}
		fused := b.Op("add_"+norm.Kind, names, append([]*ir.Value{add.Args[0], add.Args[1]}, norm.Args[1:]...), norm.Attrs)
		for i, v := range olds {
			f.Replace(v, fused.Results[i])
		}
		add.Remove()
		norm.Remove()
		n++
	}
	return n, nil
}
