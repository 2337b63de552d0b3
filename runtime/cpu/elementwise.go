package cpu

// Matrices of one call have one shape. A result may be one of the operands; it may not overlap one in part.

// Add computes y = a + b.
func Add(p *Pool, y, a, b Mat) {
	p.note("Add", cost{bytes: moved(y, a, b)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowAdd, y: y, a: a, b: b})
}

func rowAdd(k *rowwise, r int, _ *scratch) { addTo(k.y.Row(r), k.a.Row(r), k.b.Row(r)) }

func addTo(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := addVector(y, a, b); i < len(y); i++ {
		y[i] = a[i] + b[i]
	}
}

// AddScaled computes y = a + s*b.
func AddScaled(p *Pool, y, a, b Mat, s float32) {
	p.note("AddScaled", cost{bytes: moved(y, a, b)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowAddScaled, y: y, a: a, b: b, scale: s})
}

func rowAddScaled(k *rowwise, r int, _ *scratch) {
	addScaledTo(k.y.Row(r), k.a.Row(r), k.b.Row(r), k.scale)
}

func addScaledTo(y, a, b []float32, s float32) {
	if s == 1 {
		addTo(y, a, b)
		return
	}
	a, b = a[:len(y)], b[:len(y)]
	for i := range y {
		y[i] = a[i] + s*b[i]
	}
}

// Scale computes y = s*x.
func Scale(p *Pool, y, x Mat, s float32) {
	p.note("Scale", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowScale, y: y, a: x, scale: s})
}

func rowScale(k *rowwise, r int, _ *scratch) { scaleTo(k.y.Row(r), k.a.Row(r), k.scale) }

func scaleTo(y, x []float32, s float32) {
	x = x[:len(y)]
	for i := scaleVector(y, x, s); i < len(y); i++ {
		y[i] = s * x[i]
	}
}

// Copy computes y = x.
func Copy(p *Pool, y, x Mat) {
	p.note("Copy", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowCopy, y: y, a: x})
}

func rowCopy(k *rowwise, r int, _ *scratch) { copy(k.y.Row(r), k.a.Row(r)) }

// AddBias computes y = x + bias for every row.
func AddBias(p *Pool, y, x Mat, bias []float32) {
	p.note("AddBias", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowAddBias, y: y, a: x, vector: bias})
}

func rowAddBias(k *rowwise, r int, _ *scratch) { addTo(k.y.Row(r), k.a.Row(r), k.vector) }

// Activate computes y = act(x).
func Activate(p *Pool, y, x Mat, act Activation) {
	p.note("Activate", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowActivate, y: y, a: x, act: act})
}

func rowActivate(k *rowwise, r int, _ *scratch) {
	apply(k.act, k.y.Row(r), k.a.Row(r))
}

// ActivateGrad computes dx = dy*act'(x).
func ActivateGrad(p *Pool, dx, dy, x Mat, act Activation) {
	p.note("ActivateGrad", cost{bytes: moved(dx, dy, x)})
	p.runRows(dx.Rows, dx.Cols, rowwise{row: rowActivateGrad, y: dx, a: dy, b: x, act: act})
}

func rowActivateGrad(k *rowwise, r int, _ *scratch) {
	gradRow(k.act, k.y.Row(r), k.a.Row(r), k.b.Row(r))
}

// GLU computes y = act(gate)*up, the gated linear unit (Shazeer, "GLU Variants Improve Transformer", 2020).
func GLU(p *Pool, y, gate, up Mat, act Activation) {
	p.note("GLU", cost{bytes: moved(y, gate, up)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowGlu, y: y, a: gate, b: up, act: act})
}

func rowGlu(k *rowwise, r int, s *scratch) {
	y, up := k.y.Row(r), k.b.Row(r)
	g := s.floats(len(y)) // y may be up
	apply(k.act, g, k.a.Row(r))
	mulTo(y, g, up)
}

func mulTo(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := mulVector(y, a, b); i < len(y); i++ {
		y[i] = a[i] * b[i]
	}
}

// mulLessTo computes y = a*(b-shift).
func mulLessTo(y, a, b []float32, shift float32) {
	a, b = a[:len(y)], b[:len(y)]
	for i := mulLessVector(y, a, b, shift); i < len(y); i++ {
		y[i] = a[i] * (b[i] - shift)
	}
}

// GLUGrad computes the gradients of GLU: dgate = dy*up*act'(gate) and dup = dy*act(gate).
func GLUGrad(p *Pool, dgate, dup, dy, gate, up Mat, act Activation) {
	p.note("GLUGrad", cost{bytes: moved(dgate, dup, dy, gate, up)})
	p.runRows(dy.Rows, dy.Cols, rowwise{row: rowGluGrad, y: dgate, y2: dup, a: dy, b: gate, c: up, act: act})
}

func rowGluGrad(k *rowwise, r int, s *scratch) {
	dy, gate := k.a.Row(r), k.b.Row(r)
	n := len(dy)
	buf := s.floats(2 * n)
	du, dg := buf[:n], buf[n:]
	apply(k.act, du, gate)
	mulTo(du, du, dy)
	mulTo(dg, dy, k.c.Row(r))
	gradRow(k.act, k.y.Row(r), dg, gate)
	copy(k.y2.Row(r), du) // last, for dup may be gate
}

// Softcap computes y = cap*tanh(x/cap), which keeps y within ±cap (Gemma 2, 2024).
func Softcap(p *Pool, y, x Mat, cap float32) {
	p.note("Softcap", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowSoftcap, y: y, a: x, scale: cap})
}

func rowSoftcap(k *rowwise, r int, _ *scratch) {
	tanhRow(k.y.Row(r), k.a.Row(r), 1/k.scale, k.scale)
}

// SoftcapGrad computes dx = dy*(1 - tanh²(x/cap)).
func SoftcapGrad(p *Pool, dx, dy, x Mat, cap float32) {
	p.note("SoftcapGrad", cost{bytes: moved(dx, dy, x)})
	p.runRows(dx.Rows, dx.Cols, rowwise{row: rowSoftcapGrad, y: dx, a: dy, b: x, scale: cap})
}

func rowSoftcapGrad(k *rowwise, r int, s *scratch) {
	dx := k.y.Row(r)
	dy := k.a.Row(r)[:len(dx)]
	t := s.floats(len(dx)) // dx may be dy
	tanhRow(t, k.b.Row(r), 1/k.scale, 1)
	for i, v := range t {
		dx[i] = dy[i] * (1 - v*v)
	}
}
