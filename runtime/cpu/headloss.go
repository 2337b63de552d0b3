package cpu

import "math"

// Head says how the output head turns its products into logits.
type Head struct {
	Scale   float32 // factor on x·wᵀ + bias; 0 means 1
	Softcap float32 // 0: none; else logits become Softcap*tanh(logits/Softcap)
}

// headRows computes losses, and gradients with respect to logits, row by row.
type headRows struct {
	losses, lse []float32 // lse may be nil
	logits      Mat       // raw where raw is set, and then overwritten by the logits proper
	grad        Mat       // no Data: no gradient; may be logits
	targets     []int32
	head        Head
	raw         bool
	gradScale   float32
	each        int
}

// HeadLoss computes the cross-entropy of the output head on x [rows, D] with weights w [V, D] and bias [V] (nil: none):
// losses[r] = lse[r] - logit of targets[r], where lse[r], the logarithm of the sum of exponentials of row r, is kept
// unless lse is nil. A row with a negative target has loss 0; other targets are below V. The logits of as many rows as
// tile [any, V] has live in it at a time.
func HeadLoss(p *Pool, losses, lse []float32, tile, x, w Mat, bias []float32, targets []int32, h Head) {
	for from := 0; from < x.Rows; from += tile.Rows {
		to := min(from+tile.Rows, x.Rows)
		logits := tile.RowRange(0, to-from)
		Linear(p, logits, x.RowRange(from, to), w, Epilogue{Bias: bias})
		t := headRows{losses: losses[from:to], logits: logits, targets: targets[from:to], head: h, raw: true}
		if lse != nil {
			t.lse = lse[from:to]
		}
		t.run(p)
	}
}

// HeadLossGrad computes the losses of HeadLoss and the gradient of gradScale times their sum: dx is written, and the
// gradients of w and bias are added to dw and dbias (nil: none). The logits of as many rows as tile [any, V] has are
// computed once, in it, and turn into their gradient in place. dx may be x.
func HeadLossGrad(p *Pool, losses []float32, tile, dx, dw Mat, dbias []float32, x, w Mat, bias []float32, targets []int32, h Head, gradScale float32) {
	for from := 0; from < x.Rows; from += tile.Rows {
		to := min(from+tile.Rows, x.Rows)
		logits := tile.RowRange(0, to-from)
		rows := x.RowRange(from, to)
		Linear(p, logits, rows, w, Epilogue{Bias: bias})
		t := headRows{losses: losses[from:to], logits: logits, grad: logits, targets: targets[from:to], head: h, raw: true, gradScale: gradScale}
		t.run(p)
		LinearWeightGrad(p, dw, logits, rows, true)
		if dbias != nil {
			BiasGrad(p, dbias, logits)
		}
		LinearInputGrad(p, dx.RowRange(from, to), logits, w, Mat{})
	}
}

// CrossEntropy computes losses[r] from stored logits [rows, V] as HeadLoss does from its own.
func CrossEntropy(p *Pool, losses []float32, logits Mat, targets []int32) {
	t := headRows{losses: losses, logits: logits, targets: targets}
	t.run(p)
}

// CrossEntropyGrad computes the losses of CrossEntropy, and in dlogits the gradient of gradScale times their sum.
// dlogits may be logits.
func CrossEntropyGrad(p *Pool, losses []float32, dlogits, logits Mat, targets []int32, gradScale float32) {
	t := headRows{losses: losses, logits: logits, grad: dlogits, targets: targets, gradScale: gradScale}
	t.run(p)
}

func (t *headRows) run(p *Pool) {
	name := "CrossEntropy"
	if t.grad.Data != nil {
		name = "CrossEntropyGrad"
	}
	p.note(name, cost{bytes: moved(t.logits, t.grad)})
	t.each = max(1, partElements/max(1, t.logits.Cols))
	p.headRows = *t
	p.run(&p.headRows, ceil(t.logits.Rows, t.each))
}

func (t *headRows) part(i int, s *scratch) {
	for r := i * t.each; r < min((i+1)*t.each, t.logits.Rows); r++ {
		t.row(r, s)
	}
}

func (t *headRows) row(r int, s *scratch) {
	z, target := t.logits.Row(r), t.targets[r]
	if target < 0 && t.lse == nil {
		t.losses[r] = 0
		if t.grad.Data != nil {
			clear(t.grad.Row(r))
		}
		return
	}
	slope := float32(1)
	if t.raw {
		slope = t.head.logits(z)
	}
	top := rowMax(z)
	e := s.floats(len(z))
	sum := expRow(e, z, top)
	lse := top + float32(math.Log(float64(sum)))
	if t.lse != nil {
		t.lse[r] = lse
	}
	if target < 0 {
		t.losses[r] = 0
		return
	}
	t.losses[r] = lse - z[target]
	if t.grad.Data == nil {
		return
	}
	// d loss/d z = softmax - onehot, and through the cap d z/d raw = slope*(1 - (z/cap)²).
	f := 1 / sum
	e[target] -= sum
	d := t.grad.Row(r)
	f *= t.gradScale * slope
	if c := t.head.Softcap; t.raw && c != 0 {
		inv := 1 / c
		for i, v := range z {
			y := v * inv
			d[i] = e[i] * f * (1 - y*y)
		}
		return
	}
	scaleTo(d, e, f)
}

// logits turns raw products into logits in place and returns the derivative of one by the other, but for the cap.
func (h Head) logits(z []float32) (slope float32) {
	slope = h.Scale
	if slope == 0 {
		slope = 1
	}
	switch {
	case h.Softcap != 0:
		tanhRow(z, z, slope/h.Softcap, h.Softcap)
	case slope != 1:
		for i := range z {
			z[i] *= slope
		}
	}
	return slope
}

// SumLosses adds losses in halves, each summed the same way: an order that depends on their number alone, with an error
// that grows with its logarithm.
func SumLosses(losses []float32) float32 {
	if len(losses) <= 8 {
		var sum float32
		for _, x := range losses {
			sum += x
		}
		return sum
	}
	half := len(losses) / 2
	return SumLosses(losses[:half]) + SumLosses(losses[half:])
}
