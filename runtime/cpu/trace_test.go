package cpu

import (
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/mask"
)

// TestTrace: every kernel of a decode step says what it is, with the bytes that it must move, once; and nothing after the end.
func TestTrace(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	var calls []Call
	p.Trace(func(c Call) { calls = append(calls, c) })
	x, y, m := benchMat(1, 64), benchMat(1, 96), benchMat(96, 64)
	w := newNarrow(p, Int8, m)
	calls = nil
	LinearNarrow(p, y, x, &w, Epilogue{})
	Linear(p, y, x, m, Epilogue{})
	LayerNorm(p, x, nil, x, make([]float32, 64), nil, LN{})
	cache := NewCache(1, 8, 4, 16, true)
	AttentionCached(p, x, x, x, x, &cache, []int32{5}, []int32{0}, &AttentionParams{Heads: 4, KVHeads: 4, HeadDim: 16, Scale: 1, Mask: mask.Causal()})
	p.Trace(nil)
	LinearNarrow(p, y, x, &w, Epilogue{})
	want := []Call{
		{Kernel: "LinearNarrow, activations", About: "int8 1 × 64", Bytes: 4*64 + 64},
		{Kernel: "LinearNarrow", About: "int8 1 × 96 × 64", Bytes: 96*64 + 96*2*2 + 4*(64+96), FLOPs: 2 * 96 * 64},
		{Kernel: "Linear", About: "f32 1 × 96 × 64", Bytes: 4 * (96*64 + 64 + 96), FLOPs: 2 * 96 * 64},
		{Kernel: "rowNorm", About: "1 × 64", Bytes: 4 * 2 * 64},
		{Kernel: "AttentionCached", About: "1 rows, 4 heads of 16", Bytes: 2*6*64*2 + 4*2*64, FLOPs: 4 * 6 * 64},
	}
	if len(calls) != len(want) {
		t.Fatalf("%d calls: %+v", len(calls), calls)
	}
	for i, c := range calls {
		w := want[i]
		if c.Kernel != w.Kernel || w.About != "" && c.About != w.About || w.Bytes > 0 && c.Bytes != w.Bytes || w.FLOPs > 0 && c.FLOPs != w.FLOPs || c.Time <= 0 {
			t.Errorf("call %d is %+v, want %+v", i, c, w)
		}
	}
}

func TestReadBandwidth(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		p := NewPool(2)
		defer p.Close()
		if b := ReadBandwidth(p, 1<<20); !(b > 1e7 && b < 1e13) {
			t.Errorf("%g bytes a second", b)
		}
	})
	if s := Int4.String(); strings.Contains(s, "%") || s != "int4" {
		t.Error(s)
	}
}
