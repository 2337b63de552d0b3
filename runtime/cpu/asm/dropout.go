package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// keep writes dropout factors from Philox4x32-10 counters, two registers' worth a step. A counter's words stand in the low
// halves of 64-bit lanes, where the multiplication reads them; what is in the high halves does not matter.
func (v isa) keep() {
	// The lanes of a register in the order that leaves its blocks in sequence after the final interleave.
	blocks := v.lanes / 2
	order := NewStaticSymbol("blocks" + v.suffix)
	GLOBL(order.Name, RODATA|NOPTR)
	for lane := range blocks {
		DATA(lane*8, U64(uint64(lane%2*blocks/2+lane/2)))
	}

	TEXT("keep"+v.suffix, NOSPLIT, "func(dst *float32, n int, c *[8]uint32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("keep%s writes n dropout factors, a multiple of 32. c holds the first block, the other three words of the", v.suffix),
		"counter, the two words of the key, the largest 24-bit number that drops, and the bits of the factor of what is kept.")
	dst, n, c := Load(Param("dst"), GP64()), Load(Param("n"), GP64()), Load(Param("c"), GP64())
	word := func(i int) vector {
		r := v.vec()
		VPBROADCASTD(Mem{Base: c, Disp: 4 * i}, r)
		return r
	}
	block := v.binary(VPADDD, NewDataAddr(order, 0), word(0))
	c1, c2, c3, key0, key1, limit, factor := word(1), word(2), word(3), word(4), word(5), word(6), word(7)
	loop("step", n, 2*v.lanes, func() {
		x := [4]vector{v.load(block), v.load(c1), v.load(c2), v.load(c3)}
		k0, k1 := v.load(key0), v.load(key1)
		for round := range 10 {
			if round > 0 {
				v.do(VPADDD, bitsOf(0x9E3779B9), k0, k0)
				v.do(VPADDD, bitsOf(0xBB67AE85), k1, k1)
			}
			p0, p1 := v.binary(VPMULUDQ, bitsOf(0xD2511F53), x[0]), v.binary(VPMULUDQ, bitsOf(0xCD9E8D57), x[2])
			x = [4]vector{v.xor(v.xor(v.high(p1), x[1]), k0), p1, v.xor(v.xor(v.high(p0), x[3]), k1), p0}
		}
		a, b := v.pair(x[0], x[1]), v.pair(x[2], x[3])
		for i, interleave := range []func(...Op){VPUNPCKLQDQ, VPUNPCKHQDQ} {
			r := v.binary(interleave, b, a)
			VPSRLD(Imm(8), r, r)
			r = v.binary(VPSUBD, r, limit) // negative where kept
			VPSRAD(Imm(31), r, r)
			VMOVUPS(v.binary(VANDPS, factor, r), Mem{Base: dst, Disp: i * v.lanes * 4})
		}
		v.do(VPADDD, bitsOf(uint32(blocks)), block, block)
		ADDQ(Imm(uint64(2*v.lanes*4)), dst)
	})
	VZEROUPPER()
	RET()
}

func (v isa) xor(x, y vector) vector { return v.binary(VXORPS, x, y) }

// high returns the high halves of 64-bit lanes as low ones.
func (v isa) high(x vector) vector {
	r := v.vec()
	VPSRLQ(Imm(32), x, r)
	return r
}

// pair joins the low halves of 64-bit lanes: low's stay low.
func (v isa) pair(low, high vector) vector {
	l, h := v.vec(), v.vec()
	VPSLLQ(Imm(32), low, l)
	VPSRLQ(Imm(32), l, l)
	VPSLLQ(Imm(32), high, h)
	return v.binary(VORPS, l, h)
}
