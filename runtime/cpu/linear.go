package cpu

// Epilogue is what Linear does to a product x·wᵀ while it is in the cache: y = act(x·wᵀ + bias) + residual.
type Epilogue struct {
	Bias     []float32  // one per output column; nil: none
	Act      Activation // None: none
	Pre      Mat        // with Act, where the value before the activation goes, for its gradient; no Data: not kept
	Residual Mat        // no Data: none; may be y itself
}

// start readies a block of C for its first summand and reports whether C holds one already. Without an activation the
// residual is the first summand; row and col place the block in the whole.
func (e *Epilogue) start(c Mat, row, col int) bool {
	if e.Act != None || e.Residual.Data == nil {
		return false
	}
	r := e.Residual.RowRange(row, row+c.Rows).Columns(col, col+c.Cols)
	if &r.Data[0] != &c.Data[0] {
		for i := range c.Rows {
			copy(c.Row(i), r.Row(i))
		}
	}
	return true
}

// finish turns a finished block of C into its block of y.
func (e *Epilogue) finish(y, c Mat, row, col int, s *scratch) {
	if e.Bias != nil {
		bias := e.Bias[col : col+c.Cols]
		for i := range c.Rows {
			addTo(c.Row(i), c.Row(i), bias)
		}
	}
	if e.Act == None {
		return
	}
	for i := range c.Rows {
		to := y.Row(row + i)[col:][:c.Cols]
		if e.Residual.Data == nil {
			apply(e.Act, to, c.Row(i))
			continue
		}
		buf := s.floats(c.Cols) // y may hold the residual
		apply(e.Act, buf, c.Row(i))
		addTo(to, buf, e.Residual.Row(row + i)[col:])
	}
}

// Linear computes y = act(x·wᵀ + bias) + residual for x [rows, in], w [out, in], y [rows, out], with the parts of e.
// y may share memory with e.Residual, element for element, and with nothing else.
func Linear(p *Pool, y, x, w Mat, e Epilogue) {
	t := &p.product
	p.note("Linear", p.productCost(y, x.Cols, x, w, e.Pre, e.Residual))
	t.c, t.a, t.b, t.transA, t.transB, t.add, t.epilogue, t.y = p.sumsOf(y, &e), x, w, false, true, false, e, y
	t.run(p)
}

// sumsOf returns where the sums of y go before e finishes them.
func (p *Pool) sumsOf(y Mat, e *Epilogue) Mat {
	switch {
	case e.Act == None || e.Pre.Data == nil && e.Residual.Data == nil:
		return y
	case e.Pre.Data != nil:
		return e.Pre
	}
	// y may hold the residual, which is read last, so the sums need a place of their own.
	if len(p.sums) < y.Rows*y.Cols {
		p.sums = make([]float32, y.Rows*y.Cols)
	}
	return NewMat(p.sums, y.Rows, y.Cols)
}

// LinearInputGrad computes dx = dy·w (+ residual, where it has Data) for dy [rows, out], w [out, in], dx [rows, in].
// dx may share memory with residual, element for element.
func LinearInputGrad(p *Pool, dx, dy, w Mat, residual Mat) {
	t := &p.product
	p.note("LinearInputGrad", p.productCost(dx, dy.Cols, dy, w, residual))
	t.c, t.a, t.b, t.transA, t.transB, t.add, t.epilogue, t.y = dx, dy, w, false, false, false, Epilogue{Residual: residual}, dx
	t.run(p)
}

// LinearWeightGrad computes dw = dyᵀ·x, with add dw += dyᵀ·x, for dy [rows, out], x [rows, in], dw [out, in].
func LinearWeightGrad(p *Pool, dw, dy, x Mat, add bool) {
	t := &p.product
	old := Mat{}
	if add {
		old = dw
	}
	p.note("LinearWeightGrad", p.productCost(dw, dy.Rows, dy, x, old))
	t.c, t.a, t.b, t.transA, t.transB, t.add, t.epilogue, t.y = dw, dy, x, true, false, add, Epilogue{}, dw
	t.run(p)
}

// productCost is that of a product with k steps of the sum whose result has the shape of c; more is what it moves besides.
func (p *Pool) productCost(c Mat, k int, more ...Mat) cost {
	return cost{bytes: moved(c) + moved(more...), flops: 2 * float64(c.Rows) * float64(c.Cols) * float64(k), product: [3]int{c.Rows, c.Cols, k}, in: p.Factors()}
}

// biasGrad holds the operands of BiasGrad.
type biasGrad struct {
	db []float32
	dy Mat
}

const biasCols = 128 // columns that one part of BiasGrad sums

// BiasGrad computes db += the column sums of dy, row by row.
func BiasGrad(p *Pool, db []float32, dy Mat) {
	p.note("BiasGrad", cost{bytes: moved(dy)})
	p.biasGrad = biasGrad{db, dy}
	p.run(&p.biasGrad, ceil(dy.Cols, biasCols))
}

func (t *biasGrad) part(i int, _ *scratch) {
	from := i * biasCols
	to := min(from+biasCols, t.dy.Cols)
	db, dy := t.db[from:to], t.dy.Columns(from, to)
	if done := columnSumsVector(db, dy); done < len(db) {
		for r := range dy.Rows {
			addTo(db[done:], db[done:], dy.Row(r)[done:])
		}
	}
}
