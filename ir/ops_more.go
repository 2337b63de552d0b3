package ir

import (
	"errors"
	"fmt"
)

// pairs counts the (query, key) pairs that a mask allows in t positions, averaged over its layers.
func pairs(op *Op, t int) float64 {
	masks := op.Patterns("mask")
	rows := 0
	allowed := 0.0
	for _, m := range masks {
		for i := 0; i < t; i += max(1, t/64) { // a sample of the queries: this is an estimate of work
			rows++
			for j := range t {
				if m.Allowed(i, j) {
					allowed++
				}
			}
		}
	}
	return allowed / float64(max(rows, 1)) * float64(t)
}

func attentionShape(op *Op, q, k, v *Value) error {
	h, g, e := op.Int("heads"), op.Int("kv_heads"), op.Int("head_dim")
	if g < 1 || h%g != 0 {
		return fmt.Errorf("%d heads cannot share %d key-value heads", h, g)
	}
	if len(q.Type.Dims) < 2 || e < 1 || len(op.Patterns("mask")) == 0 {
		return fmt.Errorf("queries %v of %d heads of %d, %d patterns", q.Type, h, e, len(op.Patterns("mask")))
	}
	if k.Type.Rows() != q.Type.Rows() || v.Type.Rows() != q.Type.Rows() {
		return fmt.Errorf("keys %v and values %v do not go with queries %v", k.Type, v.Type, q.Type)
	}
	return firstError(wantCols(q, h*e, "queries"), wantCols(k, g*e, "keys"), wantCols(v, g*e, "values"))
}

// wantDraws checks the seed and step of an attention that drops out.
func wantDraws(op *Op, seed, step *Value) error {
	if op.Float("dropout") > 0 && (seed == nil || step == nil) {
		return fmt.Errorf("drops out without a seed and a step")
	}
	return wantScalars(seed, step)
}

// lseType is one f32 for each head of each query.
func lseType(op *Op, q Type) Type {
	return Type{F32, append(append([]Dim(nil), q.Dims[:len(q.Dims)-1]...), Dim{fmt.Sprint(op.Int("heads")), op.Int("heads")})}
}

func attentionFLOPs(products float64) func(*Op) float64 {
	return func(op *Op) float64 {
		q := op.Args[0].Type
		t := q.Dims[len(q.Dims)-2].Size
		return products * 2 * float64(q.Rows()/max(t, 1)*op.Int("heads")*op.Int("head_dim")) * pairs(op, t)
	}
}

func attentionOps() []*OpDef {
	common := attrs(need("int", "heads", "kv_heads", "head_dim"), need("float", "scale", "softcap?"), need("bool", "alibi?"),
		need("patterns", "mask"))
	train := attrs(common, need("float", "dropout?"), need("int", "stream?"), need("bool", "bf16?"))
	return []*OpDef{
		{
			Kind: "attention", Doc: "scaled dot-product attention over [B,T] sequences under a mask, grouped-query where kv_heads < heads; " +
				"lse is the log of each row's softmax sum, kept for the gradient",
			Args: []string{"q", "k", "v", "seed?", "step?"}, Results: []string{"o", "lse!"}, Attrs: train,
			Shape: func(op *Op) ([]Type, error) {
				q := op.Args[0]
				return []Type{q.Type, lseType(op, q.Type)}, firstError(attentionShape(op, q, op.Args[1], op.Args[2]), wantDraws(op, op.Args[3], op.Args[4]))
			},
			FLOPs: attentionFLOPs(2), Eval: evalAttention, Grad: gradAttention,
		},
		{
			Kind: "attention_cached", Doc: "appends each row's k and v to the cache at (slot, position), then attends to that slot's cached positions",
			Args: []string{"q", "k", "v", "k_cache", "v_cache", "positions", "slots"}, Results: []string{"o"}, Attrs: common,
			Shape: func(op *Op) ([]Type, error) {
				q, k, v := op.Args[0], op.Args[1], op.Args[2]
				for _, c := range op.Args[3:5] {
					if len(c.Type.Dims) != 3 || c.Type.Cols() != k.Type.Cols() {
						return nil, fmt.Errorf("cache %v is %v, want [slots, positions, %d]", c, c.Type, k.Type.Cols())
					}
				}
				return []Type{q.Type}, firstError(attentionShape(op, q, k, v), wantInts(op.Args[5], q), wantInts(op.Args[6], q))
			},
			FLOPs: func(op *Op) float64 { // one row against a full cache
				t := op.Args[3].Type.Dims[1].Size
				return 4 * float64(op.Args[0].Type.Elems()) * float64(t)
			},
			Eval: evalAttentionCached, NoGrad: true,
		},
		{
			Kind: "attention_grad", Doc: "gradients of attention's q, k and v from that of o; adds the sums of them, side by side, over rows to a bias's gradient",
			Args: []string{"d_o", "q", "k", "v", "o", "lse", "seed?", "step?"}, Into: []string{"b?"}, Results: []string{"d_q", "d_k", "d_v"}, Attrs: train,
			Shape: func(op *Op) ([]Type, error) {
				q, k, v := op.Args[1], op.Args[2], op.Args[3]
				err := firstError(attentionShape(op, q, k, v), wantShape(op.Args[0], q), wantShape(op.Args[4], q), wantDraws(op, op.Args[6], op.Args[7]))
				if lse := lseType(op, q.Type); !op.Args[5].Type.SameShape(lse) {
					err = firstError(err, fmt.Errorf("%v is %v, want %v", op.Args[5], op.Args[5].Type, lse))
				}
				for _, into := range op.Into {
					err = firstError(err, wantVector(into, q.Type.Cols()+k.Type.Cols()+v.Type.Cols()))
				}
				return []Type{q.Type, k.Type, v.Type}, err
			},
			FLOPs: attentionFLOPs(5), Eval: evalAttentionGrad, NoGrad: true,
		},
	}
}

// rowType is one f32 for each row of x: the losses that a loss sums.
func rowType(x *Value) Type { return Type{F32, x.Type.Dims[:len(x.Type.Dims)-1]} }

// headTile is how many logits the head loss holds at once, beyond headRows rows of them: few enough for a cache of
// some megabytes. Each tile reads the weights twice and adds to their gradients, so with fewer rows than that it would wait for
// memory: the logits of a row are moved five times, the weights and gradients of a tile four times, and a row of weights is as long as
// the model is wide.
const (
	headTile = 1 << 22
	headRows = 512
)

const (
	minHeadRows = 64 // the fewest rows of a tile that a target chose
	headLine    = 64 // what its columns are filled up to a multiple of
)

// tileType is the logits that the head loss of x under w holds at once: an even share of the rows of x. The attribute
// tile is the number of logits that a target wants, where that is another. Rows of such a tile are whole cache lines, for matrix
// units want rows that start at multiples of 16 bytes, and vocabularies have any number of tokens: what is behind them is not used.
func tileType(op *Op) Type {
	x, w := op.Args[0], op.Args[1]
	n, v := x.Type.Rows(), w.Type.Dims[0]
	most := max(headRows, headTile/max(v.Size, 1))
	if t := op.Int("tile"); t > 0 {
		most = max(minHeadRows, t/max(v.Size, 1))
		if whole := (v.Size + headLine - 1) / headLine * headLine; whole != v.Size {
			v = Dim{fmt.Sprint(whole), whole}
		}
	}
	tiles := max(1, (n+most-1)/most)
	r := (n + tiles - 1) / tiles
	return Type{F32, []Dim{{fmt.Sprint(r), r}, v}}
}

func lossOps() []*OpDef {
	logitsShape := func(op *Op) ([]Type, error) {
		return []Type{scalar(F32), rowType(op.Args[0])}, firstError(wantInts(op.Args[1], op.Args[0]), wantScalars(op.Args[2]))
	}
	headShape := func(op *Op) ([]Type, error) {
		return []Type{scalar(F32), rowType(op.Args[0]), tileType(op)}, firstError(wantMatrix(op.Args[1], 0, op.Args[0].Type.Cols()),
			wantVector(op.Args[2], op.Args[1].Type.Rows()), wantInts(op.Args[3], op.Args[0]), wantScalars(op.Args[4]))
	}
	headFLOPs := func(products float64) func(*Op) float64 {
		return func(op *Op) float64 {
			return products * 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Rows())
		}
	}
	return []*OpDef{
		{
			Kind: "count", Doc: "the number of targets that are not negative, over every micro-batch",
			Args: []string{"targets"}, Results: []string{"n"},
			Shape: func(op *Op) ([]Type, error) { return []Type{scalar(F32)}, nil },
			FLOPs: noFLOPs, Eval: evalCount, NoGrad: true,
		},
		{
			Kind: "zero", Doc: "the scalar 0", Results: []string{"y"},
			Shape: func(op *Op) ([]Type, error) { return []Type{scalar(F32)}, nil },
			FLOPs: noFLOPs, NoGrad: true,
			Eval: func(e *evaluator, op *Op, in []*Tensor) []*Tensor { return []*Tensor{NewTensor()} },
		},
		{
			Kind: "cross_entropy", Doc: "sum over rows of -log softmax(logits)[target], divided by n where given; negative targets are left out",
			Args: []string{"logits", "targets", "n?"}, Results: []string{"loss", "rows!"}, Shape: logitsShape,
			FLOPs: func(op *Op) float64 { return 5 * float64(op.Args[0].Type.Elems()) }, Eval: evalCrossEntropy,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				dx := g.Op("cross_entropy_grad", []string{"d_" + op.Args[0].Name, op.Results[1].Name}, op.Args, nil)
				return []*Value{dx.Result(), nil, nil}
			},
		},
		{
			Kind: "head_loss", Doc: "cross_entropy of softcap(scale * (x·wᵀ + bias)), the logits of a tile of rows at a time",
			Args: []string{"x", "w", "bias?", "targets", "n?"}, Results: []string{"loss", "rows!", "tile!"}, Attrs: attrs(need("float", "scale?", "softcap?"), need("int", "tile?"), rounds),
			Shape: headShape, FLOPs: headFLOPs(1), Eval: evalHeadLoss,
			Grad: func(g *Gradient, op *Op, d []*Value) []*Value {
				// The loss is the root, its gradient 1: loss and gradient come from one pass over the logits.
				loss, rows, tile := op.Results[0], op.Results[1], op.Results[2]
				for _, v := range op.Results {
					g.Free(v.Name)
				}
				at := g.Op("head_loss_grad", []string{loss.Name, "d_" + op.Args[0].Name, rows.Name, tile.Name}, op.Args, op.Attrs, op.Args[1], op.Args[2])
				at.Results[3].Type = tile.Type
				g.Func.Replace(loss, at.Results[0])
				op.Remove()
				return []*Value{at.Results[1], nil, nil, nil, nil}
			},
		},
		{
			Kind: "cross_entropy_grad", Doc: "gradient of cross_entropy: (softmax(logits) - onehot(target)) / n",
			Args: []string{"logits", "targets", "n?"}, Results: []string{"d_logits", "rows!"}, InPlace: []int{0},
			Shape: func(op *Op) ([]Type, error) {
				_, err := logitsShape(op)
				return []Type{op.Args[0].Type, rowType(op.Args[0])}, err
			},
			FLOPs: perElement(5), Eval: evalCrossEntropyGrad, NoGrad: true,
		},
		{
			Kind: "head_loss_grad", Doc: "head_loss with the gradient of x, adding those of w and bias, in one pass over the logits",
			Args: []string{"x", "w", "bias?", "targets", "n?"}, Into: []string{"w", "bias?"}, Results: []string{"loss", "d_x", "rows!", "tile!"},
			Attrs: attrs(need("float", "scale?", "softcap?"), need("int", "tile?"), rounds),
			Shape: func(op *Op) ([]Type, error) {
				_, err := headShape(op)
				if op.Into[0] != op.Args[1] || op.Into[1] != op.Args[2] {
					err = firstError(err, fmt.Errorf("adds gradients to other parameters than it reads"))
				}
				return []Type{scalar(F32), op.Args[0].Type, rowType(op.Args[0]), tileType(op)}, err
			},
			FLOPs: headFLOPs(3), Eval: evalHeadLossGrad, NoGrad: true,
		},
	}
}

func fusedOps() []*OpDef {
	return []*OpDef{
		{
			Kind: "add_layernorm", Doc: "sum = a + b and its LayerNorm, in one pass",
			Args: []string{"a", "b", "w", "bias?"}, Results: []string{"sum", "y!", "stats"}, Attrs: need("float", "eps"), InPlace: []int{0},
			Shape: func(op *Op) ([]Type, error) {
				a := op.Args[0]
				if !op.Args[1].Type.SameShape(a.Type) {
					return nil, fmt.Errorf("%v is %v, want %v", op.Args[1], op.Args[1].Type, a.Type)
				}
				return []Type{a.Type, a.Type, normStats(a.Type, 0, 2)}, firstError(wantVector(op.Args[2], a.Type.Cols()), wantVector(op.Args[3], a.Type.Cols()))
			},
			FLOPs: perElement(9), Eval: evalAddNorm(evalLayerNorm), Grad: gradAddNorm("layernorm_grad"),
		},
		{
			Kind: "add_rmsnorm", Doc: "sum = a + b and its RMSNorm, in one pass",
			Args: []string{"a", "b", "w"}, Results: []string{"sum", "y!", "stats"}, Attrs: need("float", "eps", "offset?"), InPlace: []int{0},
			Shape: func(op *Op) ([]Type, error) {
				a := op.Args[0]
				if !op.Args[1].Type.SameShape(a.Type) {
					return nil, fmt.Errorf("%v is %v, want %v", op.Args[1], op.Args[1].Type, a.Type)
				}
				return []Type{a.Type, a.Type, normStats(a.Type, 0, 1)}, wantVector(op.Args[2], a.Type.Cols())
			},
			FLOPs: perElement(6), Eval: evalAddNorm(evalRMSNorm), Grad: gradAddNorm("rmsnorm_grad"),
		},
	}
}

func backwardOps() []*OpDef {
	normGrad := func(stats int) func(op *Op) ([]Type, error) {
		return func(op *Op) ([]Type, error) {
			dy, x, w := op.Args[0], op.Args[1], op.Args[2]
			if t := normStats(x.Type, op.Int("group"), stats); !op.Args[3].Type.SameShape(t) {
				return nil, fmt.Errorf("%v is %v, want %v", op.Args[3], op.Args[3].Type, t)
			}
			err := firstError(wantGroups(op, x), wantShape(dy, x), wantShape(op.Args[4], x), wantVector(w, normWidth(op, x)))
			for _, into := range op.Into {
				err = firstError(err, wantVector(into, normWidth(op, x)))
			}
			return []Type{dy.Type}, err
		}
	}
	tableGrad := func(op *Op) ([]Type, error) {
		return nil, firstError(wantMatrix(op.Into[0], 0, op.Args[0].Type.Cols()), wantInts(op.Args[1], op.Args[0]))
	}
	rowsIn := func(n float64) func(*Op) float64 {
		return func(op *Op) float64 { return n * float64(op.Args[0].Type.Elems()) }
	}
	return []*OpDef{
		{
			Kind: "embed_grad", Doc: "adds scale * d_y[n] to row tokens[n] of the table's gradient, in the order of n",
			Args: []string{"d_y", "tokens"}, Into: []string{"table"}, Attrs: need("float", "scale"),
			Shape: tableGrad, FLOPs: rowsIn(2), Eval: evalEmbedGrad, NoGrad: true,
		},
		{
			Kind: "positions_grad", Doc: "adds d_y[n] to row positions[n] of the table's gradient, in the order of n",
			Args: []string{"d_y", "positions"}, Into: []string{"table"},
			Shape: tableGrad, FLOPs: rowsIn(1), Eval: evalPositionsGrad, NoGrad: true,
		},
		{
			Kind: "layernorm_grad", Doc: "gradient of layernorm's x, plus residual; adds the gradients of w and b",
			Args: []string{"d_y", "x", "w", "stats", "residual?"}, Into: []string{"w", "b?"}, Results: []string{"d_x"}, InPlace: []int{4},
			Attrs: attrs(need("float", "eps"), need("int", "group?")),
			Shape: normGrad(2), FLOPs: perElement(14), Eval: evalLayerNormGrad, NoGrad: true,
		},
		{
			Kind: "rmsnorm_grad", Doc: "gradient of rmsnorm's x, plus residual; adds the gradient of w",
			Args: []string{"d_y", "x", "w", "stats", "residual?"}, Into: []string{"w"}, Results: []string{"d_x"}, InPlace: []int{4},
			Attrs: attrs(need("float", "eps", "offset?"), need("int", "group?")),
			Shape: normGrad(1), FLOPs: perElement(10), Eval: evalRMSNormGrad, NoGrad: true,
		},
		{
			Kind: "linear_dx", Doc: "gradient of linear's x: d_x = d_y·w + residual; or where x = act(pre), of pre: that times act'(pre); adds the sum of d_x over rows to a bias's gradient",
			Args: []string{"d_y", "w", "residual?", "pre?"}, Into: []string{"b?"}, Results: []string{"d_x"}, Attrs: attrs(need("string", "act?"), rounds), InPlace: []int{2},
			Shape: func(op *Op) ([]Type, error) {
				dy, w := op.Args[0], op.Args[1]
				t := dy.Type.WithLast(w.Type.Last())
				for i, name := range []string{"residual", "pre"} {
					if x := op.Args[2+i]; x != nil && !x.Type.SameShape(t) {
						return nil, fmt.Errorf("%s %v is %v, want %v", name, x, x.Type, t)
					}
				}
				if (op.Args[3] == nil) != (op.Str("act") == "") {
					return nil, errors.New("act comes with the value before the activation")
				}
				if fn := op.Str("act"); fn != "" {
					if err := wantActivation(fn); err != nil {
						return nil, err
					}
				}
				for _, into := range op.Into {
					if err := wantVector(into, t.Cols()); err != nil {
						return nil, err
					}
				}
				return []Type{t}, wantCols(dy, w.Type.Rows(), "gradient")
			},
			FLOPs: func(op *Op) float64 {
				return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Cols())
			},
			Eval: evalLinearDX, NoGrad: true,
		},
		{
			Kind: "linear_glu", Doc: "a gated activation of a linear's columns: y = fn(gate) * up, where pre = x·wᵀ + bias is gate and up side by side",
			Args: []string{"x", "w", "bias?"}, Results: []string{"y", "pre!"}, Attrs: need("string", "fn"),
			Shape: func(op *Op) ([]Type, error) {
				x, w := op.Args[0], op.Args[1]
				if err := wantMatrix(w, 0, x.Type.Cols()); err != nil {
					return nil, err
				}
				half, err := halfOf(w.Type.Dims[0])
				if err != nil {
					return nil, err
				}
				return []Type{x.Type.WithLast(half), x.Type.WithLast(w.Type.Dims[0])}, firstError(wantVector(op.Args[2], w.Type.Rows()), wantActivation(op.Str("fn")))
			},
			FLOPs: func(op *Op) float64 {
				return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Rows())
			},
			Eval: evalLinearGLU, NoGrad: true,
		},
		{
			Kind: "linear_glu_dx", Doc: "gradient of linear_glu's pre, where y went through linear: with d = d_y·w, d_pre = d * up * fn'(gate), d * fn(gate) side by side; adds the sum of d_pre over rows to a bias's gradient",
			Args: []string{"d_y", "w", "pre"}, Into: []string{"b?"}, Results: []string{"d_pre"}, Attrs: need("string", "fn"),
			Shape: func(op *Op) ([]Type, error) {
				dy, w := op.Args[0], op.Args[1]
				t := dy.Type.WithLast(SumDims([]Dim{w.Type.Last(), w.Type.Last()}))
				if pre := op.Args[2]; !pre.Type.SameShape(t) {
					return nil, fmt.Errorf("pre %v is %v, want %v", pre, pre.Type, t)
				}
				for _, into := range op.Into {
					if err := wantVector(into, t.Cols()); err != nil {
						return nil, err
					}
				}
				return []Type{t}, firstError(wantActivation(op.Str("fn")), wantCols(dy, w.Type.Rows(), "gradient"))
			},
			FLOPs: func(op *Op) float64 {
				return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Cols())
			},
			Eval: evalLinearGLUDX, NoGrad: true,
		},
		{
			Kind: "linear_dw", Doc: "adds linear's weight gradient: d_w += d_yᵀ·x",
			Args: []string{"d_y", "x"}, Into: []string{"w"}, Attrs: rounds,
			Shape: func(op *Op) ([]Type, error) {
				dy, x := op.Args[0], op.Args[1]
				if dy.Type.Rows() != x.Type.Rows() {
					return nil, fmt.Errorf("%v and %v differ in rows", dy.Type, x.Type)
				}
				return nil, wantMatrix(op.Into[0], dy.Type.Cols(), x.Type.Cols())
			},
			FLOPs: func(op *Op) float64 {
				return 2 * float64(op.Args[0].Type.Elems()) * float64(op.Args[1].Type.Cols())
			},
			Eval: evalLinearDW, NoGrad: true,
		},
		{
			Kind: "bias_grad", Doc: "adds a bias's gradient: the sum of d_y over rows",
			Args: []string{"d_y"}, Into: []string{"b"},
			Shape: func(op *Op) ([]Type, error) { return nil, wantVector(op.Into[0], op.Args[0].Type.Cols()) },
			FLOPs: rowsIn(1), Eval: evalBiasGrad, NoGrad: true,
		},
		{
			Kind: "act_grad", Doc: "d_x = d_y * fn'(x)",
			Args: []string{"d_y", "x"}, Results: []string{"d_x"}, Attrs: need("string", "fn"), InPlace: []int{0},
			Shape: activated(2), FLOPs: perElement(14), Eval: evalActGrad, NoGrad: true,
		},
		{
			Kind: "glu_grad", Doc: "d_gate = d_y * up * fn'(gate), d_up = d_y * fn(gate)",
			Args: []string{"d_y", "gate", "up"}, Results: []string{"d_gate", "d_up"}, Attrs: need("string", "fn"),
			Shape: func(op *Op) ([]Type, error) {
				t, err := activated(3)(op)
				return append(t, op.Args[0].Type), err
			},
			FLOPs: perElement(18), Eval: evalGLUGrad, NoGrad: true,
		},
		{
			Kind: "softcap_grad", Doc: "d_x = d_y * (1 - tanh²(x / cap))",
			Args: []string{"d_y", "x"}, Results: []string{"d_x"}, Attrs: need("float", "cap"), InPlace: []int{0},
			Shape: sameShapes(2), FLOPs: perElement(8), Eval: evalSoftcapGrad, NoGrad: true,
		},
	}
}

func updateOps() []*OpDef {
	return []*OpDef{
		{
			Kind: "zero_grads", Doc: "sets every weight's gradient to zero",
			Shape: func(op *Op) ([]Type, error) { return nil, nil },
			FLOPs: noFLOPs, NoGrad: true, Eval: evalZeroGrads,
		},
		{
			Kind: "grad_norm", Doc: "the Euclidean norm of all gradients together", Results: []string{"norm"},
			Shape: func(op *Op) ([]Type, error) { return []Type{scalar(F32)}, nil },
			FLOPs: noFLOPs, NoGrad: true, Eval: evalGradNorm,
		},
		{
			Kind: "adamw", Doc: "AdamW (arXiv 1711.05101) on every weight, gradients first scaled so that their norm is at most clip (0: as they are)",
			Args: []string{"norm", "lr", "step"}, Attrs: need("float", "beta1", "beta2", "eps", "weight_decay", "clip"),
			Shape: func(op *Op) ([]Type, error) { return nil, wantScalars(op.Args...) },
			FLOPs: noFLOPs, NoGrad: true, Eval: evalAdamW,
		},
	}
}
