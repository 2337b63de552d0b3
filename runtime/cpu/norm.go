package cpu

import "math"

// LN describes a LayerNorm (Ba, Kiros, Hinton 2016).
type LN struct {
	Eps   float32 // added to the variance
	Group int     // 0: a row is normalised as a whole; else each Group-wide chunk of it by itself, with weights of length Group
}

// RMS describes an RMSNorm (Zhang, Sennrich 2019).
type RMS struct {
	Eps    float32 // added to the mean square
	Offset float32 // the gain is Offset + w; Gemma uses 1
	Group  int     // as in LN; the head size for QK-norm
}

// LayerNorm computes y = (x-mean)/sqrt(variance+eps)*w + b for every row, or every group of a row. stats receives the mean and
// 1/sqrt(variance+eps) of each, in order; nil where no gradient follows. b may be nil. y may be x.
func LayerNorm(p *Pool, y Mat, stats []float32, x Mat, w, b []float32, n LN) {
	AddLayerNorm(p, Mat{}, y, stats, x, Mat{}, w, b, n)
}

// RMSNorm computes y = x/sqrt(mean(x²)+eps)*(Offset+w) for every row, or every group of a row. stats receives
// 1/sqrt(mean(x²)+eps) of each, in order; nil where no gradient follows. y may be x.
func RMSNorm(p *Pool, y Mat, stats []float32, x Mat, w []float32, n RMS) {
	AddRMSNorm(p, Mat{}, y, stats, x, Mat{}, w, n)
}

// AddLayerNorm computes sum = a + b and y = LayerNorm(sum) in one pass. sum may be a or b.
func AddLayerNorm(p *Pool, sum, y Mat, stats []float32, a, b Mat, w, bias []float32, n LN) {
	p.note(addOr(sum, "AddLayerNorm", "LayerNorm"), cost{bytes: moved(sum, y, a, b)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowNorm, y: y, y2: sum, a: a, b: b,
		norm: norm{centred: true, eps: n.Eps, group: groupOr(n.Group, y.Cols), w: w, bias: bias, stats: stats}})
}

// AddRMSNorm computes sum = a + b and y = RMSNorm(sum) in one pass. sum may be a or b.
func AddRMSNorm(p *Pool, sum, y Mat, stats []float32, a, b Mat, w []float32, n RMS) {
	p.note(addOr(sum, "AddRMSNorm", "RMSNorm"), cost{bytes: moved(sum, y, a, b)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowNorm, y: y, y2: sum, a: a, b: b,
		norm: norm{eps: n.Eps, offset: n.Offset, group: groupOr(n.Group, y.Cols), w: w, stats: stats}})
}

// addOr names a kernel by whether it adds first.
func addOr(sum Mat, add, only string) string {
	if sum.Data != nil {
		return add
	}
	return only
}

// norm is either kind: RMSNorm is LayerNorm about 0 instead of the mean, without a bias.
type norm struct {
	centred     bool
	eps, offset float32
	group       int
	w, bias     []float32
	stats       []float32
}

func groupOr(group, cols int) int {
	if group == 0 {
		return cols
	}
	return group
}

// moments returns the stored statistics of group g, counted over all rows.
func (n *norm) moments(g int) (mean, rstd float32) {
	if n.centred {
		return n.stats[2*g], n.stats[2*g+1]
	}
	return 0, n.stats[g]
}

func rowNorm(k *rowwise, r int, _ *scratch) {
	y, x := k.y.Row(r), k.a.Row(r)
	if k.y2.Data != nil {
		sum := k.y2.Row(r)
		addTo(sum, x, k.b.Row(r))
		x = sum
	}
	n := &k.norm
	perRow := len(y) / n.group
	for g := range perRow {
		n.forward(y[g*n.group:][:n.group], x[g*n.group:][:n.group], r*perRow+g)
	}
}

// forward normalises group g, counted over all rows.
func (n *norm) forward(y, x []float32, g int) {
	mean := float32(0)
	if n.centred {
		mean = float32(sum64(x) / float64(len(x)))
	}
	rstd := float32(1 / math.Sqrt(sumSquares64(x, mean)/float64(len(x))+float64(n.eps)))
	if n.stats != nil {
		if n.centred {
			n.stats[2*g], n.stats[2*g+1] = mean, rstd
		} else {
			n.stats[g] = rstd
		}
	}
	w := n.w[:len(y)]
	x = x[:len(y)]
	for i := normaliseVector(y, x, w, mean, rstd, n.offset); i < len(y); i++ {
		y[i] = (x[i] - mean) * rstd * (n.offset + w[i])
	}
	if n.bias != nil {
		addTo(y, y, n.bias)
	}
}

// sum64 sums in float64, in four lanes.
func sum64(x []float32) float64 {
	var a, b, c, d float64
	for ; len(x) >= 4; x = x[4:] {
		a += float64(x[0])
		b += float64(x[1])
		c += float64(x[2])
		d += float64(x[3])
	}
	for _, v := range x {
		a += float64(v)
	}
	return a + b + (c + d)
}

// sumSquares64 sums (x-mean)² in float64, in lanes.
func sumSquares64(x []float32, mean float32) float64 {
	var lanes [sumLanes]float64
	m := float64(mean)
	for i := squaresVector(x, m, &lanes); i < len(x); i++ {
		d := float64(x[i]) - m
		lanes[i%sumLanes] += d * d
	}
	return foldLanes64(&lanes)
}
