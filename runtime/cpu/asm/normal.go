package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rounding is 2^52: a whole number below it, put into its last bits, is added to it.
const rounding = 1 << 52

// rootHalf is the bits of sqrt(1/2).
const rootHalf = 0x3fe6a09e667f3bcd

// normal writes normal numbers from Philox4x32-10 counters, one counter a 64-bit lane, as normalPair in package cpu works
// them out: with the same operations in the same order, none of them fused.
func (v isa) normal() {
	// The lanes of a register in the order that leaves its blocks in sequence after the interleave of 128-bit parts.
	blocks := v.lanes / 2
	order := NewStaticSymbol("normalBlocks" + v.suffix)
	GLOBL(order.Name, RODATA|NOPTR)
	for lane := range blocks {
		block := lane
		if blocks == 8 {
			block = lane%4*2 + lane/4
		}
		DATA(lane*8, U64(uint64(block)))
	}

	TEXT("normal"+v.suffix, NOSPLIT, "func(dst *float32, n int, c *[6]uint32, scale float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("normal%s writes n normal numbers times scale, a multiple of 32. c holds the first block, the other three words", v.suffix),
		"of the counter and the two words of the key.")
	dst, n, c := Load(Param("dst"), GP64()), Load(Param("n"), GP64()), Load(Param("c"), GP64())
	scale := v.vec()
	at, err := Param("scale").Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSD(at.Addr, scale)
	word := func(i int) vector {
		r := v.vec()
		VPBROADCASTD(Mem{Base: c, Disp: 4 * i}, r)
		return r
	}
	block := v.binary(VPADDD, NewDataAddr(order, 0), word(0))
	loop("step", n, 4*blocks, func() {
		x := [4]vector{v.load(block), word(1), word(2), word(3)}
		k0, k1 := word(4), word(5)
		for round := range 10 {
			if round > 0 {
				v.do(VPADDD, bitsOf(0x9E3779B9), k0, k0)
				v.do(VPADDD, bitsOf(0xBB67AE85), k1, k1)
			}
			p0, p1 := v.binary(VPMULUDQ, bitsOf(0xD2511F53), x[0]), v.binary(VPMULUDQ, bitsOf(0xCD9E8D57), x[2])
			x = [4]vector{v.xor(v.xor(v.high(p1), x[1]), k0), p1, v.xor(v.xor(v.high(p0), x[3]), k1), p0}
		}
		a, b := v.normalPair(x[0], x[1], scale)
		c, d := v.normalPair(x[2], x[3], scale)
		v.interleave(dst, a, b, c, d)
		v.do(VPADDD, bitsOf(uint32(blocks)), block, block)
		ADDQ(Imm(uint64(4*blocks*4)), dst)
	})
	VZEROUPPER()
	RET()
}

func (v isa) addPD(y vector, x Op) vector { return v.binary(VADDPD, x, y) } // y+x
func (v isa) subPD(y vector, x Op) vector { return v.binary(VSUBPD, x, y) } // y-x
func (v isa) mulPD(y vector, x Op) vector { return v.binary(VMULPD, x, y) }

func (v isa) shiftLeft(x vector, n uint64) vector  { r := v.vec(); VPSLLQ(Imm(n), x, r); return r }
func (v isa) shiftRight(x vector, n uint64) vector { r := v.vec(); VPSRLQ(Imm(n), x, r); return r }

// whole returns small whole numbers as doubles.
func (v isa) whole(x vector) vector {
	return v.subPD(v.binary(VORPD, bitsOf64(math.Float64bits(rounding)), x), double(rounding))
}

// series evaluates a polynomial of 11 coefficients, lowest first, at x.
func (v isa) series(c [11]float64, x vector) vector {
	q := v.load(double(c[10]))
	for i := 9; i >= 0; i-- {
		VMULPD(x, q, q)
		v.do(VADDPD, double(c[i]), q, q)
	}
	return q
}

// The coefficients of atanh(s)/s in s², and of sin(x)/x and cos(x) in x², as in package cpu.
var atanhSeries, sinSeries, cosSeries = func() (a, s, c [11]float64) {
	factorial := 1.0 // of 2i, with its sign
	for i := range a {
		a[i], s[i], c[i] = 1/float64(2*i+1), 1/(factorial*float64(2*i+1)), 1/factorial
		factorial *= -float64((2*i + 1) * (2*i + 2))
	}
	return a, s, c
}()

// normalPair turns two words in the low halves of 64-bit lanes into two floats times scale, in half a register.
func (v isa) normalPair(first, second, scale vector) (a, b reg.VecVirtual) {
	// ln x, x = 1 - first/2^32 in (0, 1], with x = m*2^e and m in [sqrt(1/2), sqrt 2)
	u := v.mulPD(v.whole(v.shiftRight(v.shiftLeft(first, 32), 40)), double(1.0/(1<<24)))
	x := v.subPD(v.load(double(1)), u)
	e := v.shiftRight(v.binary(VPADDQ, bitsOf64(1023<<52-rootHalf), x), 52) // and 1023
	m := v.binary(VPADDQ, bitsOf64(1023<<52), v.binary(VPSUBQ, v.shiftLeft(e, 52), x))
	e = v.subPD(v.binary(VORPD, bitsOf64(math.Float64bits(rounding)), e), double(rounding+1023))
	s := v.binary(VDIVPD, v.addPD(m, double(1)), v.subPD(m, double(1)))
	atanh := v.mulPD(v.series(atanhSeries, v.mulPD(s, s)), v.addPD(s, s))
	radius := v.mulPD(v.addPD(v.mulPD(e, double(math.Ln2)), atanh), double(-2))
	VSQRTPD(radius, radius)

	// sin and cos of second/2^32 turns, from those of the angle within a quarter turn
	turn := v.shiftRight(v.shiftLeft(second, 32), 40)
	angle := v.whole(v.binary(VANDPD, bitsOf64(1<<22-1), turn))
	angle = v.mulPD(v.mulPD(angle, double(1.0/(1<<22))), double(math.Pi/2))
	square := v.mulPD(angle, angle)
	sin, cos := v.mulPD(v.series(sinSeries, square), angle), v.series(cosSeries, square)
	odd := v.shiftRight(v.shiftLeft(turn, 41), 63)
	zero := v.vec()
	clear(zero)
	swap := v.binary(VANDPS, v.binary(VPSUBQ, odd, zero), v.xor(sin, cos)) // in the second and fourth quarter
	sin, cos = v.xor(sin, swap), v.xor(cos, swap)
	sin = v.xor(sin, v.binary(VANDPD, bitsOf64(1<<63), v.shiftLeft(turn, 40)))
	turn = v.binary(VPADDQ, bitsOf64(1<<22), turn)
	cos = v.xor(cos, v.binary(VANDPD, bitsOf64(1<<63), v.shiftLeft(turn, 40)))
	return v.floats(v.mulPD(v.mulPD(cos, radius), scale)), v.floats(v.mulPD(v.mulPD(sin, radius), scale))
}

// floats rounds doubles to floats, in half a register.
func (v isa) floats(x vector) reg.VecVirtual {
	if v.lanes == 16 {
		r := YMM()
		VCVTPD2PS(x, r)
		return r
	}
	r := XMM()
	VCVTPD2PSY(x, r)
	return r
}

// interleave writes the first of a, b, c and d, then the second, and so on, by 128-bit parts.
func (v isa) interleave(dst reg.Register, a, b, c, d reg.VecVirtual) {
	half, bytes := XMM, 16
	if v.lanes == 16 {
		half, bytes = YMM, 32
	}
	join := func(op func(...Op), x, y reg.VecVirtual) reg.VecVirtual {
		r := half()
		op(y, x, r)
		return r
	}
	abLow, abHigh := join(VUNPCKLPS, a, b), join(VUNPCKHPS, a, b)
	cdLow, cdHigh := join(VUNPCKLPS, c, d), join(VUNPCKHPS, c, d)
	for i, r := range []reg.VecVirtual{
		join(VUNPCKLPD, abLow, cdLow), join(VUNPCKHPD, abLow, cdLow), join(VUNPCKLPD, abHigh, cdHigh), join(VUNPCKHPD, abHigh, cdHigh),
	} {
		VMOVUPS(r, Mem{Base: dst, Disp: i * bytes})
	}
}
