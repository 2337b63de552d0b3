package ir

import (
	"math"
	"slices"
)

// head is one (sequence, query head) of an attention op.
type head struct {
	op         *Op
	q, k, v    *Tensor
	t, b, h, g int // positions a sequence, sequence, query head and its key-value head
}

// heads visits every head of op over q, k, v.
func heads(op *Op, q, k, v *Tensor, visit func(head)) {
	t := q.Shape[len(q.Shape)-2]
	for b := range q.rows() / t {
		for h := range op.Int("heads") {
			visit(head{op, q, k, v, t, b, h, h * op.Int("kv_heads") / op.Int("heads")})
		}
	}
}

func (a head) at(x *Tensor, i, h int) []float64 {
	e := a.op.Int("head_dim")
	return x.row(a.b*a.t + i)[h*e : (h+1)*e]
}

// score gives q_i·k_j scaled and capped, with the ALiBi bias, and the derivative of the cap.
func (a head) score(qi, kj []float64, i, j int) (s, slope float64) {
	for c := range qi {
		s += qi[c] * kj[c]
	}
	s, slope = s*a.op.Float("scale"), 1
	if cap := a.op.Float("softcap"); cap != 0 {
		th := math.Tanh(s / cap)
		s, slope = cap*th, 1-th*th
	}
	if a.op.Bool("alibi") {
		s -= AlibiSlopes(a.op.Int("heads"))[a.h] * math.Abs(float64(i-j))
	}
	return s, slope
}

// probabilities returns row i of the softmax, the derivative of each score's cap, and the log of the sum.
func (a head) probabilities(allowed func(i, j int) bool, i int) (p, slopes []float64, lse float64) {
	p, slopes, lse = make([]float64, a.t), make([]float64, a.t), math.Inf(-1)
	top := math.Inf(-1)
	for j := range p {
		p[j] = math.Inf(-1)
		if allowed(i, j) {
			p[j], slopes[j] = a.score(a.at(a.q, i, a.h), a.at(a.k, j, a.g), i, j)
			top = max(top, p[j])
		}
	}
	if math.IsInf(top, -1) { // nothing in sight
		clear(p)
		return p, slopes, lse
	}
	sum := 0.0
	for j := range p {
		p[j] = math.Exp(p[j] - top)
		sum += p[j]
	}
	for j := range p {
		p[j] /= sum
	}
	return p, slopes, top + math.Log(sum)
}

// drop returns the dropout factor of each probability of row i.
func (e *evaluator) drop(a head, seed, step *Tensor, i int) []float64 {
	f := make([]float64, a.t)
	p := a.op.Float("dropout")
	for j := range f {
		f[j] = 1
		if p > 0 {
			n := ((uint64(a.b)*uint64(a.op.Int("heads"))+uint64(a.h))*uint64(a.t)+uint64(i))*uint64(a.t) + uint64(j)
			if f[j] = 0; e.key(a.op, seed, step).Keep(n, float32(p)) {
				f[j] = 1 / (1 - p)
			}
		}
	}
	return f
}

func (e *evaluator) mask(op *Op) func(i, j int) bool {
	patterns := op.Patterns("mask")
	return patterns[e.axes["layers"]%len(patterns)].Allowed
}

func evalAttention(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	q := in[0]
	o, lse := q.like(), q.withCols(op.Int("heads"))
	heads(op, q, in[1], in[2], func(a head) {
		for i := range a.t {
			p, _, l := a.probabilities(e.mask(op), i)
			lse.row(a.b*a.t + i)[a.h] = l
			drop := e.drop(a, in[3], in[4], i)
			oi := a.at(o, i, a.h)
			for j := range p {
				for c, v := range a.at(a.v, j, a.g) {
					oi[c] += e.factor(op, p[j]*drop[j]) * v
				}
			}
		}
	})
	return []*Tensor{o, lse}
}

func evalAttentionGrad(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	do, q, k, v := in[0], in[1], in[2], in[3]
	dq, dk, dv := q.like(), k.like(), v.like()
	heads(op, q, k, v, func(a head) {
		for i := range a.t {
			p, slopes, _ := a.probabilities(e.mask(op), i)
			drop := e.drop(a, in[6], in[7], i)
			doi := a.at(do, i, a.h)
			dp, sum := make([]float64, a.t), 0.0
			for j := range p {
				for c, vj := range a.at(v, j, a.g) {
					dp[j] += doi[c] * vj * drop[j]
					a.at(dv, j, a.g)[c] += e.factor(op, p[j]*drop[j]) * doi[c]
				}
				sum += p[j] * dp[j]
			}
			if e.plain && op.Bool("bf16") { // the same sum from o, as kernels take it (Dao et al. 2022), with what rounding did to o
				sum = 0
				for c, x := range a.at(in[4], i, a.h) {
					sum += doi[c] * x
				}
			}
			for j := range p {
				ds := e.factor(op, p[j]*(dp[j]-sum)*slopes[j]) * op.Float("scale")
				for c := range doi {
					a.at(dq, i, a.h)[c] += ds * a.at(k, j, a.g)[c]
					a.at(dk, j, a.g)[c] += ds * a.at(q, i, a.h)[c]
				}
			}
		}
	})
	if len(op.Into) > 0 {
		e.addGrad(op.Into[0], slices.Concat(columnSums(dq), columnSums(dk), columnSums(dv)))
	}
	return []*Tensor{dq, dk, dv}
}

// evalAttentionCached works on caches of shape [slots, positions, kv_heads*head_dim], which hold numbers of their type.
func evalAttentionCached(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	q, positions, slots := in[0], in[5].Data, in[6].Data
	kc, vc := in[3], in[4]
	length := kc.Shape[1]
	row := func(cache *Tensor, slot, pos int) []float64 { return cache.row(slot*length + pos) }
	seen := map[int]int{} // the positions a slot has, as far as this call knows
	for n := range positions {
		s, p := int(slots[n]), int(positions[n])
		for i, cache := range []*Tensor{kc, vc} {
			to := row(cache, s, p)
			for c, x := range in[1+i].row(n) {
				to[c] = Round(x, op.Args[3+i].Type.DType)
			}
		}
		seen[s] = max(seen[s], p+1)
	}
	o := q.like()
	e1 := op.Int("head_dim")
	for n := range positions {
		s, i := int(slots[n]), int(positions[n])
		for h := range op.Int("heads") {
			// One query against the slot's cache, as a sequence of seen[s] positions.
			g := h * op.Int("kv_heads") / op.Int("heads")
			a := head{op: op, t: seen[s], h: h, g: g}
			scores, top := make([]float64, a.t), math.Inf(-1)
			for j := range scores {
				scores[j] = math.Inf(-1)
				if e.mask(op)(i, j) {
					scores[j], _ = a.score(q.row(n)[h*e1:(h+1)*e1], row(kc, s, j)[g*e1:(g+1)*e1], i, j)
				}
				top = max(top, scores[j])
			}
			sum := 0.0
			for j := range scores {
				if math.IsInf(scores[j], -1) {
					scores[j] = 0
					continue
				}
				scores[j] = math.Exp(scores[j] - top)
				sum += scores[j]
			}
			for j := range scores {
				for c, v := range row(vc, s, j)[g*e1 : (g+1)*e1] {
					if sum > 0 {
						o.row(n)[h*e1+c] += scores[j] / sum * v
					}
				}
			}
		}
	}
	return one(o)
}
