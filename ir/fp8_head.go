package ir

import "fmt"

// The output head in 8 bits: its logits are those of 16 bits, so that the loss is, too, and the products of their gradient have operands in
// 8 bits. What that gradient comes to is known without measuring: softmax less one at the target lies in [-1, 1].

const (
	// headGradientTop is what a gradient of 1 by a logit becomes in e5m2: the largest power of two there. A probability then counts down to
	// 2^-31, half of the least number.
	headGradientTop = 1 << 15
	// headSide is what a tile's rows are a multiple of: they are a summed index, too.
	headSide = 16
)

// headTileFP8 is tileType in BF16, in whole sixteens of rows.
func headTileFP8(op *Op) Type {
	t := tileType(op)
	r := (t.Dims[0].Size + headSide - 1) / headSide * headSide
	return Type{BF16, []Dim{{fmt.Sprint(r), r}, t.Dims[1]}}
}

func fp8HeadOps() []*OpDef {
	return []*OpDef{{
		Kind: "head_loss_grad_fp8", Doc: "head_loss_grad whose logits are of 16 bits, and whose products of the logits' gradient have operands in 8 bits: that gradient in e5m2 under a scale of its own, " +
			"and w and x with their rows as columns",
		Args: []string{"x", "w", "targets", "n?", "w_transposed", "x_transposed", "w_scale", "x_scale"}, Into: []string{"w"},
		Results: []string{"loss", "d_x", "rows!", "tile!", "d!", "d_transposed!", "scale!"},
		Attrs:   attrs(need("float", "scale?", "softcap?"), need("int", "tile?")),
		Shape: func(op *Op) ([]Type, error) {
			x, w, wt, xt := op.Args[0], op.Args[1], op.Args[4], op.Args[5]
			err := firstError(wantMatrix(w, 0, x.Type.Cols()), wantInts(op.Args[2], x), wantScalars(op.Args[3]),
				wantMatrix(wt, x.Type.Cols(), w.Type.Rows()), wantMatrix(xt, x.Type.Cols(), x.Type.Rows()), wantSingles(op.Args[6:8]...))
			for _, v := range []*Value{wt, xt} {
				if v.Type.DType != E4M3 {
					err = firstError(err, fmt.Errorf("%v is %v, want %s", v, v.Type, E4M3))
				}
			}
			if x.Type.DType != BF16 {
				err = firstError(err, fmt.Errorf("%v is %v, want %s", x, x.Type, BF16))
			}
			if op.Into[0] != w {
				err = firstError(err, fmt.Errorf("adds a gradient to another parameter than it reads"))
			}
			tile := headTileFP8(op)
			d := Type{E5M2, tile.Dims}
			return []Type{scalar(F32), x.Type, rowType(x), tile, d, Transposed(d), single}, err
		},
		FLOPs: func(op *Op) float64 { return 6 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Rows()) },
		Eval:  evalHeadLossGradFP8, NoGrad: true,
	}}
}

func evalHeadLossGradFP8(e *evaluator, op *Op, in []*Tensor) []*Tensor {
	x, n := in[0], in[3]
	products := each(product(x, in[1]), func(v float64, _ int) float64 { return Round(v, BF16) })
	logits, slopes := logitsOf(op, products, nil)
	loss, rows, d := softmaxLoss(logits, in[2], nil)
	scale := headScale(op)
	for i, v := range d.Data {
		d.Data[i] = Round(v*slopes.Data[i]/scale*headGradientTop, E5M2)
	}
	by := scale / divisor(n) / headGradientTop
	dx := each(product(d, in[4]), func(v float64, _ int) float64 { return v * by * in[6].Data[0] })
	turned := NewTensor(d.cols(), d.rows())
	for i, v := range d.Data {
		turned.Data[i%d.cols()*d.rows()+i/d.cols()] = v
	}
	e.addGrad(op.Into[0], each(product(turned, in[5]), func(v float64, _ int) float64 { return v * by * in[7].Data[0] }).Data)
	return []*Tensor{Scalar(loss / divisor(n)), dx, rows, headTileOf(op, 3), headTileOf(op, 4), headTileOf(op, 5), {Shape: []int{1}, Data: []float64{by}}}
}
