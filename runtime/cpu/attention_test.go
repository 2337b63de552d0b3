package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tfc-dev/tfc/runtime/mask"
	"github.com/tfc-dev/tfc/runtime/quant"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// plainAttention is Attention in float64, a row at a time.
func plainAttention(q, k, v []float64, a *AttentionParams) (o, lse []float64) {
	o = make([]float64, len(q))
	for b := range a.Batch {
		for h := range a.Heads {
			for i := range a.T {
				row := ((b*a.T+i)*a.Heads + h) * a.HeadDim
				key := func(x []float64, j int) []float64 {
					at := ((b*a.T+j)*a.KVHeads + h/(a.Heads/a.KVHeads)) * a.HeadDim
					return x[at : at+a.HeadDim]
				}
				lse = append(lse, plainRow(o[row:row+a.HeadDim], q[row:row+a.HeadDim],
					func(j int) []float64 { return key(k, j) }, func(j int) []float64 { return key(v, j) },
					a, b, h, i, a.T))
			}
		}
	}
	return o, lse
}

func plainRow(o, q []float64, k, v func(j int) []float64, a *AttentionParams, b, h, i, n int) (lse float64) {
	scores := make([]float64, n)
	top := math.Inf(-1)
	for j := range scores {
		s := float64(a.Scale) * weighted(q, k(j))
		if a.Softcap != 0 {
			s = float64(a.Softcap) * math.Tanh(s/float64(a.Softcap))
		}
		if a.Slopes != nil {
			s -= float64(a.Slopes[h]) * math.Abs(float64(i-j))
		}
		if !a.Mask.Allowed(i, j) {
			s = math.Inf(-1)
		}
		scores[j] = s
		top = max(top, s)
	}
	if math.IsInf(top, -1) {
		return math.Inf(1)
	}
	sum := 0.0
	for _, s := range scores {
		sum += math.Exp(s - top)
	}
	for j, s := range scores {
		p := math.Exp(s-top) / sum
		if a.Dropout > 0 {
			if !a.Key.Keep(uint64(((b*a.Heads+h)*a.T+i)*a.T+j), a.Dropout) {
				continue
			}
			p /= 1 - float64(a.Dropout)
		}
		for d, x := range v(j) {
			o[d] += p * x
		}
	}
	return top + math.Log(sum)
}

var masks = []mask.Mask{
	mask.Causal(),
	mask.And(),
	mask.Window(20),
	mask.And(mask.Causal(), mask.Window(70)),
	mask.And(mask.Causal(), mask.Or(mask.Window(9), mask.Global(3))),
	mask.And(mask.Causal(), mask.Or(mask.Window(4), mask.Global(2), mask.Stride(7))),
	mask.Prefix(40),
	mask.Causal().Blocks(24),
	mask.Or(mask.Global(5), mask.Window(3)),
	mask.And(mask.Causal(), mask.Or(mask.Window(2).Blocks(16), mask.Stride(3).Blocks(8), mask.Global(1).Blocks(8))),
	mask.Prefix(3).Blocks(10),
	mask.And(mask.Window(2), mask.Global(3)), // rows without a key
}

// attentionCases pairs every mask with shapes and features in turn.
func attentionCases(f func(name string, a AttentionParams, r *rand.Rand)) {
	lengths, dims := []int{1, 65, 2, 130, 31, 33, 66}, []int{4, 12, 64, 80, 16}
	heads := [][2]int{{1, 1}, {4, 1}, {4, 2}, {3, 3}}
	for n := range 3 * len(masks) {
		hd := heads[n%len(heads)]
		a := AttentionParams{Batch: 1 + n%3%2, T: lengths[n%len(lengths)], Heads: hd[0], KVHeads: hd[1], HeadDim: dims[n%len(dims)],
			Mask: masks[n%len(masks)], Key: rng.Key{Seed: uint64(n), Stream: 3}}
		if n%14 == 3 { // several spans
			a.T, a.HeadDim, a.Batch = 290, 4, 1
		}
		a.Scale = float32(1 / math.Sqrt(float64(a.HeadDim)))
		if n%7 == 1 || n%7 == 3 {
			a.Softcap = 2.5
		}
		if n%5 == 2 || n%7 == 3 {
			for h := range a.Heads {
				a.Slopes = append(a.Slopes, float32(math.Pow(2, -float64(h+1))))
			}
		}
		if n%3 == 1 {
			a.Dropout = 0.3
		}
		f(fmt.Sprintf("%d/%s/T%d/%dx%dx%d", n, a.Mask, a.T, a.Heads, a.KVHeads, a.HeadDim), a, rand.New(rand.NewPCG(uint64(n), 9)))
	}
}

// projected returns views of q, k and v as columns of one matrix.
func projected(r *rand.Rand, a *AttentionParams) (all, q, k, v Mat) {
	width := a.HeadDim * a.Heads
	kv := a.HeadDim * a.KVHeads
	all = normal(r, a.Batch*a.T, width+2*kv)
	return all, all.Columns(0, width), all.Columns(width, width+kv), all.Columns(width+kv, width+2*kv)
}

func TestAttention(t *testing.T) {
	attentionCases(func(name string, a AttentionParams, r *rand.Rand) {
		t.Run(name, func(t *testing.T) {
			_, q, k, v := projected(r, &a)
			o := poisoned(q.Rows, q.Cols)
			lse := make([]float32, a.Batch*a.Heads*a.T)
			sameOnAnyPool(t, func(p *Pool) { Attention(p, o, lse, q, k, v, &a) }, o.Data, lse)
			q64, k64, v64 := dense(q), dense(k), dense(v)
			want, wantLSE := plainAttention(q64, k64, v64, &a)
			near(t, "o", dense(o), want, 1e-5)
			near(t, "lse", wide(lse), wantLSE, 1e-5)

			do := normal(r, o.Rows, o.Cols)
			dall, _, _, _ := projected(r, &a)
			dq, dk, dv := dall.Columns(0, q.Cols), dall.Columns(q.Cols, q.Cols+k.Cols), dall.Columns(q.Cols+k.Cols, q.Cols+2*k.Cols)
			sameOnAnyPool(t, func(p *Pool) { AttentionGrad(p, dq, dk, dv, do, q, k, v, o, lse, &a) }, dall.Data)
			do64 := dense(do)
			loss := func() float64 {
				o, _ := plainAttention(q64, k64, v64, &a)
				return weighted(do64, o)
			}
			slopes(t, "dq", r, q64, dense(dq), loss)
			slopes(t, "dk", r, k64, dense(dk), loss)
			slopes(t, "dv", r, v64, dense(dv), loss)
		})
	})
}

func TestAttentionKeepsNaN(t *testing.T) {
	a := AttentionParams{Batch: 1, T: 70, Heads: 1, KVHeads: 1, HeadDim: 8, Scale: 1, Mask: mask.Causal()}
	_, q, k, v := projected(rand.New(rand.NewPCG(1, 1)), &a)
	fill(q.Row(66), nan)
	o, lse := poisoned(70, 8), make([]float32, 70)
	p := NewPool(1)
	defer p.Close()
	Attention(p, o, lse, q, k, v, &a)
	for i := range 70 {
		if got := o.Row(i)[0]; (got != got) != (i == 66) {
			t.Errorf("row %d is %v", i, got)
		}
	}
}

// A step of generation: rows of one call.
type cachedRow struct{ slot, position int }

func TestAttentionCached(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		for _, bf16 := range []bool{false, true} {
			t.Run(fmt.Sprintf("bf16=%v", bf16), func(t *testing.T) { attentionCachedCases(t, bf16) })
		}
	})
}

func attentionCachedCases(t *testing.T, bf16 bool) {
	span := func(slot, from, to int) (rows []cachedRow) {
		for at := from; at < to; at++ {
			rows = append(rows, cachedRow{slot, at})
		}
		return rows
	}
	join := func(parts ...[]cachedRow) (rows []cachedRow) {
		for _, p := range parts {
			rows = append(rows, p...)
		}
		return rows
	}
	calls := [][]cachedRow{
		span(2, 0, 1),                           // a prompt of one
		span(0, 0, 130),                         // a long prompt
		join(span(0, 130, 131), span(2, 1, 2)),  // a token each
		join(span(1, 0, 65), span(0, 131, 132)), // a prompt beside a token
		join(span(1, 65, 66), span(0, 132, 133), span(2, 2, 33)),
		{{2, 33}, {0, 133}, {2, 34}, {1, 66}, {0, 134}}, // rows of a slot apart
		{{1, 60}, {1, 50}, {0, 51}, {2, 30}},            // runs that end for one reason alone
		span(1, 40, 50),                                 // back to an earlier position
		span(0, 0, 20),                                  // another sequence in an old slot
	}
	const slots, maxT = 3, 136
	done := 0
	attentionCases(func(name string, a AttentionParams, r *rand.Rand) {
		if done++; done > len(masks) {
			return
		}
		a.Dropout = 0
		if a.Heads == 4 && a.KVHeads == 1 {
			a.Heads = 70 // more than a tile of heads
			a.HeadDim = 4
			if a.Slopes != nil {
				a.Slopes = make([]float32, a.Heads)
				for h := range a.Slopes {
					a.Slopes[h] = r.Float32() / 4
				}
			}
		}
		t.Run(name, func(t *testing.T) {
			width := a.KVHeads * a.HeadDim
			keys, values := make([]float64, slots*maxT*width), make([]float64, slots*maxT*width)
			cache := NewCache(slots, maxT, a.KVHeads, a.HeadDim, bf16)
			for i := range cache.k {
				cache.k[i] = 0xff // NaN in either type
			}
			for i := range cache.v {
				cache.v[i] = 0xff
			}
			kept := NewPool(2) // sees all calls, as in a server
			defer kept.Close()
			for c, rows := range calls {
				var positions, at []int32
				stored := map[int]int{}
				for _, row := range rows {
					positions, at = append(positions, int32(row.position)), append(at, int32(row.slot))
					stored[row.slot] = max(stored[row.slot], row.position+1)
				}
				b := a
				b.Batch, b.T = 1, len(rows)
				_, q, k, v := projected(r, &b)
				o := poisoned(q.Rows, q.Cols)
				sameOnAnyPool(t, func(p *Pool) { AttentionCached(p, o, q, k, v, &cache, positions, at, &a) }, o.Data)
				again := poisoned(o.Rows, o.Cols)
				AttentionCached(kept, again, q, k, v, &cache, positions, at, &a)
				near(t, "o on a used pool", dense(again), dense(o), 0)

				for n, row := range rows {
					to := (row.slot*maxT + row.position) * width
					copy(keys[to:to+width], wide(held(k.Row(n), bf16)))
					copy(values[to:to+width], wide(held(v.Row(n), bf16)))
				}
				for n, row := range rows {
					for h := range a.Heads {
						head := func(x []float64, j int) []float64 {
							from := (row.slot*maxT+j)*width + h/(a.Heads/a.KVHeads)*a.HeadDim
							return x[from : from+a.HeadDim]
						}
						want := make([]float64, a.HeadDim)
						plainRow(want, wide(q.Row(n)[h*a.HeadDim:][:a.HeadDim]), func(j int) []float64 { return head(keys, j) },
							func(j int) []float64 { return head(values, j) }, &a, 0, h, row.position, stored[row.slot])
						near(t, fmt.Sprintf("call %d, row %d, head %d", c, n, h), wide(o.Row(n)[h*a.HeadDim:][:a.HeadDim]), want, 1e-5)
					}
				}
			}
		})
	})
}

// held is a row as the cache holds it.
func held(x []float32, bf16 bool) []float32 {
	y := append([]float32(nil), x...)
	for i := range y {
		if bf16 {
			y[i] = quant.FromBF16(quant.BF16(y[i]))
		}
	}
	return y
}

// A token's output must not depend on what else is in the call.
func TestAttentionCachedIgnoresOtherSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	a := AttentionParams{Heads: 4, KVHeads: 2, HeadDim: 16, Scale: 0.25, Mask: mask.Causal()}
	const slots, maxT, width = 5, 70, 32
	cache := randomCache(r, slots, maxT, 2, 16)
	q, k, v := normal(r, slots, 64), normal(r, slots, width), normal(r, slots, width)
	positions, at := []int32{69, 3, 66, 0, 30}, []int32{0, 1, 2, 3, 4}
	p := NewPool(2)
	defer p.Close()
	all := poisoned(slots, 64)
	AttentionCached(p, all, q, k, v, &cache, positions, at, &a)
	for n := range slots {
		one := poisoned(1, 64)
		AttentionCached(p, one, q.RowRange(n, n+1), k.RowRange(n, n+1), v.RowRange(n, n+1), &cache, positions[n:n+1], at[n:n+1], &a)
		near(t, "row", dense(one), dense(all.RowRange(n, n+1)), 0)
	}
}

// randomCache returns a full cache.
func randomCache(r *rand.Rand, slots, maxT, heads, headDim int) Cache {
	c, s := NewCache(slots, maxT, heads, headDim, false), newScratch(0)
	for slot := range slots {
		for position := range maxT {
			for head := range heads {
				c.store(slot, head, position, randoms(r, headDim), randoms(r, headDim), s)
			}
		}
	}
	return c
}

func benchmarkParams(T int) AttentionParams {
	return AttentionParams{Batch: 1, T: T, Heads: 8, KVHeads: 8, HeadDim: 64, Scale: 0.125, Mask: mask.Causal()}
}

// BenchmarkAttention measures causal attention at the shapes of the bench specs, 4 sequences of 256 tokens, and of a longer one,
// with the head's columns side by side as qkv has them. FLOPs are those of allowed pairs.
func BenchmarkAttention(b *testing.B) {
	for _, in := range []string{"f32", "bf16"} {
		for _, d := range []struct{ batch, t, heads, width int }{{4, 256, 8, 64}, {1, 1024, 12, 64}, {1, 2048, 4, 128}} {
			a := &AttentionParams{Batch: d.batch, T: d.t, Heads: d.heads, KVHeads: d.heads, HeadDim: d.width, Scale: 0.125, Mask: mask.Causal()}
			rows, cols := d.batch*d.t, d.heads*d.width
			qkv, o, do, dqkv := benchMat(rows, 3*cols), benchMat(rows, cols), benchMat(rows, cols), benchMat(rows, 3*cols)
			q, k, v := qkv.Columns(0, cols), qkv.Columns(cols, 2*cols), qkv.Columns(2*cols, 3*cols)
			dq, dk, dv := dqkv.Columns(0, cols), dqkv.Columns(cols, 2*cols), dqkv.Columns(2*cols, 3*cols)
			lse := make([]float32, d.batch*d.heads*d.t)
			p := NewPool(0)
			if in == "bf16" {
				p.InBF16()
			}
			name := fmt.Sprintf("/%dx%dx%dx%d/%s", d.batch, d.t, d.heads, d.width, in)
			b.Run("forward"+name, func(b *testing.B) {
				benchmarkGFLOPS(b, int(4*a.pairs()), func() { Attention(p, o, lse, q, k, v, a) })
			})
			b.Run("backward"+name, func(b *testing.B) {
				benchmarkGFLOPS(b, int(10*a.pairs()), func() { AttentionGrad(p, dq, dk, dv, do, q, k, v, o, lse, a) })
			})
			p.Close()
		}
	}
}

func BenchmarkAttentionDecode(b *testing.B) {
	const slots, maxT, width = 4, 1024, 512
	a := benchmarkParams(1)
	r := rand.New(rand.NewPCG(1, 1))
	cache := randomCache(r, slots, maxT, 8, 64)
	q, k, v, o := normal(r, slots, width), normal(r, slots, width), normal(r, slots, width), poisoned(slots, width)
	p := NewPool(0)
	defer p.Close()
	b.SetBytes(slots * maxT * width * 2 * 4)
	b.ReportAllocs()
	for b.Loop() {
		AttentionCached(p, o, q, k, v, &cache, []int32{1023, 1023, 1023, 1023}, []int32{0, 1, 2, 3}, &a)
	}
}

// TestAttentionInPairs holds attention on panels of pairs, as the instructions for bf16 take them, alone or in tiles, to attention on panels of rounded
// floats: on every machine, for what both share cuts panels at steps and columns.
func TestAttentionInPairs(t *testing.T) {
	choose()
	before := active
	defer func() { active = before }()
	const batch, heads, kvHeads, width, T = 2, 4, 2, 24, 301
	a := &AttentionParams{Batch: batch, T: T, Heads: heads, KVHeads: kvHeads, HeadDim: width, Scale: 0.2}
	r := rand.New(rand.NewPCG(3, 3))
	q, do := normal(r, batch*T, heads*width), normal(r, batch*T, heads*width)
	k, v := normal(r, batch*T, kvHeads*width), normal(r, batch*T, kvHeads*width)
	for _, m := range []mask.Mask{mask.And(mask.Causal()), mask.And(mask.Causal(), mask.Window(70)), mask.And()} {
		a.Mask = m
		run := func(in *tiling) []Mat {
			variant := *plain
			variant.bf16 = in
			active = &variant
			p := NewPool(2).InBF16()
			defer p.Close()
			o, dq, dk, dv := poisoned(batch*T, heads*width), poisoned(batch*T, heads*width), poisoned(batch*T, kvHeads*width), poisoned(batch*T, kvHeads*width)
			lse := make([]float32, batch*heads*T)
			Attention(p, o, lse, q, k, v, a)
			AttentionGrad(p, dq, dk, dv, do, q, k, v, o, lse, a)
			return []Mat{o, NewMat(lse, 1, len(lse)), dq, dk, dv}
		}
		want := run(plainTiling.rounded())
		for in, tiling := range map[string]*tiling{"pairs": pairTiling, "tiles": tileTiling} {
			got := run(tiling)
			for n, name := range []string{"o", "lse", "dq", "dk", "dv"} {
				nearRows(t, fmt.Sprint(m, " ", in, " ", name), got[n], func(i, j int) float64 { return float64(want[n].Row(i)[j]) }, pairsTolerance)
			}
		}
	}
}

// pairsTolerance allows for sums in another order, which round a probability to the other of two neighbours in bf16.
const pairsTolerance = 0.01

// pairTiling has pairs of bf16 in an element of a panel, in plain Go.
var pairTiling = &tiling{
	mr: 4, nr: 4, grouping: inPairs,
	tileRows: []int{4}, tiles: []tileKernel{func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool) {
		as, bs := panels(k, a, b, ldb)
		half := func(x float32) (low, high float32) {
			bits := math.Float32bits(x)
			return math.Float32frombits(bits << 16), math.Float32frombits(bits & 0xffff0000)
		}
		for i := range 4 {
			var sums [4]float32
			for l := range k {
				for j := range sums {
					x0, x1 := half(as[l*4+i])
					y0, y1 := half(bs[l*(ldb/4)+j])
					sums[j] += x0*y0 + x1*y1
				}
			}
			store4(offset(c, i*ldc), add, sums[0], sums[1], sums[2], sums[3])
		}
	}},
	blockK: 512, partRows: 64,
	packA: packer{width: 4, grouping: inPairs}, packB: packer{width: 4, grouping: inPairs},
}
