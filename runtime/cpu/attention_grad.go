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
	dq, dk, dv, do, q, k, v Mat       // [T, HeadDim]
	lse, delta              []float32 // [T]; delta: do·o of each row
	head                    int
	dropAt                  uint64
}

// gradTiles is the working memory of one span of keys.
type gradTiles struct {
	probs, dprobs []float32 // [queryTile][spanLine]
	capped, keep  []float32 // [spanTiles*keyTile]
	keys          Mat       // times Scale
}

func (k *attentionGrad) part(i int, s *scratch) {
	b, kv := i/k.KVHeads, i%k.KVHeads
	group := k.Heads / k.KVHeads

	const area, span = queryTile * spanLine, spanTiles * keyTile
	buf := s.floats(2*area + 2*span + span*k.HeadDim + group*k.T + k.HeadDim)
	t := gradTiles{probs: buf[:area], dprobs: buf[area:][:area], capped: buf[2*area:][:span], keep: buf[2*area+span:][:span]}
	buf, rounded := buf[2*area+2*span:], buf[len(buf)-k.HeadDim:]
	scaled, delta := buf[:span*k.HeadDim], buf[span*k.HeadDim:]

	zero(k.sequence(k.dk, b, kv))
	zero(k.sequence(k.dv, b, kv))
	for g := range group {
		h := k.headOf(b, kv*group+g, delta[g*k.T:][:k.T])
		zero(h.dq)
		o := k.sequence(k.o, b, h.head)
		for r := range h.delta {
			do := h.do.Row(r)
			if k.tiling.converts() { // as do·vᵀ does, or what rounding moves would stay in the difference
				do = rounded[:copy(rounded, do)]
				roundBF16(do)
			}
			h.delta[r] = dot(do, o.Row(r))
		}
	}
	each := ceil(k.T, ceil(k.T, queryTile))
	for j := 0; j < k.T; j += span {
		n := min(span, k.T-j)
		keys, dk := k.sequence(k.k, b, kv).RowRange(j, j+n), k.sequence(k.dk, b, kv).RowRange(j, j+n)
		t.keys = NewMat(scaled, n, k.HeadDim)
		for r := range n {
			scaleTo(t.keys.Row(r), keys.Row(r), k.Scale)
		}
		for g := range group {
			h := k.headOf(b, kv*group+g, delta[g*k.T:][:k.T])
			for i := 0; i < k.T; i += each {
				k.backward(&h, i, min(i+each, k.T), j, j+n, &t, s)
			}
		}
		for r := range n { // dSᵀ·q lacks the scale that dS·k takes from the scaled keys
			scaleTo(dk.Row(r), dk.Row(r), k.Scale)
		}
	}
}

// sequence views head h of sequence b.
func (k *attentionGrad) sequence(m Mat, b, h int) Mat {
	return k.head(m, h).RowRange(b*k.T, (b+1)*k.T)
}

func (k *attentionGrad) headOf(b, h int, delta []float32) headGrad {
	kv, at := k.kvHead(h), b*k.Heads+h
	return headGrad{
		dq: k.sequence(k.dq, b, h), dk: k.sequence(k.dk, b, kv), dv: k.sequence(k.dv, b, kv), do: k.sequence(k.do, b, h),
		q: k.sequence(k.q, b, h), k: k.sequence(k.k, b, kv), v: k.sequence(k.v, b, kv),
		lse: k.lse[at*k.T:][:k.T], delta: delta, head: h, dropAt: uint64(at) * uint64(k.T) * uint64(k.T)}
}

// backward adds what queries i0 to i1 and keys j0 to j1 of a head contribute, at most a span of them. With probabilities P, dropout factors M and
// dP = do·vᵀ: dv += (P∘M)ᵀdo, dS = P∘(M∘dP - delta), through the soft cap, dq += dS·Scale·k, dk += dSᵀ·q.
func (k *attentionGrad) backward(h *headGrad, i0, i1, j0, j1 int, t *gradTiles, s *scratch) {
	rows := queries{n: i1 - i0, head: h.head, position: i0, step: 1, dropAt: h.dropAt}
	var covers [spanTiles]mask.Cover
	for j := j0; j < j1; {
		n := k.span(&covers, rows, j, j1)
		if n == 0 {
			j += keyTile
			continue
		}
		k.backwardSpan(h, rows, i0, j, j+n, t.keys.RowRange(j-j0, j-j0+n), &covers, t, s)
		j += n
	}
}

func (k *attentionGrad) backwardSpan(h *headGrad, rows queries, i0, j0, j1 int, keys Mat, covers *[spanTiles]mask.Cover, t *gradTiles, s *scratch) {
	n, i1 := j1-j0, i0+rows.n
	probs := Mat{Data: t.probs, Rows: rows.n, Cols: n, Stride: spanLine}
	dprobs := Mat{Data: t.dprobs, Rows: rows.n, Cols: n, Stride: spanLine}
	q, do := h.q.RowRange(i0, i1), h.do.RowRange(i0, i1)
	k.tiling.gemm(probs, q, keys, false, true, 0, s)
	k.tiling.gemm(dprobs, do, h.v.RowRange(j0, j1), false, true, 0, s)
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
	k.tiling.gemm(h.dv.RowRange(j0, j1), probs, do, true, false, 1, s)
	k.tiling.gemm(h.dk.RowRange(j0, j1), dprobs, q, true, false, 1, s)
	k.tiling.gemm(h.dq.RowRange(i0, i1), dprobs, keys, false, false, 1, s)
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
