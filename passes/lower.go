package passes

import (
	"fmt"

	"github.com/tfc-dev/tfc/ir"
)

func lower(f *ir.Func, o Options) (int, error) { return 0, fmt.Errorf("x") }
