package ir

import "math"

func evalCount(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	n := 0.0
	for _, t := range in[0].Data {
		if t >= 0 {
			n++
		}
	}
	return one(Scalar(n))
}

// divisor is the count a loss is divided by: 1 when it is only summed.
func divisor(n *Tensor) float64 {
	if n == nil {
		return 1
	}
	return max(n.Data[0], 1)
}

// softmaxLoss gives the summed loss of logits against targets, and the gradient of each logit, both divided by n.
// rows holds the loss of each row.
func softmaxLoss(logits, targets, n *Tensor) (loss float64, rows, d *Tensor) {
	d, rows = logits.like(), targets.like()
	for r, target := range targets.Data {
		if target < 0 {
			continue
		}
		row, top, sum := logits.row(r), math.Inf(-1), 0.0
		for _, v := range row {
			top = max(top, v)
		}
		for _, v := range row {
			sum += math.Exp(v - top)
		}
		rows.Data[r] = top + math.Log(sum) - row[int(target)]
		loss += rows.Data[r]
		for c, v := range row {
			d.row(r)[c] = math.Exp(v-top) / sum / divisor(n)
		}
		d.row(r)[int(target)] -= 1 / divisor(n)
	}
	return loss / divisor(n), rows, d
}

func evalCrossEntropy(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	loss, rows, _ := softmaxLoss(in[0], in[1], in[2])
	return []*Tensor{Scalar(loss), rows}
}

func evalCrossEntropyGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	_, rows, d := softmaxLoss(in[0], in[1], in[2])
	return []*Tensor{d, rows}
}

// headLogits gives the logits of the output head, and the derivative of each by the product of its row and weight.
func headLogits(op *Op, in []*Tensor) (logits, slopes *Tensor) {
	scale, cap := op.Float("scale"), op.Float("softcap")
	if scale == 0 {
		scale = 1
	}
	logits = product(in[0], in[1])
	slopes = logits.like()
	for i, v := range logits.Data {
		if in[2] != nil {
			v += in[2].Data[i%logits.cols()]
		}
		v, slopes.Data[i] = v*scale, scale
		if cap != 0 {
			t := math.Tanh(v / cap)
			v, slopes.Data[i] = cap*t, scale*(1-t*t)
		}
		logits.Data[i] = v
	}
	return logits, slopes
}

func evalHeadLoss(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	logits, _ := headLogits(op, in)
	loss, rows, _ := softmaxLoss(logits, in[3], in[4])
	return []*Tensor{Scalar(loss), rows, headTileOf(op, 2)}
}

func evalHeadLossGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	logits, slopes := headLogits(op, in)
	loss, rows, d := softmaxLoss(logits, in[3], in[4])
	for i := range d.Data {
		d.Data[i] *= slopes.Data[i]
	}
	multiplied := d.clone()
	for i, x := range d.Data {
		multiplied.Data[i] = e.factor(op, x)
	}
	dx := linearDX(multiplied, in[1], nil)
	evalLinearDW(e, op, []*Tensor{multiplied, in[0]})
	if op.Into[1] != nil {
		e.addGrad(op.Into[1], columnSums(d))
	}
	return []*Tensor{Scalar(loss), dx, rows, headTileOf(op, 3)}
}

func evalZeroGrads(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	clear(e.state.Grads)
	return nil
}

func evalGradNorm(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	sum := 0.0
	e.members(func(_ *Param, name string) {
		if g := e.state.Grads[name]; g != nil {
			for _, v := range g.Data {
				sum += v * v
			}
		}
	})
	return one(Scalar(math.Sqrt(sum)))
}

func evalAdamW(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	norm, lr, step := in[0].Data[0], in[1].Data[0], in[2].Data[0]
	b1, b2 := op.Float("beta1"), op.Float("beta2")
	factor := 1.0
	if clip := op.Float("clip"); clip > 0 {
		factor = min(1, clip/(norm+1e-6)) // as torch.nn.utils.clip_grad_norm_ does
	}
	e.members(func(p *Param, name string) {
		w := e.state.Weights[name]
		get := func(store map[string]*Tensor) *Tensor {
			if store[name] == nil {
				store[name] = NewTensor(p.Type.Shape()...)
			}
			return store[name]
		}
		if w == nil {
			w = get(e.state.Weights)
		}
		g, m, v := get(e.state.Grads), get(e.state.First), get(e.state.Second)
		for i := range w.Data {
			d := g.Data[i] * factor
			if p.Decay {
				w.Data[i] *= 1 - lr*op.Float("weight_decay")
			}
			m.Data[i] = b1*m.Data[i] + (1-b1)*d
			v.Data[i] = b2*v.Data[i] + (1-b2)*d*d
			hat := m.Data[i] / (1 - math.Pow(b1, step))
			w.Data[i] -= lr * hat / (math.Sqrt(v.Data[i]/(1-math.Pow(b2, step))) + op.Float("eps"))
		}
	})
	return nil
}

// headTileOf is the tile of a head loss, of which nothing is read.
func headTileOf(op *Op, result int) *Tensor { return NewTensor(op.Results[result].Type.Shape()...) }
