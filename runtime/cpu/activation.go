package cpu

// Activation names the function between the two products of a feed-forward layer.
type Activation uint8

const (
	None     Activation = iota // x
	GELU                       // x*Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016)
	GELUTanh                   // x*(1+tanh(√(2/π)*(x+0.044715*x³)))/2, the form GPT-2 was trained with
	ReLU                       // max(x, 0)
	ReLU2                      // max(x, 0)² (So et al. 2021)
	SiLU                       // x/(1+e^-x), also called Swish
)

// GELUTanh is x*sigmoid(geluA*x + geluB*x³), for (1+tanh u)/2 = sigmoid(2u).
const (
	geluA = 1.5957691216057308   // 2*√(2/π)
	geluB = 0.044715 * geluA     //
	geluC = 3 * 0.044715 * geluA // derivative of geluB*x³, over x²
)

// apply writes y = act(x). y may be x.
func apply(act Activation, y, x []float32) {
	y = y[:len(x)]
	if applyVector(act, y, x) {
		return
	}
	switch act {
	case None:
		copy(y, x)
	case GELU:
		for i, v := range x {
			q, _ := normalTail(v)
			y[i] = max(v, 0) - max(v, -v)*q
		}
	case GELUTanh:
		for i, v := range x {
			y[i] = v * sigmoid32(v*(geluA+geluB*v*v))
		}
	case ReLU:
		for i, v := range x {
			y[i] = max(v, 0)
		}
	case ReLU2:
		for i, v := range x {
			v = max(v, 0)
			y[i] = v * v
		}
	case SiLU:
		for i, v := range x {
			y[i] = v * sigmoid32(v)
		}
	}
}

// gradRow writes dx = dy*act'(x). dx may be dy or x.
func gradRow(act Activation, dx, dy, x []float32) {
	dx, dy = dx[:len(x)], dy[:len(x)]
	if gradVector(act, dx, dy, x) {
		return
	}
	switch act {
	case None:
		copy(dx, dy)
	case GELU:
		for i, v := range x {
			q, e := normalTail(v)
			if v >= 0 {
				q = 1 - q
			}
			dx[i] = dy[i] * (q + v*invSqrt2Pi*e)
		}
	case GELUTanh:
		for i, v := range x {
			dx[i] = dy[i] * gated(v*(geluA+geluB*v*v), v*(geluA+geluC*v*v))
		}
	case ReLU:
		for i, v := range x {
			g := dy[i]
			if v <= 0 {
				g = 0
			}
			dx[i] = g
		}
	case ReLU2:
		for i, v := range x {
			dx[i] = dy[i] * 2 * max(v, 0)
		}
	case SiLU:
		for i, v := range x {
			dx[i] = dy[i] * gated(v, v)
		}
	}
}

// gated returns s + s*(1-s)*w for s = sigmoid(x), with 1-s = e^-x * s, which keeps its digits where s is near 1. e^-x is
// kept finite.
func gated(x, w float32) float32 {
	e := exp32(min(-x, 88))
	s := 1 / (1 + e)
	return s + e*s*s*w
}
