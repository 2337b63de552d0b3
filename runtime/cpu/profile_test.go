package cpu

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/mask"
)

// TestProfile: a pool that records names each kernel with its place, its cost and its time, and the workers' slices lie within.
func TestProfile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x, w, y, dw := normal(r, 100, 64), normal(r, 96, 64), poisoned(100, 96), normal(r, 96, 64)
	o, lse := poisoned(100, 32), make([]float32, 200)
	a := &AttentionParams{Batch: 2, T: 50, Heads: 2, KVHeads: 2, HeadDim: 16, Mask: mask.And(mask.Causal(), mask.Window(20))}
	pairs := 0.0
	for i := range 50 {
		pairs += float64(min(i+1, 20))
	}
	for workers := 1; workers <= 3; workers++ {
		p := NewPool(workers).InBF16()
		p.Record()
		Linear(p, y, x, w, Epilogue{})
		Add(p, y, y, y)
		LinearWeightGrad(p, dw, y, x, true)
		Attention(p, o, lse, o, o, o, a)
		got := p.Recorded()
		want := []Kernel{
			{Name: "Linear 100×96×64", Type: "bf16", Bytes: 4 * (100*64 + 96*64 + 100*96), FLOPs: 2 * 100 * 96 * 64},
			{Name: "Add", Bytes: 4 * 3 * 100 * 96},
			{Name: "LinearWeightGrad 96×64×100", Type: "bf16", Bytes: 4 * (100*64 + 2*96*64 + 100*96), FLOPs: 2 * 100 * 96 * 64},
			{Name: "Attention", Type: "bf16", Bytes: 4 * 4 * 100 * 32, FLOPs: 4 * pairs * 2 * 2 * 16},
		}
		if len(got.Kernels) != len(want) || len(got.Workers) != workers {
			t.Fatalf("%d kernels of %d workers: %+v", len(got.Kernels), len(got.Workers), got.Kernels)
		}
		for i, k := range got.Kernels {
			if !strings.HasPrefix(k.Where, "profile_test.go:") || k.Time <= 0 || i > 0 && k.Begin < got.Kernels[i-1].Begin+got.Kernels[i-1].Time {
				t.Errorf("kernel %d: %+v", i, k)
			}
			k.Where, k.Begin, k.Time = "", 0, 0
			if k != want[i] {
				t.Errorf("kernel %d is %+v, want %+v", i, k, want[i])
			}
		}
		ran := map[int]int{}
		for _, list := range got.Workers {
			for _, s := range list {
				k := got.Kernels[s.Kernel]
				if s.Parts < 1 || s.Begin < k.Begin || s.Begin+s.Time > k.Begin+k.Time {
					t.Errorf("slice %+v of %+v", s, k)
				}
				ran[s.Kernel] += s.Parts
			}
		}
		if len(ran) != len(want) {
			t.Errorf("slices of %d kernels, want %d", len(ran), len(want))
		}
		Add(p, y, y, y) // nobody records
		p.Close()
	}
}

// TestProfileOfDecoding: every kernel of a decode step says what it must move and multiply.
func TestProfileOfDecoding(t *testing.T) {
	p := NewPool(2)
	defer p.Close()
	x, y, m, table := benchMat(1, 64), benchMat(1, 96), benchMat(96, 64), benchMat(1, 64)
	w := newNarrow(p, Int8, m)
	cache := NewCache(1, 8, 4, 16, true)
	p.Record()
	EmbedNarrow(p, table, &w, []int32{7}, 1)
	LinearNarrow(p, y, x, &w, Epilogue{})
	Linear(p, y, x, m, Epilogue{})
	LayerNorm(p, x, nil, x, make([]float32, 64), nil, LN{})
	AttentionCached(p, x, x, x, x, &cache, []int32{5}, []int32{0}, &AttentionParams{Heads: 4, KVHeads: 4, HeadDim: 16, Scale: 1, Mask: mask.Causal()})
	got := p.Recorded().Kernels
	const weights = 96*64 + 96*2*2 // codes, and a scale for each 32
	want := []Kernel{
		{Name: "EmbedNarrow int8", Bytes: weights/96 + 4*64},
		{Name: "LinearNarrow int8 1×96×64", Type: "int8", Bytes: weights + 4*(64+96), FLOPs: 2 * 96 * 64},
		{Name: "Linear 1×96×64", Type: "f32", Bytes: 4 * (96*64 + 64 + 96), FLOPs: 2 * 96 * 64},
		{Name: "LayerNorm", Bytes: 4 * 2 * 64},
		{Name: "AttentionCached", Type: "f32", Bytes: 2*(6+1)*64*2 + 4*4*64, FLOPs: 4 * 6 * 64},
	}
	if len(got) != len(want) {
		t.Fatalf("%d kernels: %+v", len(got), got)
	}
	for i, k := range got {
		if k.Time <= 0 {
			t.Errorf("kernel %d took %v", i, k.Time)
		}
		if k.Where, k.Begin, k.Time = "", 0, 0; k != want[i] {
			t.Errorf("kernel %d is %+v, want %+v", i, k, want[i])
		}
	}
}

func TestReadBandwidth(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		p := NewPool(2)
		defer p.Close()
		for _, bytes := range []int{0, 1000, 1<<20 + 4} {
			if b := p.ReadBandwidth(bytes); !(b > 1e7 && b < 1e13) {
				t.Errorf("%d bytes: %g bytes a second", bytes, b)
			}
		}
	})
}

// TestProductsTakeTheFasterRate: products in bf16 may be taken in f32, those in f32 not in bf16.
func TestProductsTakeTheFasterRate(t *testing.T) {
	for _, c := range []struct{ f32, bf16, wantF32, wantBF16 float64 }{{350, 160, 350, 350}, {350, 700, 350, 700}, {350, 0, 350, 350}} {
		m := Machine{Rates: []Rate{{"bf16", 512, c.bf16}, {"f32", 512, c.f32}, {"f32", 256, c.f32 / 2}}}
		if f32, bf16 := m.FLOPS("f32"), m.FLOPS("bf16"); f32 != c.wantF32 || bf16 != c.wantBF16 {
			t.Errorf("%+v: %g in f32, %g in bf16", c, f32, bf16)
		}
	}
}

// TestMeasure: what a machine is measured to reach is positive, has a row for each type, and costs no more than it says.
func TestMeasure(t *testing.T) {
	p := NewPool(0)
	defer p.Close()
	m := p.Measure()
	if m.FLOPS("f32") <= 0 || m.FLOPS("bf16") < m.FLOPS("f32") || m.FLOPS("f16") != 0 {
		t.Errorf("rates %+v", m.Rates)
	}
	for i, r := range m.Reads {
		if r.Bandwidth <= 0 || i > 0 && r.Bytes <= m.Reads[i-1].Bytes {
			t.Errorf("reads %+v", m.Reads)
		}
	}
}
