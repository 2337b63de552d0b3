package cpu

import (
	"math"
	"math/bits"

	"github.com/tfc-dev/tfc/runtime/mask"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// AttentionParams says how queries, keys and values become an output. The score of query i and key j of a head is
// Scale*q·k, then Softcap*tanh(score/Softcap), then less Slope*|i-j|; a row's probabilities are the softmax of the scores that
// Mask allows, then dropout.
//
// Matrices have a row for each token, sequence by sequence: q, o [Batch*T, Heads*HeadDim], k, v [Batch*T, KVHeads*HeadDim].
// Head h reads key-value head h/(Heads/KVHeads) (grouped-query attention, Ainslie et al. 2023).
type AttentionParams struct {
	Batch, T                int
	Heads, KVHeads, HeadDim int
	Scale                   float32
	Softcap                 float32   // 0: none
	Slopes                  []float32 // of ALiBi (Press, Smith, Lewis 2021), one a head; nil: none
	Mask                    mask.Mask // mask.And() for every key
	Dropout                 float32   // in [0, 1)
	Key                     rng.Key   // of dropout: probability (b, h, i, j) is element ((b*Heads+h)*T+i)*T+j

	tiling *tiling // of its products
}

const (
	queryTile = 64        // queries in a tile at most: with tiles of as many keys, causal attention computes little that it masks
	keyTile   = 64        // keys in a tile: the length of a mask word
	spanTiles = 4         // tiles side by side that share one product
	spanLine  = 4*64 + 16 // floats from one row of a span to the next; no power of two, so rows do not compete for cache sets
)

// Attention computes o, and in lse [Batch*Heads*T] the logarithm of each row's sum of exponentiated scores. A row without
// an allowed key is 0, its lse +Inf. It works tile by tile with a running softmax (Dao et al., "FlashAttention", 2022;
// Milakov, Gimelshein 2018), so memory does not grow with T². o may not be an operand.
func Attention(p *Pool, o Mat, lse []float32, q, k, v Mat, a *AttentionParams) {
	p.attention = attention{AttentionParams: *a, o: o, lse: lse, q: q, k: k, v: v, tiles: ceil(a.T, queryTile)}
	if p.recorder != nil {
		p.note("Attention", cost{bytes: moved(o, q, k, v), flops: 4 * a.pairs(), in: p.Factors()})
	}
	p.attention.tiling = p.tiling()
	p.run(&p.attention, a.Batch*a.Heads*p.attention.tiles)
}

// pairs is the number of multiply-adds of one product of queries and keys: the head size for each pair that Mask allows.
func (a *AttentionParams) pairs() float64 {
	n := 0
	for i := range a.T {
		for j := 0; j < a.T; j += keyTile {
			word := a.Mask.Word(i, j)
			if a.T-j < keyTile {
				word &= 1<<(a.T-j) - 1
			}
			n += bits.OnesCount64(word)
		}
	}
	return float64(n) * float64(a.Batch*a.Heads*a.HeadDim)
}

type attention struct {
	AttentionParams
	o, q, k, v Mat
	lse        []float32
	tiles      int // of queries in a sequence
}

func (k *attention) part(i int, s *scratch) {
	each := ceil(k.T, k.tiles)
	bh, first := i/k.tiles, i%k.tiles*each
	b, h := bh/k.Heads, bh%k.Heads
	n := min(each, k.T-first)
	rows := queries{n: n, head: h, position: first, step: 1, dropAt: uint64(bh) * uint64(k.T) * uint64(k.T)}
	k.attend(rows, s, k.lse[bh*k.T+first:][:n],
		k.head(k.o, h).RowRange(b*k.T+first, b*k.T+first+n),
		k.head(k.q, h).RowRange(b*k.T+first, b*k.T+first+n),
		k.head(k.k, k.kvHead(h)).RowRange(b*k.T, (b+1)*k.T),
		k.head(k.v, k.kvHead(h)).RowRange(b*k.T, (b+1)*k.T))
}

// head views the columns of head h.
func (a *AttentionParams) head(m Mat, h int) Mat { return m.Columns(h*a.HeadDim, (h+1)*a.HeadDim) }

func (a *AttentionParams) kvHead(h int) int { return h / (a.Heads / a.KVHeads) }

// queries says which rows a tile holds: either consecutive positions of one head (step 1) or, for generation, one position of
// consecutive heads (step 0).
type queries struct {
	n              int
	head, position int // of the first row
	step           int // from one row's position to the next
	dropAt         uint64
}

func (q *queries) at(r int) (head, position int) {
	return q.head + r*(1-q.step), q.position + r*q.step
}

// attend computes the output of some query rows over all of keys and values. lse may be nil.
func (a *AttentionParams) attend(rows queries, s *scratch, lse []float32, o, q, keys, values Mat) {
	buf := s.floats(queryTile*(spanLine+a.HeadDim+2) + spanLine)
	tile, buf := buf[:queryTile*spanLine], buf[queryTile*spanLine:]
	scaled, buf := NewMat(buf, rows.n, a.HeadDim), buf[queryTile*a.HeadDim:]
	keep, buf := buf[:spanLine], buf[spanLine:]
	top, sum := buf[:rows.n], buf[queryTile:][:rows.n] // of each row's scores so far
	for r := range rows.n {
		top[r], sum[r] = -inf, 0
		scaleTo(scaled.Row(r), q.Row(r), a.Scale)
	}

	beta := float32(0) // nothing in o yet
	var covers [spanTiles]mask.Cover
	for j := 0; j < keys.Rows; {
		n := a.span(&covers, rows, j, keys.Rows)
		if n == 0 {
			j += keyTile
			continue
		}
		probs := Mat{Data: tile, Rows: rows.n, Cols: n, Stride: spanLine}
		a.tiling.gemm(probs, scaled, keys.RowRange(j, j+n), false, true, 0, s)
		for r := range rows.n {
			row := probs.Row(r)
			a.score(row, rows, r, j, &covers, nil)
			high := maxOf(row)
			if high == -inf {
				clear(row)
				continue
			}
			if high > top[r] {
				old := float32(0) // of nothing
				if beta != 0 {
					old = exp32(top[r] - high)
				}
				top[r] = high
				sum[r] *= old
				if beta != 0 {
					out := o.Row(r)
					scaleTo(out, out, old)
				}
			}
			sum[r] += expRow(row, row, top[r])
			if a.Dropout > 0 {
				a.keep(keep[:n], rows, r, j)
				mulTo(row, row, keep)
			}
		}
		a.tiling.gemm(o, probs, values.RowRange(j, j+n), false, false, beta, s)
		beta = 1
		j += n
	}

	for r := range rows.n {
		out := o.Row(r)
		l := inf
		if sum[r] == 0 {
			clear(out)
		} else {
			scaleTo(out, out, 1/sum[r])
			l = top[r] + float32(math.Log(float64(sum[r])))
		}
		if lse != nil {
			lse[r] = l
		}
	}
}

// span returns the number of keys, from the given one on and below the given bound, in tiles that the mask does not empty, up
// to spanTiles of them, and their covers.
func (a *AttentionParams) span(covers *[spanTiles]mask.Cover, rows queries, key, keys int) (n int) {
	for t := range covers {
		if key+n >= keys {
			break
		}
		m := min(keyTile, keys-key-n)
		covers[t] = a.cover(rows, key+n, m)
		if covers[t] == mask.Empty {
			break
		}
		n += m
	}
	return n
}

// cover says how much of a tile the mask allows.
func (a *AttentionParams) cover(rows queries, key, n int) mask.Cover {
	_, last := rows.at(rows.n - 1)
	return a.Mask.Tile(rows.position, last+1, key, key+n)
}

// score turns a row of scaled products into scores: soft cap, ALiBi, then -Inf where the mask forbids. capped, unless
// nil, receives tanh(product/Softcap) for the gradient.
func (a *AttentionParams) score(row []float32, rows queries, r, key int, covers *[spanTiles]mask.Cover, capped []float32) {
	head, i := rows.at(r)
	if a.Softcap != 0 {
		if capped != nil {
			tanhRow(capped, row, 1/a.Softcap, 1)
			scaleTo(row, capped, a.Softcap)
		} else {
			tanhRow(row, row, 1/a.Softcap, a.Softcap)
		}
	}
	if a.Slopes != nil {
		slope := a.Slopes[head]
		for c := range row {
			row[c] -= slope * float32(max(i-key-c, key+c-i))
		}
	}
	for t := 0; t*keyTile < len(row); t++ {
		if covers[t] == mask.Full {
			continue
		}
		tile := row[t*keyTile : min((t+1)*keyTile, len(row))]
		forbidden := ^a.Mask.Word(i, key+t*keyTile)
		if len(tile) < keyTile {
			forbidden &= 1<<len(tile) - 1
		}
		for ; forbidden != 0; forbidden &= forbidden - 1 {
			tile[bits.TrailingZeros64(forbidden)] = -inf
		}
	}
}

// keep writes the dropout factors of a tile's row.
func (a *AttentionParams) keep(factors []float32, rows queries, r, key int) {
	_, i := rows.at(r)
	keepTo(factors, a.Dropout, a.Key, rows.dropAt+uint64(i)*uint64(a.T)+uint64(key))
}

// maxOf returns the largest element, -Inf only where all are: a NaN counts for more.
func maxOf(x []float32) float32 {
	m, done := maxVector(x)
	for _, v := range x[done:] {
		m = max(m, v)
	}
	if m == -inf { // the vector kernels may lose a NaN
		for _, v := range x {
			m = max(m, v)
		}
	}
	return m
}
