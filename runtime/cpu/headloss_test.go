package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// head64 is the head loss in float64.
func head64(x, w [][]float64, bias []float64, targets []int32, h Head) (losses, lse []float64) {
	for r := range x {
		z := make([]float64, len(w))
		top := math.Inf(-1)
		for v := range w {
			for d := range x[r] {
				z[v] += x[r][d] * w[v][d]
			}
			if bias != nil {
				z[v] += bias[v]
			}
			if h.Scale != 0 {
				z[v] *= float64(h.Scale)
			}
			if c := float64(h.Softcap); c != 0 {
				z[v] = c * math.Tanh(z[v]/c)
			}
			top = max(top, z[v])
		}
		sum := 0.0
		for _, v := range z {
			sum += math.Exp(v - top)
		}
		l := top + math.Log(sum)
		lse = append(lse, l)
		if targets[r] < 0 {
			losses = append(losses, 0)
		} else {
			losses = append(losses, l-z[targets[r]])
		}
	}
	return losses, lse
}

func rows64(m Mat) (y [][]float64) {
	for r := range m.Rows {
		y = append(y, wide(m.Row(r)))
	}
	return y
}

type headCase struct {
	rows, vocab, dim int
	bias             bool
	head             Head
}

var headCases = []headCase{
	{1, 1, 1, true, Head{}},
	{7, 33, 5, false, Head{}},
	{33, 129, 31, true, Head{Scale: 0.7}},
	{12, 50, 64, true, Head{Softcap: 5}},
	{40, 257, 17, false, Head{Scale: 2.5, Softcap: 3}},
	{70, 140000, 2, false, Head{}}, // more than one tile
}

func (c headCase) operands(seed uint64) (x, w Mat, bias []float32, targets []int32) {
	r := rand.New(rand.NewPCG(seed, 6))
	x, w = normal(r, c.rows, c.dim), normal(r, c.vocab, c.dim)
	if c.bias {
		bias = randoms(r, c.vocab)
	}
	targets = make([]int32, c.rows)
	for i := range targets {
		targets[i] = int32(r.IntN(c.vocab))
		if i%5 == 3 {
			targets[i] = -100
		}
	}
	return x, w, bias, targets
}

func TestHeadLoss(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		p := NewPool(2)
		defer p.Close()
		for i, c := range headCases {
			if active == plain && c.vocab > 1000 {
				continue // seconds; the tiles are the same
			}
			x, w, bias, targets := c.operands(uint64(i))
			b64 := wide(bias)
			if bias == nil {
				b64 = nil
			}
			want, wantLSE := head64(rows64(x), rows64(w), b64, targets, c.head)
			losses, lse := make([]float32, c.rows), make([]float32, c.rows)
			fill(losses, nan)
			fill(lse, nan)
			HeadLoss(p, losses, lse, headTile(x, w), x, w, bias, targets, c.head)
			near(t, fmt.Sprint(c, "losses"), wide(losses), want, 1e-5)
			near(t, fmt.Sprint(c, "lse"), wide(lse), wantLSE, 1e-5)
			fill(losses, nan)
			HeadLoss(p, losses, nil, headTile(x, w), x, w, bias, targets, c.head)
			near(t, fmt.Sprint(c, "losses alone"), wide(losses), want, 1e-5)

			const scale = 0.25
			dx, dw, dbias := poisoned(c.rows, c.dim), normal(rand.New(rand.NewPCG(9, 9)), c.vocab, c.dim), []float32(nil)
			if bias != nil {
				dbias = make([]float32, c.vocab)
			}
			before := copyOf(dw)
			fill(losses, nan)
			HeadLossGrad(p, losses, headTile(x, w), dx, dw, dbias, x, w, bias, targets, c.head, scale)
			near(t, fmt.Sprint(c, "losses with gradient"), wide(losses), want, 1e-5)
			if c.vocab > 1000 {
				c.checkTiled(t, p, x, w, targets, dx, dw, before, scale)
				continue
			}
			checkHeadSlopes(t, c, x, w, bias, targets, dx, dw, before, dbias, scale)
			inPlace, again := copyOf(x), copyOf(before)
			HeadLossGrad(p, losses, headTile(inPlace, w), inPlace, again, nil, inPlace, w, bias, targets, c.head, scale)
			near(t, "dx in place", dense(inPlace), dense(dx), 0)
			near(t, "dw beside it", dense(again), dense(dw), 0)
		}
	})
}

// checkHeadSlopes holds the gradients to central differences in float64, within the rounding of float32.
func checkHeadSlopes(t *testing.T, c headCase, x, w Mat, bias []float32, targets []int32, dx, dw, before Mat, dbias []float32, scale float64) {
	t.Helper()
	x64, w64, b64 := rows64(x), rows64(w), wide(bias)
	if bias == nil {
		b64 = nil
	}
	total := func() float64 {
		losses, _ := head64(x64, w64, b64, targets, c.head)
		sum := 0.0
		for _, l := range losses {
			sum += l
		}
		return sum * scale
	}
	r := rand.New(rand.NewPCG(7, 7))
	check := func(what string, at *float64, got float64) {
		t.Helper()
		const h = 1e-5
		old := *at
		*at = old + h
		up := total()
		*at = old - h
		down := total()
		*at = old
		if want := (up - down) / (2 * h); !(math.Abs(got-want) <= 2e-5*(1+math.Abs(want))) {
			t.Fatalf("%v %s: slope is %g, want %g", c, what, got, want)
		}
	}
	for range 12 {
		i, d, v := r.IntN(c.rows), r.IntN(c.dim), r.IntN(c.vocab)
		check("dx", &x64[i][d], float64(dx.Row(i)[d]))
		check("dw", &w64[v][d], float64(dw.Row(v)[d])-float64(before.Row(v)[d]))
		if b64 != nil {
			check("dbias", &b64[v], float64(dbias[v]))
		}
	}
}

// checkTiled compares the gradients of a problem of many tiles with those of its rows one by one.
func (c headCase) checkTiled(t *testing.T, p *Pool, x, w Mat, targets []int32, dx, dw, before Mat, scale float32) {
	t.Helper()
	rowDX, loss := poisoned(1, c.dim), make([]float32, 1)
	sum := copyOf(before)
	for r := range c.rows {
		HeadLossGrad(p, loss, headTile(x.RowRange(r, r+1), w), rowDX, sum, nil, x.RowRange(r, r+1), w, nil, targets[r:r+1], c.head, scale)
		near(t, fmt.Sprint("dx of row ", r), dense(dx.RowRange(r, r+1)), dense(rowDX), 1e-5)
	}
	near(t, "dw", dense(dw), dense(sum), 1e-5)
}

func TestHeadLossPools(t *testing.T) {
	for i, c := range headCases[:5] {
		x, w, bias, targets := c.operands(uint64(i))
		losses, lse, again := make([]float32, c.rows), make([]float32, c.rows), make([]float32, c.rows)
		dx, dw := NewMat(make([]float32, c.rows*c.dim), c.rows, c.dim), NewMat(make([]float32, c.vocab*c.dim), c.vocab, c.dim)
		dbias, tile := make([]float32, c.vocab), headTile(x, w)
		sameOnPools(t, func(p *Pool) {
			HeadLoss(p, losses, lse, tile, x, w, bias, targets, c.head)
			clear(dw.Data)
			clear(dbias)
			HeadLossGrad(p, again, tile, dx, dw, dbias, x, w, bias, targets, c.head, 0.5)
		}, losses, lse, again, dx.Data, dw.Data, dbias)
	}
}

func TestCrossEntropy(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		for _, d := range [][2]int{{1, 1}, {3, 17}, {40, 129}, {5, 9000}} {
			r := rand.New(rand.NewPCG(uint64(d[0]), 8))
			logits := normal(r, d[0], d[1])
			targets := make([]int32, d[0])
			for i := range targets {
				targets[i] = int32(r.IntN(d[1]))
			}
			targets[d[0]/2] = -1
			want := make([]float64, d[0])
			wantGrad := make([][]float64, d[0])
			const scale = 0.5
			for i := range want {
				z := wide(logits.Row(i))
				sum := 0.0
				for _, v := range z {
					sum += math.Exp(v)
				}
				wantGrad[i] = make([]float64, d[1])
				if targets[i] < 0 {
					continue
				}
				want[i] = math.Log(sum) - z[targets[i]]
				for v := range z {
					wantGrad[i][v] = scale * math.Exp(z[v]) / sum
				}
				wantGrad[i][targets[i]] -= scale
			}
			losses, again := make([]float32, d[0]), make([]float32, d[0])
			kept := copyOf(logits)
			grad := NewMat(make([]float32, d[0]*d[1]), d[0], d[1])
			sameOnPools(t, func(p *Pool) {
				CrossEntropy(p, losses, logits, targets)
				CrossEntropyGrad(p, again, grad, logits, targets, scale)
			}, losses, again, grad.Data)
			near(t, "losses", wide(losses), want, 2e-6)
			near(t, "losses with gradient", wide(again), want, 2e-6)
			near(t, "logits", dense(logits), dense(kept), 0)
			nearRows(t, "gradient", grad, func(i, j int) float64 { return wantGrad[i][j] }, 1e-6)
			p := NewPool(2)
			CrossEntropyGrad(p, again, kept, kept, targets, scale)
			near(t, "gradient in place", dense(kept), dense(grad), 0)
			p.Close()
		}
	})
}

// TestCrossEntropyExtremes holds losses to finite, right values where logits are large.
func TestCrossEntropyExtremes(t *testing.T) {
	eachVariant(t, func(t *testing.T) {
		p := NewPool(1)
		defer p.Close()
		z := NewMat([]float32{1e4, -1e4, 0, -3e38, 3e38, 0}, 2, 3)
		losses := make([]float32, 2)
		CrossEntropy(p, losses, z, []int32{1, 1})
		if losses[0] != 2e4 || losses[1] != 0 {
			t.Fatalf("losses are %v, want [20000 0]", losses)
		}
		z.Data[2] = nan
		CrossEntropy(p, losses, z, []int32{1, 1})
		if losses[0] == losses[0] {
			t.Fatalf("a NaN among the logits gives loss %v", losses[0])
		}
	})
}

func TestSumLosses(t *testing.T) {
	x := make([]float32, 1<<20)
	fill(x, 0.1)
	if got := SumLosses(x); math.Abs(float64(got)/(0.1*(1<<20))-1) > 1e-6 {
		t.Fatalf("sum is %g", got)
	}
	if got := SumLosses(nil); got != 0 {
		t.Fatalf("sum of nothing is %g", got)
	}
}

func BenchmarkHeadLossGrad(b *testing.B) {
	const rows, vocab, dim = 1024, 8000, 256
	x, w, dx, dw := benchMat(rows, dim), benchMat(vocab, dim), benchMat(rows, dim), benchMat(vocab, dim)
	losses, targets := make([]float32, rows), make([]int32, rows)
	tile := benchMat(512, vocab)
	p := NewPool(2)
	defer p.Close()
	benchmarkGFLOPS(b, 3*2*rows*vocab*dim, func() {
		HeadLossGrad(p, losses, tile, dx, dw, nil, x, w, nil, targets, Head{}, 1)
	})
}

// headTile is a poisoned tile of a third of the rows, so that there are several tiles and the last is short.
func headTile(x, w Mat) Mat {
	tile := NewMat(make([]float32, (x.Rows/3+1)*w.Rows), x.Rows/3+1, w.Rows)
	for i := range tile.Data {
		tile.Data[i] = float32(math.NaN())
	}
	return tile
}
