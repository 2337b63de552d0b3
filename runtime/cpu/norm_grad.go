package cpu

// LayerNormGrad computes dx = residual + the gradient of LayerNorm and adds the gradients of w and b to dw and db.
// stats are those that LayerNorm stored. db may be nil, and residual.Data, for 0. dx may be dy, x or residual.
func LayerNormGrad(p *Pool, dx Mat, dw, db []float32, dy, x Mat, w, stats []float32, residual Mat, n LN) {
	p.note("LayerNormGrad", cost{bytes: moved(dx, dy, x, residual)})
	p.normGradients(dx, dw, db, dy, x, residual, norm{centred: true, group: groupOr(n.Group, dx.Cols), w: w, stats: stats})
}

// RMSNormGrad computes dx = residual + the gradient of RMSNorm and adds the gradient of w to dw. stats are those that
// RMSNorm stored. residual.Data may be nil, for 0. dx may be dy, x or residual.
func RMSNormGrad(p *Pool, dx Mat, dw []float32, dy, x Mat, w, stats []float32, residual Mat, n RMS) {
	p.note("RMSNormGrad", cost{bytes: moved(dx, dy, x, residual)})
	p.normGradients(dx, dw, nil, dy, x, residual, norm{offset: n.Offset, group: groupOr(n.Group, dx.Cols), w: w, stats: stats})
}

// normParts bounds the parts of a norm's gradient, each of which sums its rows' share of dw and db by itself.
const normParts = 64

type normGrad struct {
	norm
	dx, dy, x, residual Mat
	each                int       // rows in a part
	partial             []float32 // [part][dw or db][group], kept from call to call
}

// normSums adds the parts' sums, in order, to dw and db.
type normSums struct {
	dw, db  []float32
	partial []float32
	group   int
	parts   int
}

// normSumColumns is the number of weights that one part of normSums adds up.
const normSumColumns = 256

func (p *Pool) normGradients(dx Mat, dw, db []float32, dy, x, residual Mat, n norm) {
	k := &p.normGrad
	k.norm, k.dx, k.dy, k.x, k.residual = n, dx, dy, x, residual
	k.each = max(1, (dx.Rows+normParts-1)/normParts, partElements/max(1, dx.Cols))
	parts := (dx.Rows + k.each - 1) / k.each
	if need := parts * 2 * n.group; cap(k.partial) < need {
		k.partial = make([]float32, need)
	}
	p.run(k, parts)

	p.normSums = normSums{dw: dw, db: db, partial: k.partial, group: n.group, parts: parts}
	p.run(&p.normSums, (n.group+normSumColumns-1)/normSumColumns)
}

func (k *normGrad) part(i int, s *scratch) {
	dw := k.partial[i*2*k.group:][:k.group]
	db := k.partial[(i*2+1)*k.group:][:k.group]
	clear(dw)
	clear(db)
	perRow := k.dx.Cols / k.group
	for r := i * k.each; r < min((i+1)*k.each, k.dx.Rows); r++ {
		dx, dy, x := k.dx.Row(r), k.dy.Row(r), k.x.Row(r)
		var residual []float32
		if k.residual.Data != nil {
			residual = k.residual.Row(r)
		}
		for g := range perRow {
			from, to := g*k.group, (g+1)*k.group
			var res []float32
			if residual != nil {
				res = residual[from:to]
			}
			k.backward(dx[from:to], dw, db, dy[from:to], x[from:to], res, r*perRow+g, s)
		}
	}
}

// backward handles group g, counted over all rows. With h = (x-mean)*rstd and e = dy*w,
// dx = rstd*(e - mean(e) - h*mean(e*h)); RMSNorm has no mean(e).
func (k *normGrad) backward(dx, dw, db, dy, x, residual []float32, g int, s *scratch) {
	mean, rstd := k.moments(g)
	n := len(dx)
	dw, db, dy, x, w := dw[:n], db[:n], dy[:n], x[:n], k.w[:n]
	var sumE, sumEH [sumLanes]float64
	for i := normGradSumsVector(dw, dy, x, w, mean, rstd, k.offset, &sumE, &sumEH); i < n; i++ {
		h := (x[i] - mean) * rstd
		e := dy[i] * (k.offset + w[i])
		dw[i] += dy[i] * h
		sumE[i%sumLanes] += float64(e)
		sumEH[i%sumLanes] += float64(e * h)
	}
	meanE, meanEH := float32(0), float32(foldLanes64(&sumEH)/float64(n))
	if k.centred {
		meanE = float32(foldLanes64(&sumE) / float64(n))
		addTo(db, db, dy)
	}
	out := dx // may be the residual, which is read last
	if residual != nil {
		out = s.floats(n)
	}
	for i := normGradVector(out, dy, x, w, mean, rstd, k.offset, meanE, meanEH); i < n; i++ {
		h := (x[i] - mean) * rstd
		out[i] = rstd * (dy[i]*(k.offset+w[i]) - meanE - h*meanEH)
	}
	if residual != nil {
		addTo(dx, residual, out)
	}
}

func (k *normSums) part(i int, _ *scratch) {
	from, to := i*normSumColumns, min((i+1)*normSumColumns, k.group)
	for q := range k.parts {
		dw := k.dw[from:to]
		addTo(dw, dw, k.partial[q*2*k.group+from:q*2*k.group+to])
		if k.db != nil {
			db := k.db[from:to]
			addTo(db, db, k.partial[(q*2+1)*k.group+from:(q*2+1)*k.group+to])
		}
	}
}
