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
	groupRows = 256       // queries of a head in a part at most: for them, a span of keys and values is packed once
	spanLine  = 4*64 + 16 // floats from one row of a span to the next; no power of two, so rows do not compete for cache sets
)

// Attention computes o, and in lse [Batch*Heads*T] the logarithm of each row's sum of exponentiated scores. A row without
// an allowed key is 0, its lse +Inf. It works tile by tile with a running softmax (Dao et al., "FlashAttention", 2022;
// Milakov, Gimelshein 2018), so memory does not grow with T². o may not be an operand.
func Attention(p *Pool, o Mat, lse []float32, q, k, v Mat, a *AttentionParams) {
	p.attention = attention{AttentionParams: *a, o: o, lse: lse, q: q, k: k, v: v, groups: ceil(a.T, groupRows)}
	if p.recorder != nil {
		p.note("Attention", cost{bytes: moved(o, q, k, v), flops: 4 * a.pairs(), in: p.Factors()})
	}
	p.attention.tiling = p.tiling()
	p.run(&p.attention, a.Batch*a.Heads*p.attention.groups)
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
	groups     int // of queries in a sequence
}

func (k *attention) part(i int, s *scratch) {
	each := ceil(k.T, k.groups)
	bh, first := i/k.groups, i%k.groups*each
	b, h := bh/k.Heads, bh%k.Heads
	n := min(each, k.T-first)
	if n <= 0 {
		return
	}
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

// attendTile is a tile of queries on its way over the keys.
type attendTile struct {
	rows     queries
	o, q     Mat       // q times Scale
	top, sum []float32 // of each row's scores so far
	started  bool      // o holds something
}

// attendSpan is the working memory of one span of keys.
type attendSpan struct {
	first, n     int       // the span: the first key, and how many
	probs, keep  []float32 // [queryTile][spanLine], [spanLine]
	keys, values []float32 // packed
	isPacked     bool
}

// attend computes the output of at most groupRows queries of a head over all of its keys and values.
func (a *AttentionParams) attend(rows queries, s *scratch, lse []float32, o, q, keys, values Mat) {
	const span = spanTiles * keyTile
	across, along := a.tiling.packed(span, a.HeadDim), a.tiling.packed(a.HeadDim, span)
	buf := s.floats((queryTile+1)*spanLine + rows.n*(a.HeadDim+2) + across + along)
	take := func(n int) (taken []float32) {
		taken, buf = buf[:n:n], buf[n:]
		return taken
	}
	t := attendSpan{probs: take(queryTile * spanLine), keep: take(spanLine), keys: take(across), values: take(along)}
	fetch(q)
	fetch(o)
	scaled, top, sum := NewMat(take(rows.n*a.HeadDim), rows.n, a.HeadDim), take(rows.n), take(rows.n)
	for r := range rows.n {
		top[r], sum[r] = -inf, 0
		scaleTo(scaled.Row(r), q.Row(r), a.Scale)
	}
	var tiles [groupRows / queryTile]attendTile
	count := ceil(rows.n, queryTile)
	each := ceil(rows.n, count)
	for x := range count {
		from, to := min(x*each, rows.n), min((x+1)*each, rows.n)
		tiles[x] = attendTile{rows: rows, o: o.RowRange(from, to), q: scaled.RowRange(from, to), top: top[from:to], sum: sum[from:to]}
		tiles[x].rows.position += from
		tiles[x].rows.n = to - from
	}

	var covers [spanTiles]mask.Cover
	for t.first = 0; t.first < keys.Rows; t.first += span {
		t.n, t.isPacked = min(span, keys.Rows-t.first), false
		for x := range count {
			for j := t.first; tiles[x].rows.n > 0 && j < t.first+t.n; {
				n := a.span(&covers, tiles[x].rows, j, t.first+t.n)
				if n == 0 {
					j += keyTile
					continue
				}
				if !t.isPacked {
					fetch(keys.RowRange(t.first, t.first+t.n))
					fetch(values.RowRange(t.first, t.first+t.n))
					a.tiling.packB.panels(t.keys, operand{keys, true}, t.first, t.n, 0, a.HeadDim)
					a.tiling.packB.panels(t.values, operand{values, false}, 0, a.HeadDim, t.first, t.n)
					t.isPacked = true
				}
				a.attendKeys(&tiles[x], j, n, &covers, &t, s)
				j += n
			}
		}
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
		lse[r] = l
	}
}

// attendKeys takes n keys from key j on, all of the span at hand, into a tile's output.
func (a *AttentionParams) attendKeys(tile *attendTile, j, n int, covers *[spanTiles]mask.Cover, t *attendSpan, s *scratch) {
	rows, top, sum := tile.rows, tile.top, tile.sum
	probs := Mat{Data: t.probs, Rows: rows.n, Cols: n, Stride: spanLine}
	a.tiling.times(probs, operand{tile.q, true}, a.tiling.panelRange(t.keys, a.HeadDim, j-t.first, 0), a.HeadDim, 0, s)
	for r := range rows.n {
		row := probs.Row(r)
		a.score(row, rows, r, j, covers, nil)
		high := maxOf(row)
		if high == -inf {
			clear(row)
			continue
		}
		if high > top[r] {
			old := float32(0) // of nothing
			if tile.started {
				old = exp32(top[r] - high)
			}
			top[r] = high
			sum[r] *= old
			if tile.started {
				out := tile.o.Row(r)
				scaleTo(out, out, old)
			}
		}
		sum[r] += expRow(row, row, top[r])
		if a.Dropout > 0 {
			a.keep(t.keep[:n], rows, r, j)
			mulTo(row, row, t.keep)
		}
	}
	beta := float32(0)
	if tile.started {
		beta = 1
	}
	a.tiling.times(tile.o, operand{probs, true}, a.tiling.panelRange(t.values, t.n, 0, j-t.first), n, beta, s)
	tile.started = true
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
