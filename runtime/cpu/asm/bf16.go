package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The instructions of AVX512-BF16, which neither avo nor Go's assembler knows, are written as bytes. Their registers are
// numbered from 0: the functions that use them name their registers themselves.

// An evex is an instruction on three 512-bit registers: its prefix and opcode after the escape 0F 38.
type evex struct {
	name           string
	prefix, opcode byte
}

const (
	prefixF3 = 2
	prefixF2 = 3
)

var (
	dotPairs     = evex{"VDPBF16PS", prefixF3, 0x52}      // dst += the product of each pair of x with the pair of y, summed
	convertPairs = evex{"VCVTNE2PS2BF16", prefixF2, 0x72} // dst = x in 16 bits above y in 16 bits
)

// zmm are the registers by number.
var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

// emit writes the instruction for dst, x and y (Intel's order).
func (e evex) emit(dst, x, y int) {
	not := func(n, bit, at int) byte { return byte(1-n>>bit&1) << at }
	p0 := not(dst, 3, 7) | not(y, 4, 6) | not(y, 3, 5) | not(dst, 4, 4) | 2
	p1 := byte(15-x&15)<<3 | 1<<2 | e.prefix
	p2 := byte(2<<5) | not(x, 4, 3)
	modrm := byte(3<<6 | dst&7<<3 | y&7)
	inputs := []reg.Register{zmm[x], zmm[y]}
	Comment(fmt.Sprintf("%s Z%d, Z%d, Z%d", e.name, y, x, dst))
	if e == dotPairs {
		inputs = append(inputs, zmm[dst])
	}
	Instruction(&ir.Instruction{Opcode: "LONG", Operands: []Op{U32(uint32(0x62) | uint32(p0)<<8 | uint32(p1)<<16 | uint32(p2)<<24)},
		Inputs: nil, Outputs: nil})
	Instruction(&ir.Instruction{Opcode: "WORD", Operands: []Op{U16(uint16(e.opcode) | uint16(modrm)<<8)},
		Inputs: operands(inputs), Outputs: operands([]reg.Register{zmm[dst]})})
}

func operands(rs []reg.Register) (ops []Op) {
	for _, r := range rs {
		ops = append(ops, r)
	}
	return ops
}

// tileBF16 is tile for factors in bf16: a step of k is a pair of steps of the sum, 32 bits for each element.
func tileBF16(rows int) {
	v := avx512
	TEXT(fmt.Sprintf("tileBF16%dx%d", rows, v.nr), NOSPLIT, "func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("tileBF16%dx%d computes %d rows of a product tile from pairs in bf16; ldb and ldc count bytes.", rows, v.nr, rows))
	k, a, b := Load(Param("k"), GP64()), Load(Param("a"), GP64()), Load(Param("b"), GP64())
	ldb, c, ldc := Load(Param("ldb"), GP64()), Load(Param("c"), GP64()), Load(Param("ldc"), GP64())
	add := Load(Param("add"), GP8())

	const cols = 2
	acc := func(i, j int) int { return i*cols + j }
	const row, pair = 28, 30 // 28 and 29 hold a step of b, 30 and 31 elements of a
	for i := range rows * cols {
		VPXORD(zmm[i], zmm[i], zmm[i])
	}
	fetch := v.fetching(rows, b, ldb, c, ldc)
	step := func(offset int) {
		for j := range cols {
			VMOVUPS(Mem{Base: b, Disp: j * v.lanes * 4}, zmm[row+j])
		}
		fetch.step()
		for i := range rows {
			VBROADCASTSS(Mem{Base: a, Disp: (offset*v.mr + i) * 4}, zmm[pair+i%2])
			for j := range cols {
				dotPairs.emit(acc(i, j), pair+i%2, row+j)
			}
		}
		ADDQ(ldb, b)
	}
	const unroll = 4
	loop("four", k, unroll, func() {
		PREFETCHT0(Mem{Base: a, Disp: 512 + 64})
		PREFETCHT0(Mem{Base: a, Disp: 512 + 128})
		PREFETCHT0(Mem{Base: a, Disp: 512 + 192})
		fetch.row()
		for u := range unroll {
			step(u)
		}
		ADDQ(Imm(uint64(unroll*v.mr*4)), a)
	})
	loop("one", k, 1, func() {
		step(0)
		ADDQ(Imm(uint64(v.mr*4)), a)
	})

	TESTB(add, add)
	JZ(LabelRef("store"))
	at := GP64()
	MOVQ(c, at)
	for i := range rows {
		for j := range cols {
			VADDPS(Mem{Base: at, Disp: j * v.lanes * 4}, zmm[acc(i, j)], zmm[acc(i, j)])
		}
		ADDQ(ldc, at)
	}
	Label("store")
	for i := range rows {
		for j := range cols {
			VMOVUPS(zmm[acc(i, j)], Mem{Base: c, Disp: j * v.lanes * 4})
		}
		ADDQ(ldc, c)
	}
	VZEROUPPER()
	RET()
}

// transposeBF16 is transpose16 that packs pairs in bf16: groups blocks of 32 steps of the sum, 16 of pairs.
func transposeBF16(name string, rows int) {
	TEXT(name+"BF16", NOSPLIT, "func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)")
	Doc(fmt.Sprintf("%sBF16 rounds up to %d rows by groups*32 columns of src to bf16 and transposes them, in pairs, into dst, the last row standing in for those that are not there; ld and dstStride count bytes.", name, rows))
	const first, second, pairs = 29, 30, 31
	transposing(rows, 128, func(at reg.Register) reg.VecVirtual {
		VMOVUPS(Mem{Base: at}, zmm[first])
		VMOVUPS(Mem{Base: at, Disp: 64}, zmm[second])
		convertPairs.emit(pairs, second, first)
		in := ZMM()
		VMOVUPS(zmm[pairs], in)
		return in
	})
}

// copyPanelBF16 is copyPanel that packs pairs in bf16: k pairs of rows of src.
func copyPanelBF16(name string, width int) {
	v := avx512
	TEXT(name+"BF16", NOSPLIT, "func(k int, src *float32, ld int, dst *float32)")
	Doc(fmt.Sprintf("%sBF16 rounds %d floats of two rows to bf16 and stores them as pairs, for k pairs of rows, into dst; ld counts bytes.", name, width))
	k, src := Load(Param("k"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	const low, high, pairs, order = 0, 1, 2, 3
	VMOVUPS(pairOrder(), zmm[order])
	rest := width % v.lanes
	mask := K()
	if rest != 0 {
		m := GP32()
		MOVL(U32(1<<rest-1), m)
		KMOVW(m, mask)
	}
	loop("pair", k, 1, func() {
		for at := 0; at < width; at += v.lanes {
			lowRow, highRow := Mem{Base: src, Disp: at * 4}, Mem{Base: src, Index: ld, Scale: 1, Disp: at * 4}
			to := Mem{Base: dst, Disp: at * 4}
			whole := at+v.lanes <= width
			if whole {
				VMOVUPS(lowRow, zmm[low])
				VMOVUPS(highRow, zmm[high])
			} else {
				VMOVUPS_Z(lowRow, mask, zmm[low])
				VMOVUPS_Z(highRow, mask, zmm[high])
			}
			convertPairs.emit(pairs, high, low)
			VPERMW(zmm[pairs], zmm[order], zmm[pairs])
			if whole {
				VMOVUPS(zmm[pairs], to)
			} else {
				VMOVUPS(zmm[pairs], mask, to)
			}
		}
		LEAQ(Mem{Base: src, Index: ld, Scale: 2}, src)
		ADDQ(Imm(uint64(width*4)), dst)
	})
	VZEROUPPER()
	RET()
}

// pairOrder is the table by which VPERMW interleaves the halves of a register: 0, 16, 1, 17, …
func pairOrder() Mem {
	if pairOrderTable == nil {
		table := GLOBL("pairOrder", RODATA|NOPTR)
		for i := range 16 {
			DATA(i*4, U32(uint32(i)|uint32(i+16)<<16))
		}
		pairOrderTable = &table
	}
	return *pairOrderTable
}

var pairOrderTable *Mem

// roundBF16 writes the rounding of floats to bf16, nearest and ties to even, kept as floats. Subnormal numbers become 0, as in the
// instructions that multiply bf16.
func (v isa) roundBF16() {
	TEXT("roundBF16"+v.suffix, NOSPLIT, "func(x *float32, n int)")
	Doc(fmt.Sprintf("roundBF16%s rounds n floats, a multiple of 16, to bf16.", v.suffix))
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	loop("step", n, v.lanes, func() {
		y := v.load(Mem{Base: x})
		odd := v.vec()
		VPSRLD(Imm(16), y, odd)
		odd = v.and(odd, bitsOf(1))
		rounded := v.and(v.binary(VPADDD, bitsOf(0x7fff), v.binary(VPADDD, odd, y)), bitsOf(0xffff0000))
		size := v.and(y, bitsOf(0x7fffffff))
		const notLess, unordered = 5, 3
		if v.lanes == 16 {
			normal, nan := K(), K()
			VCMPPS_BCST(Imm(notLess), bitsOf(0x00800000), size, normal)
			VCMPPS(Imm(unordered), y, y, nan)
			VMOVUPS_Z(rounded, normal, rounded)
			VMOVUPS(y, nan, rounded)
		} else {
			normal, nan := v.vec(), v.vec()
			VCMPPS(Imm(notLess), bitsOf(0x00800000), size, normal)
			VCMPPS(Imm(unordered), y, y, nan)
			rounded = v.and(rounded, normal)
			VBLENDVPS(nan, y, rounded, rounded)
		}
		VMOVUPS(rounded, Mem{Base: x})
		ADDQ(Imm(uint64(v.lanes*4)), x)
	})
	VZEROUPPER()
	RET()
}

// and is the bitwise and.
func (v isa) and(y vector, x Op) vector {
	if v.lanes == 16 {
		return v.binary(VPANDD, x, y)
	}
	r := v.vec()
	VPAND(x, y, r)
	return r
}
