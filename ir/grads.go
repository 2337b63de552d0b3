package ir

import "maps"

// Gradient builds the backward ops of a function; the grad pass drives it.
type Gradient struct{ *Builder }

// Grads names the gradient of v.
func dName(v *Value) string { return "d_" + v.Name }

func gradEmbed(g *Gradient, op *Op, d []*Value) []*Value {
	g.Op("embed_grad", nil, []*Value{d[0], op.Args[0]}, Attrs{"scale": op.Float("scale")}, op.Args[1])
	return []*Value{nil, nil}
}

func gradAddPositions(g *Gradient, op *Op, d []*Value) []*Value {
	g.Op("positions_grad", nil, []*Value{d[0], op.Args[2]}, nil, op.Args[1])
	return []*Value{d[0], nil, nil}
}

// copyAttrs returns the attributes of op that are set, of those named.
func copyAttrs(op *Op, names ...string) Attrs {
	a := Attrs{}
	for _, n := range names {
		if v, ok := op.Attrs[n]; ok {
			a[n] = v
		}
	}
	return a
}

func gradNorm(kind string) func(*Gradient, *Op, []*Value) []*Value {
	return func(g *Gradient, op *Op, d []*Value) []*Value {
		dx := g.Op(kind, []string{dName(op.Args[0])}, []*Value{d[0], op.Args[0], op.Args[1], op.Results[1], nil},
			copyAttrs(op, "eps", "offset", "group"), op.Args[1:]...).Result()
		return append([]*Value{dx}, make([]*Value, len(op.Args)-1)...)
	}
}

// gradAddNorm: the sum's own gradient joins that through the norm; both addends receive it.
func gradAddNorm(kind string) func(*Gradient, *Op, []*Value) []*Value {
	return func(g *Gradient, op *Op, d []*Value) []*Value {
		sum, dsum := op.Results[0], d[0]
		if d[1] != nil {
			dsum = g.Op(kind, []string{dName(sum)}, []*Value{d[1], sum, op.Args[2], op.Results[2], d[0]},
				copyAttrs(op, "eps", "offset"), op.Args[2:]...).Result()
		}
		return append([]*Value{dsum, dsum}, make([]*Value, len(op.Args)-2)...)
	}
}

func gradLinear(g *Gradient, op *Op, d []*Value) []*Value {
	x, w, bias, dy := op.Args[0], op.Args[1], op.Args[2], d[0]
	residual := (*Value)(nil)
	if op.Args[3] != nil {
		residual = dy
	}
	if fn := op.Str("act"); fn != "" {
		dy = g.Op("act_grad", []string{dName(op.Results[1])}, []*Value{dy, op.Results[1]}, Attrs{"fn": fn}).Result()
	}
	if bias != nil {
		g.Op("bias_grad", nil, []*Value{dy}, nil, bias)
	}
	as := copyAttrs(op, "tf32", "bf16")
	g.Op("linear_dw", nil, []*Value{dy, x}, maps.Clone(as), w)
	dx := g.Op("linear_dx", []string{dName(x)}, []*Value{dy, w, nil, nil}, as).Result()
	return []*Value{dx, nil, nil, residual}
}

func gradAttention(g *Gradient, op *Op, d []*Value) []*Value {
	q, k, v := op.Args[0], op.Args[1], op.Args[2]
	args := []*Value{d[0], q, k, v, op.Results[0], op.Results[1], op.Args[3], op.Args[4]}
	r := g.Op("attention_grad", []string{dName(q), dName(k), dName(v)}, args, maps.Clone(op.Attrs)).Results
	return []*Value{r[0], r[1], r[2], nil, nil}
}
