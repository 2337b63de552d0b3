package cpu

import "github.com/tfc-dev/tfc/runtime/mask"

// AttentionGrad computes the gradients of Attention from do, its operands, o and lse. Each key-value head of a sequence
// is one part, which sums over its query heads and query tiles in order. dq, dk and dv are overwritten; they may not be
// operands. Probabilities are computed again from lse, tile by tile (Dao et al. 2022).
func AttentionGrad(p *Pool, dq, dk, dv, do, q, k, v, o Mat, lse []float32, a *AttentionParams) {
	p.attentionGrad = attentionGrad{AttentionParams: *a, dq: dq, dk: dk, dv: dv, do: do, q: q, k: k, v: v, o: o, lse: lse}
	if p.recorder != nil {
		p.note("AttentionGrad", cost{bytes: moved(dq, dk, dv, do, q, k, v, o), flops: 10 * a.pairs(), in: p.Factors()})
	}
	p.attentionGrad.tiling = p.tiling()
	p.run(&p.attentionGrad, a.Batch*a.KVHeads)
}

type attentionGrad struct {
	AttentionParams
	dq, dk, dv, do, q, k, v, o Mat
	lse                        []float32
}

// headGrad is the part of the operands that one query head of one sequence uses.
type headGrad struct {
	dq, do, q  Mat       // [T, HeadDim]
	lse, delta []float32 // [T]; delta: do·o of each row
	head       int
	dropAt     uint64
}

// gradTiles is the working memory of one span of keys.
type gradTiles struct {
	first, n       int       // the span: the first key, and how many
	probs, dprobs  []float32 // [queryTile][spanLine]
	capped, keep   []float32 // [spanTiles*keyTile]
	dk, dv         Mat       // of the span's keys, in memory of their own: they are added to for each tile of queries
	keysT, valuesT []float32 // the span's keys times Scale, and values, packed to be multiplied with queries
	keys           []float32 // the same keys, packed to be multiplied with scores
}

func (k *attentionGrad) part(i int, s *scratch) {
	b, kv := i/k.KVHeads, i%k.KVHeads
	group, tl := k.Heads/k.KVHeads, k.tiling

	const area, span = queryTile * spanLine, spanTiles * keyTile
	across, along := tl.packed(span, k.HeadDim), tl.packed(k.HeadDim, span)
	buf := s.floats(2*area + 2*span + 3*span*k.HeadDim + 2*across + along + group*k.T + k.HeadDim)
	take := func(n int) (taken []float32) {
		taken, buf = buf[:n:n], buf[n:]
		return taken
	}
	t := gradTiles{probs: take(area), dprobs: take(area), capped: take(span), keep: take(span)}
	dk, dv, scaled := take(span*k.HeadDim), take(span*k.HeadDim), take(span*k.HeadDim)
	t.keysT, t.valuesT, t.keys = take(across), take(across), take(along)
	delta, rounded := take(group*k.T), take(k.HeadDim)

	for g := range group {
		h := k.headOf(b, kv*group+g, delta[g*k.T:][:k.T])
		o := k.sequence(k.o, b, h.head)
		fetch(h.do)
		fetch(o)
		for r := range h.delta {
			do := h.do.Row(r)
			if tl.converts() { // as do·vᵀ does, or what rounding moves would stay in the difference
				do = rounded[:copy(rounded, do)]
				roundBF16(do)
			}
			h.delta[r] = dot(do, o.Row(r))
		}
	}
	each := ceil(k.T, ceil(k.T, queryTile))
	for j := 0; j < k.T; j += span {
		n := min(span, k.T-j)
		keys, values := k.sequence(k.k, b, kv).RowRange(j, j+n), k.sequence(k.v, b, kv).RowRange(j, j+n)
		fetch(keys)
		fetch(values)
		t.first, t.n, t.dk, t.dv = j, n, NewMat(dk, n, k.HeadDim), NewMat(dv, n, k.HeadDim)
		clear(t.dk.Data)
		clear(t.dv.Data)
		scaledKeys := NewMat(scaled, n, k.HeadDim)
		for r := range n {
			scaleTo(scaledKeys.Row(r), keys.Row(r), k.Scale)
		}
		tl.packB.panels(t.keysT, operand{scaledKeys, true}, 0, n, 0, k.HeadDim)
		tl.packB.panels(t.valuesT, operand{values, true}, 0, n, 0, k.HeadDim)
		tl.packB.panels(t.keys, operand{scaledKeys, false}, 0, k.HeadDim, 0, n)
		for g := range group {
			h := k.headOf(b, kv*group+g, delta[g*k.T:][:k.T])
			for i := 0; i < k.T; i += each {
				fetch(h.q.RowRange(i, min(i+each, k.T)))
				fetch(h.dq.RowRange(i, min(i+each, k.T)))
				k.backward(&h, i, min(i+each, k.T), &t, s)
			}
		}
		dkRows, dvRows := k.sequence(k.dk, b, kv).RowRange(j, j+n), k.sequence(k.dv, b, kv).RowRange(j, j+n)
		fetch(dkRows)
		fetch(dvRows)
		for r := range n { // dSᵀ·q lacks the scale that dS·k takes from the scaled keys
			scaleTo(dkRows.Row(r), t.dk.Row(r), k.Scale)
			copy(dvRows.Row(r), t.dv.Row(r))
		}
	}
}

// sequence views head h of sequence b.
func (k *attentionGrad) sequence(m Mat, b, h int) Mat {
	return k.head(m, h).RowRange(b*k.T, (b+1)*k.T)
}

func (k *attentionGrad) headOf(b, h int, delta []float32) headGrad {
	at := b*k.Heads + h
	return headGrad{
		dq: k.sequence(k.dq, b, h), do: k.sequence(k.do, b, h), q: k.sequence(k.q, b, h),
		lse: k.lse[at*k.T:][:k.T], delta: delta, head: h, dropAt: uint64(at) * uint64(k.T) * uint64(k.T)}
}

// backward adds what queries i0 to i1 of a head and the keys of a span contribute. With probabilities P, dropout factors M and
// dP = do·vᵀ: dv += (P∘M)ᵀdo, dS = P∘(M∘dP - delta), through the soft cap, dq += dS·Scale·k, dk += dSᵀ·q. The first span writes dq.
func (k *attentionGrad) backward(h *headGrad, i0, i1 int, t *gradTiles, s *scratch) {
	rows := queries{n: i1 - i0, head: h.head, position: i0, step: 1, dropAt: h.dropAt}
	beta := float32(1)
	if t.first == 0 {
		beta = 0
	}
	var covers [spanTiles]mask.Cover
	for j := t.first; j < t.first+t.n; {
		n := k.span(&covers, rows, j, t.first+t.n)
		if n == 0 {
			j += keyTile
			continue
		}
		k.backwardSpan(h, rows, j, j+n, beta, &covers, t, s)
		beta = 1
		j += n
	}
	if beta == 0 {
		zero(h.dq.RowRange(i0, i1))
	}
}

// backwardSpan is backward for keys j0 to j1; dq is beta times what it was, and what they add.
func (k *attentionGrad) backwardSpan(h *headGrad, rows queries, j0, j1 int, beta float32, covers *[spanTiles]mask.Cover, t *gradTiles, s *scratch) {
	n, i0, i1, tl := j1-j0, rows.position, rows.position+rows.n, k.tiling
	probs := Mat{Data: t.probs, Rows: rows.n, Cols: n, Stride: spanLine}
	dprobs := Mat{Data: t.dprobs, Rows: rows.n, Cols: n, Stride: spanLine}
	q, do := h.q.RowRange(i0, i1), h.do.RowRange(i0, i1)
	from, to := j0-t.first, j1-t.first
	tl.times(probs, operand{q, true}, tl.panelRange(t.keysT, k.HeadDim, from, 0), k.HeadDim, 0, s)
	tl.times(dprobs, operand{do, true}, tl.panelRange(t.valuesT, k.HeadDim, from, 0), k.HeadDim, 0, s)
	capped, keep := t.capped[:n], t.keep[:n]
	for r := range rows.n {
		p, dp := probs.Row(r), dprobs.Row(r)[:n]
		k.score(p, rows, r, j0, covers, capped)
		expRow(p, p, h.lse[i0+r])
		delta := h.delta[i0+r]
		if k.Dropout > 0 {
			k.keep(keep, rows, r, j0)
			for x, m := range keep {
				dp[x] = p[x] * (m*dp[x] - delta)
			}
			mulTo(p, p, keep)
		} else {
			mulLessTo(dp, p, dp, delta)
		}
		if k.Softcap != 0 {
			for x, c := range capped {
				dp[x] *= 1 - c*c
			}
		}
	}
	tl.gemm(t.dv.RowRange(from, to), probs, do, true, false, 1, s)
	tl.gemm(t.dk.RowRange(from, to), dprobs, q, true, false, 1, s)
	tl.times(h.dq.RowRange(i0, i1), operand{dprobs, true}, tl.panelRange(t.keys, t.n, 0, from), n, beta, s)
}

func zero(m Mat) {
	for r := range m.Rows {
		clear(m.Row(r))
	}
}

// dot sums in float64, in lanes.
func dot(a, b []float32) float32 {
	var lanes [sumLanes]float64
	b = b[:len(a)]
	for i := dot64Vector(a, b, &lanes); i < len(a); i++ {
		lanes[i%sumLanes] += float64(a[i]) * float64(b[i])
	}
	return float32(foldLanes64(&lanes))
}
