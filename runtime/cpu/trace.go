package cpu

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"time"
)

// A Call is one kernel that a pool ran, or a part of one that waits for all workers.
type Call struct {
	Kernel string
	About  string  // types and sizes
	Bytes  float64 // that it must move at least
	FLOPs  float64 // a multiply-add counts as two
	Time   time.Duration
}

// Trace calls record after every kernel from now on; nil ends that. It is for measurements: a call takes time itself.
func (p *Pool) Trace(record func(Call)) { p.trace = record }

// traced runs a kernel and records it.
func (p *Pool) traced(t task, n int) {
	c := describe(t)
	begin := time.Now()
	p.runParts(t, n)
	c.Time = time.Since(begin)
	p.trace(c)
}

// describe says what a kernel is, by what it is about to work on.
func describe(t task) Call {
	floats := func(ms ...Mat) (bytes float64) {
		for _, m := range ms {
			if m.Data != nil {
				bytes += 4 * float64(m.Rows*m.Cols)
			}
		}
		return bytes
	}
	product := func(kernel, kind string, rows, out, in int, weights float64, x, y Mat) Call {
		return Call{kernel, fmt.Sprintf("%s %d × %d × %d", kind, rows, out, in), weights + floats(x, y), 2 * float64(rows) * float64(out) * float64(in), 0}
	}
	switch k := t.(type) {
	case *narrowPart:
		return product("LinearNarrow", k.w.Type.String(), k.x.Rows, k.w.Rows, k.w.Cols, float64(k.w.Bytes()), k.x, k.y)
	case *narrowPrepare:
		return Call{"LinearNarrow, activations", fmt.Sprintf("%v %d × %d", k.w.Type, k.x.Rows, k.x.Cols), floats(k.x) + float64(len(k.narrowX.x)), floats(k.x), 0}
	case *narrowRows:
		return Call{"EmbedNarrow", fmt.Sprintf("%v %d × %d", k.table.Type, k.y.Rows, k.y.Cols), floats(k.y), 0, 0}
	case *fewParts:
		return product("Linear", "f32", k.a.Rows, k.b.Rows, k.b.Cols, floats(k.b), k.a, k.c)
	case *blockParts:
		return product("Linear", "f32", k.a.Rows, k.nc, k.kc, floats(k.b)*float64(k.nc)/float64(k.b.Rows), k.a, k.c)
	case *packParts:
		return Call{"Linear, packing", fmt.Sprintf("f32 %d × %d", k.nc, k.kc), 8 * float64(k.nc*k.kc), 0, 0}
	case *cacheWrite:
		return Call{"AttentionCached, storing", fmt.Sprintf("%d × %d", k.k.Rows, k.k.Cols), 2*floats(k.k) + 2*float64(k.k.Rows*k.k.Cols*(blockBytes/k.cache.block())), 0, 0}
	case *attentionCached:
		seen, pairs := 0, 0
		for _, r := range k.runs {
			seen += k.stored[r.slot]
			pairs += r.n * k.stored[r.slot]
		}
		width := k.KVHeads * k.HeadDim
		return Call{"AttentionCached", fmt.Sprintf("%d rows, %d heads of %d", k.q.Rows, k.Heads, k.HeadDim),
			2*float64(seen*width*(blockBytes/k.cache.block())) + floats(k.q, k.o), 4 * float64(pairs*k.Heads*k.HeadDim), 0}
	case *rowwise:
		name := runtime.FuncForPC(reflect.ValueOf(k.row).Pointer()).Name()
		if k.ids != nil { // rows of a table
			return Call{name[strings.LastIndexByte(name, '.')+1:], fmt.Sprintf("%d × %d", k.y.Rows, k.y.Cols), 2 * floats(k.y), 0, 0}
		}
		return Call{name[strings.LastIndexByte(name, '.')+1:], fmt.Sprintf("%d × %d", k.y.Rows, k.y.Cols), floats(k.y, k.y2, k.a, k.b, k.c), 0, 0}
	}
	return Call{Kernel: strings.TrimPrefix(fmt.Sprintf("%T", t), "*cpu.")}
}
