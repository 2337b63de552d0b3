package passes

import "github.com/tfc-dev/tfc/ir"

func checkpoint(f *ir.Func, o Options) (int, error) { return 0, nil }
