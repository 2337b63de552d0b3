package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rope rotates the pairs of one head: element i of x1 with element i of x2. sin is that of the inverse where inverse is set.
func (v isa) rope() {
	TEXT("rope"+v.suffix, NOSPLIT, "func(y1, y2, x1, x2, cos, sin *float32, n int, inverse bool)")
	Pragma("noescape")
	Doc(fmt.Sprintf("rope%s writes y1 = x1*cos - x2*sin and y2 = x2*cos + x1*sin, with -sin for sin if inverse, over n elements,", v.suffix),
		fmt.Sprintf("a multiple of %d.", v.lanes))
	y1, y2 := Load(Param("y1"), GP64()), Load(Param("y2"), GP64())
	x1, x2 := Load(Param("x1"), GP64()), Load(Param("x2"), GP64())
	cos, sin, n := Load(Param("cos"), GP64()), Load(Param("sin"), GP64()), Load(Param("n"), GP64())
	inverse, flip := Load(Param("inverse"), GP8()), GP32()
	MOVBLZX(inverse, flip)
	SHLL(Imm(31), flip)
	low, sign := XMM(), v.vec()
	VMOVD(flip, low)
	VBROADCASTSS(low, sign)
	loop("step", n, v.lanes, func() {
		a, b, c := v.load(Mem{Base: x1}), v.load(Mem{Base: x2}), v.load(Mem{Base: cos})
		s := v.xor(v.load(Mem{Base: sin}), sign)
		first, second := v.sub(v.mul(a, c), v.mul(b, s)), v.add(v.mul(b, c), v.mul(a, s))
		VMOVUPS(first, Mem{Base: y1})
		VMOVUPS(second, Mem{Base: y2})
		for _, p := range []reg.Register{y1, y2, x1, x2, cos, sin} {
			ADDQ(Imm(uint64(v.lanes*4)), p)
		}
	})
	VZEROUPPER()
	RET()
}

// normalise writes the last pass of a norm.
func (v isa) normalise() {
	var mean, rstd, offset vector
	v.rowKernel("normalise", "writes dst = (x-mean)*rstd*(offset+w)", []string{"x", "w"}, []string{"mean", "rstd", "offset"}, func() {
		mean, rstd, offset = v.broadcast("mean"), v.broadcast("rstd"), v.broadcast("offset")
	}, func(in []vector) vector {
		return v.mul(v.mul(v.sub(in[0], mean), rstd), v.add(offset, in[1]))
	})
}

// normGrad writes the two passes of a norm's gradient; backward in package cpu says what they compute.
func (v isa) normGrad() {
	TEXT("normGradSums"+v.suffix, NOSPLIT, "func(dw, dy, x, w *float32, n int, mean, rstd, offset float32, e, eh *[16]float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("normGradSums%s adds dy*h to dw, for h = (x-mean)*rstd, and dy*(offset+w) and this times h to e[i%%16] and eh[i%%16],", v.suffix),
		"over n elements, a multiple of 16.")
	dw, dy := Load(Param("dw"), GP64()), Load(Param("dy"), GP64())
	x, w := Load(Param("x"), GP64()), Load(Param("w"), GP64())
	n, e, eh := Load(Param("n"), GP64()), Load(Param("e"), GP64()), Load(Param("eh"), GP64())
	mean, rstd, offset := v.broadcast("mean"), v.broadcast("rstd"), v.broadcast("offset")
	sumE, sumEH := v.loadDoubles(e), v.loadDoubles(eh)
	loop("step", n, 16, func() {
		for at := 0; at < 16; at += v.lanes {
			d := v.load(Mem{Base: dy, Disp: at * 4})
			h := v.mul(v.sub(v.load(Mem{Base: x, Disp: at * 4}), mean), rstd)
			VMOVUPS(v.add(v.mul(d, h), Mem{Base: dw, Disp: at * 4}), Mem{Base: dw, Disp: at * 4})
			ev := v.mul(v.add(offset, Mem{Base: w, Disp: at * 4}), d)
			v.addDoubles(ev, sumE[at*2/v.lanes:])
			v.addDoubles(v.mul(ev, h), sumEH[at*2/v.lanes:])
		}
		for _, p := range []reg.Register{dw, dy, x, w} {
			ADDQ(Imm(64), p)
		}
	})
	v.storeDoubles(sumE, e)
	v.storeDoubles(sumEH, eh)
	VZEROUPPER()
	RET()

	var mean2, rstd2, offset2, meanE, meanEH vector
	v.rowKernel("normGrad", "writes dst = rstd*(dy*(offset+w) - meanE - (x-mean)*rstd*meanEH)", []string{"dy", "x", "w"},
		[]string{"mean", "rstd", "offset", "meanE", "meanEH"}, func() {
			mean2, rstd2, offset2 = v.broadcast("mean"), v.broadcast("rstd"), v.broadcast("offset")
			meanE, meanEH = v.broadcast("meanE"), v.broadcast("meanEH")
		}, func(in []vector) vector {
			h := v.mul(v.sub(in[1], mean2), rstd2)
			e := v.mul(v.add(offset2, in[2]), in[0])
			return v.mul(v.sub(v.sub(e, meanE), v.mul(h, meanEH)), rstd2)
		})
}

// addDoubles adds the elements of x to the first two registers of float64 sums.
func (v isa) addDoubles(x vector, sums []vector) {
	low, high := v.vec(), v.vec()
	if v.lanes == 16 {
		half := YMM()
		VEXTRACTF64X4(Imm(1), x, half)
		VCVTPS2PD(x.AsY(), low)
		VCVTPS2PD(half, high)
	} else {
		half := XMM()
		VEXTRACTF128(Imm(1), x, half)
		VCVTPS2PD(x.AsX(), low)
		VCVTPS2PD(half, high)
	}
	VADDPD(low, sums[0], sums[0])
	VADDPD(high, sums[1], sums[1])
}
