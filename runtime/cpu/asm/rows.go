package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The polynomials are those of math32.go in package cpu, whose tests hold the kernels to them.
var (
	expPoly  = []float64{0.4999999344776645, 0.16666520631651466, 0.04166838804987951, 0.008368716885160393, 0.0013814598480509836}
	tailPoly = []float64{0.13962140435866838, 0.13986186859016397, 0.11983287563089823, 0.10550797208969113, -0.023109758851864348,
		0.1591740484513, -0.25571415529915026, 0.1439716492115979, -0.029145920127262994}
)

const (
	tailScale  = 0.35
	invSqrt2Pi = 0.3989422804014327
	geluA      = 1.5957691216057308
	geluB      = 0.044715 * geluA
	geluC      = 3 * 0.044715 * geluA
)

// A vector is a register of the loop body under construction.
type vector = reg.VecVirtual

func (v isa) binary(op func(...Op), x Op, y vector) vector { r := v.vec(); v.do(op, x, y, r); return r }

func (v isa) add(y vector, x Op) vector { return v.binary(VADDPS, x, y) } // y+x
func (v isa) sub(y vector, x Op) vector { return v.binary(VSUBPS, x, y) } // y-x
func (v isa) mul(y vector, x Op) vector { return v.binary(VMULPS, x, y) }
func (v isa) div(y vector, x Op) vector { return v.binary(VDIVPS, x, y) } // y/x

// atLeast and atMost bound x and keep a NaN.
func (v isa) atLeast(x vector, low float64) vector { return v.binary(VMAXPS, x, v.load(number(low))) }
func (v isa) atMost(x vector, high float64) vector { return v.binary(VMINPS, x, v.load(number(high))) }

// horner evaluates the polynomial with the given coefficients, lowest first, at x.
func (v isa) horner(c []float64, x vector) vector {
	q := v.load(number(c[len(c)-1]))
	for i := len(c) - 2; i >= 0; i-- {
		v.do(VFMADD213PS, number(c[i]), x, q)
	}
	return q
}

// expSplit returns e^r - 1 and the integer n with x = n*ln 2 + r.
func (v isa) expSplit(x vector) (em1, n vector) {
	n = v.vec()
	VCVTPS2DQ(v.mul(x, number(math.Log2E)), n)
	f := v.vec()
	VCVTDQ2PS(n, f)
	r := v.load(x)
	v.do(VFNMADD231PS, number(0.693359375), f, r)
	v.do(VFNMADD231PS, number(-2.12194440054690583e-4), f, r)
	q := v.horner(expPoly, r)
	em1 = v.mul(r, r)
	VFMADD213PS(r, q, em1)
	return em1, n
}

// pow2 returns 2^n for integers n in the normal range.
func (v isa) pow2(n vector) vector {
	r := v.binary(VPADDD, bitsOf(127), n)
	VPSLLD(Imm(23), r, r)
	return r
}

// expOf returns e^x, subnormal results included. What becomes 0, as scores that are masked do, is left out of the last multiplication: a result
// that is too small costs some processors a hundred cycles.
func (v isa) expOf(x vector) vector {
	const notLess = 5
	if v.lanes == 16 { // which has instructions to round, and to multiply by 2^n whatever n is
		some := K()
		VCMPPS_BCST(Imm(notLess), number(-104), x, some)
		x = v.atMost(v.atLeast(x, -104), 89)
		n, r := v.vec(), v.load(x)
		VRNDSCALEPS(Imm(8), v.mul(x, number(math.Log2E)), n)
		v.do(VFNMADD231PS, number(0.693359375), n, r)
		v.do(VFNMADD231PS, number(-2.12194440054690583e-4), n, r)
		e := v.mul(r, r)
		VFMADD213PS(r, v.horner(expPoly, r), e)
		e = v.add(e, number(1))
		VSCALEFPS_Z(n, e, some, e)
		return e
	}
	some := v.vec()
	VCMPPS(Imm(notLess), v.load(number(-104)), x, some)
	x = v.atMost(v.atLeast(x, -104), 89)
	em1, n := v.expSplit(x)
	n = v.and(n, some)
	half := v.vec()
	VPSRAD(Imm(1), n, half)
	rest := v.binary(VPSUBD, half, n)
	return v.and(v.mul(v.mul(v.add(em1, number(1)), v.pow2(half)), v.pow2(rest)), some)
}

// sigmoid returns 1/(1+e^-x).
func (v isa) sigmoid(x vector) vector {
	e := v.expOf(v.binary(VXORPS, bitsOf(1<<31), x))
	return v.div(v.load(number(1)), v.add(e, number(1)))
}

// normalTail returns |x|, the upper tail Q(|x|) of the standard normal distribution, and e^(-x²/2).
func (v isa) normalTail(x vector) (ax, q, e vector) {
	ax = v.binary(VANDPS, bitsOf(1<<31-1), x)
	e = v.expOf(v.mul(v.mul(ax, number(-0.5)), ax))
	t := v.div(v.load(number(1)), v.add(v.mul(ax, number(tailScale)), number(1)))
	q = v.mul(v.mul(v.horner(tailPoly, t), t), e)
	return ax, q, e
}

// geluInner returns geluA + c*x².
func (v isa) geluInner(x vector, c float64) vector {
	r := v.mul(x, x)
	v.do(VFMADD213PS, number(geluA), v.load(number(c)), r)
	return r
}

// rowKernel writes a kernel over n elements, n a multiple of the lanes. body returns what to store for the loaded
// operands, the arguments named in sources. scalars are the arguments that setup broadcasts.
func (v isa) rowKernel(name, doc string, sources, scalars []string, setup func(), body func(in []vector) vector) {
	signature := "func(dst"
	for _, s := range sources {
		signature += ", " + s
	}
	signature += " *float32, n int"
	for _, s := range scalars {
		signature += ", " + s + " float32"
	}
	TEXT(name+v.suffix, NOSPLIT, signature+")")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s%s %s over n elements, a multiple of %d.", name, v.suffix, doc, v.lanes))
	dst, n := Load(Param("dst"), GP64()), Load(Param("n"), GP64())
	at := make([]reg.Register, len(sources))
	for i, s := range sources {
		at[i] = Load(Param(s), GP64())
	}
	if setup != nil {
		setup()
	}
	loop("step", n, v.lanes, func() {
		in := make([]vector, len(sources))
		for i := range in {
			in[i] = v.load(Mem{Base: at[i]})
		}
		VMOVUPS(body(in), Mem{Base: dst})
		for i := range at {
			ADDQ(Imm(uint64(v.lanes*4)), at[i])
		}
		ADDQ(Imm(uint64(v.lanes*4)), dst)
	})
	VZEROUPPER()
	RET()
}

// broadcast loads a float32 argument into all lanes.
func (v isa) broadcast(param string) vector {
	r := v.vec()
	a, err := Param(param).Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(a.Addr, r)
	return r
}

// exp keeps 16 partial sums, element i in sum i%16: one register of AVX-512, two of AVX2, whose loop takes 16 a step.
func (v isa) exp() {
	TEXT("exp"+v.suffix, NOSPLIT, "func(dst, x *float32, n int, shift float32, sums *[16]float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("exp%s writes dst = e^(x-shift) and adds dst[i] to sums[i%%16], over n elements, a multiple of 16.", v.suffix))
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	sums := Load(Param("sums"), GP64())
	shift := v.broadcast("shift")
	regs := 16 / v.lanes
	acc := make([]vector, regs)
	for i := range acc {
		acc[i] = v.load(Mem{Base: sums, Disp: i * v.lanes * 4})
	}
	loop("step", n, 16, func() {
		for i := range acc {
			e := v.expOf(v.sub(v.load(Mem{Base: x, Disp: i * v.lanes * 4}), shift))
			VMOVUPS(e, Mem{Base: dst, Disp: i * v.lanes * 4})
			VADDPS(e, acc[i], acc[i])
		}
		ADDQ(Imm(64), x)
		ADDQ(Imm(64), dst)
	})
	for i := range acc {
		VMOVUPS(acc[i], Mem{Base: sums, Disp: i * v.lanes * 4})
	}
	VZEROUPPER()
	RET()
}

// arithmetic writes the kernels that round once an operation, as plain Go does.
func (v isa) arithmetic() {
	v.rowKernel("add", "writes dst = x + y", []string{"x", "y"}, nil, nil, func(in []vector) vector { return v.add(in[0], in[1]) })
	v.rowKernel("mul", "writes dst = x * y", []string{"x", "y"}, nil, nil, func(in []vector) vector { return v.mul(in[0], in[1]) })
	var factor, shift vector
	v.rowKernel("scale", "writes dst = factor*x", []string{"x"}, []string{"factor"}, func() {
		factor = v.broadcast("factor")
	}, func(in []vector) vector { return v.mul(in[0], factor) })
	v.rowKernel("mulLess", "writes dst = x*(y-shift)", []string{"x", "y"}, []string{"shift"}, func() {
		shift = v.broadcast("shift")
	}, func(in []vector) vector { return v.mul(v.sub(in[1], shift), in[0]) })
}

// tanh is tanh32 between two factors: (e^2x - 1)/(e^2x + 1), with e^2x - 1 never rounded through e^2x.
func (v isa) tanh() {
	var in, out vector
	v.rowKernel("tanh", "writes dst = out*tanh(in*x)", []string{"x"}, []string{"in", "out"}, func() {
		in, out = v.broadcast("in"), v.broadcast("out")
	}, func(s []vector) vector {
		y := v.mul(s[0], in)
		y = v.atMost(v.atLeast(v.add(y, y), -20), 20)
		em1, n := v.expSplit(y)
		p := v.pow2(n)
		less := v.sub(p, number(1))
		VFMADD213PS(less, p, em1)
		return v.mul(v.div(em1, v.add(em1, number(2))), out)
	})
}

// activations writes each activation and its gradient, dst = dy*act'(x).
func (v isa) activations() {
	x, dyx := []string{"x"}, []string{"dy", "x"}
	v.rowKernel("gelu", "writes dst = x*Φ(x)", x, nil, nil, func(in []vector) vector {
		ax, q, _ := v.normalTail(in[0])
		zero := v.vec()
		clear(zero)
		r := v.binary(VMAXPS, in[0], zero)
		VFNMADD231PS(ax, q, r)
		return r
	})
	v.rowKernel("geluGrad", "writes dst = dy*d(x*Φ(x))/dx", dyx, nil, nil, func(in []vector) vector {
		_, q, e := v.normalTail(in[1])
		// Φ(x) = 1/2 + (1/2-q) with the sign of x.
		half := v.load(number(0.5))
		side := v.sub(half, q)
		sign := v.binary(VANDPS, bitsOf(1<<31), in[1])
		r := v.add(v.binary(VORPS, sign, side), half)
		VFMADD231PS(v.mul(in[1], number(invSqrt2Pi)), e, r)
		return v.mul(r, in[0])
	})
	v.rowKernel("geluTanh", "writes dst = x*sigmoid(x*(geluA+geluB*x²))", x, nil, nil, func(in []vector) vector {
		return v.mul(v.sigmoid(v.mul(v.geluInner(in[0], geluB), in[0])), in[0])
	})
	v.rowKernel("geluTanhGrad", "writes dst = dy times the derivative of geluTanh", dyx, nil, nil, func(in []vector) vector {
		inner := v.mul(v.geluInner(in[1], geluC), in[1])
		return v.mul(v.gated(v.mul(v.geluInner(in[1], geluB), in[1]), inner), in[0])
	})
	v.rowKernel("silu", "writes dst = x*sigmoid(x)", x, nil, nil, func(in []vector) vector {
		return v.mul(v.sigmoid(in[0]), in[0])
	})
	v.rowKernel("siluGrad", "writes dst = dy times the derivative of silu", dyx, nil, nil, func(in []vector) vector {
		return v.mul(v.gated(in[1], in[1]), in[0])
	})
	v.rowKernel("relu", "writes dst = max(x, 0)", x, nil, nil, func(in []vector) vector { return v.relu(in[0]) })
	v.rowKernel("reluGrad", "writes dst = dy where x > 0, else 0", dyx, nil, nil, func(in []vector) vector {
		// As integers, x > 0 where -x is negative and x is not.
		zero, mask := v.vec(), v.vec()
		clear(zero)
		VPSUBD(in[1], zero, mask)
		VANDNPS(mask, in[1], mask)
		VPSRAD(Imm(31), mask, mask)
		return v.binary(VANDPS, in[0], mask)
	})
	v.rowKernel("relu2", "writes dst = max(x, 0)²", x, nil, nil, func(in []vector) vector {
		r := v.relu(in[0])
		return v.mul(r, r)
	})
	v.rowKernel("relu2Grad", "writes dst = dy*2*max(x, 0)", dyx, nil, nil, func(in []vector) vector {
		r := v.relu(in[1])
		return v.mul(v.add(r, r), in[0])
	})
}

// relu returns max(x, 0) and keeps a NaN.
func (v isa) relu(x vector) vector {
	zero := v.vec()
	clear(zero)
	return v.binary(VMAXPS, x, zero)
}

// gated returns s + s*(1-s)*w for s = sigmoid(x), with 1-s = e^-x * s, which keeps its digits where s is near 1. e^-x is
// kept finite.
func (v isa) gated(x, w vector) vector {
	e := v.expOf(v.atMost(v.binary(VXORPS, bitsOf(1<<31), x), 88))
	s := v.div(v.load(number(1)), v.add(e, number(1)))
	return v.add(v.mul(v.mul(v.mul(e, s), s), w), s)
}

// adamw writes the AdamW update; the order of c is that of AdamWStep.factors in package cpu.
func (v isa) adamw() {
	TEXT("adamw"+v.suffix, NOSPLIT, "func(w, grad, m, s *float32, n int, c *[9]float32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("adamw%s updates n parameters, a multiple of %d; s is the second moment.", v.suffix, v.lanes))
	w, g := Load(Param("w"), GP64()), Load(Param("grad"), GP64())
	m, s := Load(Param("m"), GP64()), Load(Param("s"), GP64())
	n, c := Load(Param("n"), GP64()), Load(Param("c"), GP64())
	factor := func(i int) vector {
		r := v.vec()
		VBROADCASTSS(Mem{Base: c, Disp: 4 * i}, r)
		return r
	}
	decay, gradScale := factor(0), factor(1)
	beta1, rest1, beta2, rest2 := factor(2), factor(3), factor(4), factor(5)
	rootScale, eps, rate := factor(6), factor(7), factor(8)
	loop("step", n, v.lanes, func() {
		gv := v.mul(gradScale, Mem{Base: g})
		mv := v.mul(rest1, gv)
		VFMADD231PS(Mem{Base: m}, beta1, mv)
		VMOVUPS(mv, Mem{Base: m})
		sv := v.mul(v.mul(gv, gv), rest2)
		VFMADD231PS(Mem{Base: s}, beta2, sv)
		VMOVUPS(sv, Mem{Base: s})
		root := v.vec()
		VSQRTPS(sv, root)
		VFMADD213PS(eps, rootScale, root)
		wv := v.mul(decay, Mem{Base: w})
		VFNMADD231PS(v.div(mv, root), rate, wv)
		VMOVUPS(wv, Mem{Base: w})
		for _, p := range []reg.Register{w, g, m, s} {
			ADDQ(Imm(uint64(v.lanes*4)), p)
		}
	})
	VZEROUPPER()
	RET()
}

// max writes the largest elements.
func (v isa) max() {
	TEXT("max"+v.suffix, NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	Doc(fmt.Sprintf("max%s returns the largest of n elements, a multiple of 16 above 0. A NaN may be lost.", v.suffix))
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	acc := make([]vector, 16/v.lanes)
	for i := range acc {
		acc[i] = v.load(Mem{Base: x, Disp: i * v.lanes * 4})
	}
	loop("step", n, 16, func() {
		for i := range acc {
			VMAXPS(Mem{Base: x, Disp: i * v.lanes * 4}, acc[i], acc[i])
		}
		ADDQ(Imm(64), x)
	})
	for i := 1; i < len(acc); i++ {
		VMAXPS(acc[i], acc[0], acc[0])
	}
	Store(v.fold(acc[0], VMAXPS, VMAXSS).(reg.VecVirtual).AsX(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// fetchRows writes the request for rows that lie apart, which the processor does not see coming.
func fetchRows() {
	TEXT("fetchRows", NOSPLIT, "func(x *float32, rows, ld, bytes int)")
	Pragma("noescape")
	Doc("fetchRows asks for so many bytes of each row of x, ld bytes apart, to be brought into the second-level cache.")
	x, rows := Load(Param("x"), GP64()), Load(Param("rows"), GP64())
	ld, bytes := Load(Param("ld"), GP64()), Load(Param("bytes"), GP64())
	loop("row", rows, 1, func() {
		at, left := GP64(), GP64()
		MOVQ(x, at)
		MOVQ(bytes, left)
		loop("line", left, 1, func() {
			PREFETCHT1(Mem{Base: at})
			ADDQ(Imm(64), at)
			SUBQ(Imm(63), left)
		})
		ADDQ(ld, x)
	})
	RET()
}

// columnSums writes the addition of a matrix's rows.
func (v isa) columnSums() {
	const regs, ahead = 8, 4 // ahead: rows that are asked for before they are due
	TEXT("columnSums"+v.suffix, NOSPLIT, "func(sum, x *float32, rows, ld int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("columnSums%s adds rows of x, ld bytes apart, to %d sums, row by row.", v.suffix, regs*v.lanes))
	sum, x, rows, ld := Load(Param("sum"), GP64()), Load(Param("x"), GP64()), Load(Param("rows"), GP64()), Load(Param("ld"), GP64())
	var acc [regs]vector
	for i := range acc {
		acc[i] = v.load(Mem{Base: sum, Disp: i * v.lanes * 4})
	}
	far := GP64()
	LEAQ(Mem{Base: x, Index: ld, Scale: ahead}, far)
	loop("row", rows, 1, func() {
		for at := 0; at < regs*v.lanes*4; at += 64 {
			PREFETCHT0(Mem{Base: far, Disp: at})
		}
		for i := range acc {
			VADDPS(Mem{Base: x, Disp: i * v.lanes * 4}, acc[i], acc[i])
		}
		ADDQ(ld, x)
		ADDQ(ld, far)
	})
	for i := range acc {
		VMOVUPS(acc[i], Mem{Base: sum, Disp: i * v.lanes * 4})
	}
	VZEROUPPER()
	RET()
}

// squares writes the sum of squared deviations in float64: 16 partial sums, element i in sum i%16.
func (v isa) squares() {
	TEXT("squares"+v.suffix, NOSPLIT, "func(x *float32, n int, mean float64, sums *[16]float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("squares%s adds (x[i]-mean)² to sums[i%%16] over n elements, a multiple of 16.", v.suffix))
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	mean := v.vec()
	a, err := Param("mean").Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSD(a.Addr, mean)
	v.doubleSums(n, func(at int) vector {
		d := v.doubles(Mem{Base: x, Disp: at})
		VSUBPD(mean, d, d)
		return v.binary(VMULPD, d, d)
	}, x)
}

// dot64 writes the dot product in float64: 16 partial sums, element i in sum i%16.
func (v isa) dot64() {
	TEXT("dot64"+v.suffix, NOSPLIT, "func(x, y *float32, n int, sums *[16]float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("dot64%s adds x[i]*y[i] to sums[i%%16] over n elements, a multiple of 16.", v.suffix))
	x, y, n := Load(Param("x"), GP64()), Load(Param("y"), GP64()), Load(Param("n"), GP64())
	v.doubleSums(n, func(at int) vector {
		return v.binary(VMULPD, v.doubles(Mem{Base: x, Disp: at}), v.doubles(Mem{Base: y, Disp: at}))
	}, x, y)
}

// doubles loads half a register of floats as float64.
func (v isa) doubles(m Mem) vector { d := v.vec(); VCVTPS2PD(m, d); return d }

// doubleSums adds term, given the place of an element in bytes, to the argument sums, in steps of 16 elements.
func (v isa) doubleSums(n reg.Register, term func(at int) vector, sources ...reg.Register) {
	sums := Load(Param("sums"), GP64())
	acc := v.loadDoubles(sums)
	loop("step", n, 16, func() {
		for i := range acc {
			VADDPD(term(i*v.lanes/2*4), acc[i], acc[i])
		}
		for _, s := range sources {
			ADDQ(Imm(64), s)
		}
	})
	v.storeDoubles(acc, sums)
	VZEROUPPER()
	RET()
}

// loadDoubles loads 16 float64 sums, storeDoubles stores them.
func (v isa) loadDoubles(sums reg.Register) []vector {
	acc := make([]vector, 32/v.lanes)
	for i := range acc {
		acc[i] = v.load(Mem{Base: sums, Disp: i * v.lanes / 2 * 8})
	}
	return acc
}

func (v isa) storeDoubles(acc []vector, sums reg.Register) {
	for i, x := range acc {
		VMOVUPS(x, Mem{Base: sums, Disp: i * v.lanes / 2 * 8})
	}
}
