package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The instructions of AMX, of which Go's assembler knows none, are written as bytes (Intel, "Instruction Set Extensions Programming
// Reference"). A tile register has 16 rows of 64 bytes. Memory is addressed as base + stride*row.

const (
	tileRows  = 16
	tilePairs = 16 // pairs in bf16 in a row of a tile
	tileBytes = 64 // of a row
)

// vex0F38 emits an instruction of one, two or three tile registers or a memory operand: its prefix (0 none, 1 66, 2 F3, 3 F2), the register
// that is not in the last byte, and the bytes from the opcode on. index and base are the general registers that address memory; nil: none.
func vex0F38(text string, prefix, vvvv byte, index, base reg.Register, code ...byte) {
	Comment(text)
	x, b := byte(1), byte(1) // inverted
	inputs := []Op{}
	if index != nil {
		x = 1 - registerNumber(index)>>3
		inputs = append(inputs, index)
	}
	if base != nil {
		b = 1 - registerNumber(base)>>3
		inputs = append(inputs, base)
	}
	bytes := append([]byte{0xc4, 1<<7 | x<<6 | b<<5 | 2, (15-vvvv)<<3 | prefix}, code...)
	for i, v := range bytes {
		in := &ir.Instruction{Opcode: "BYTE", Operands: []Op{U8(v)}}
		if i == len(bytes)-1 {
			in.Inputs = inputs
		}
		Instruction(in)
	}
}

// registerNumber is that of a general register in an instruction.
func registerNumber(r reg.Register) byte {
	for i, g := range general {
		if g == r {
			return byte(i)
		}
	}
	panic("no such register")
}

var general = []reg.Register{reg.RAX, reg.RCX, reg.RDX, reg.RBX, reg.RSP, reg.RBP, reg.RSI, reg.RDI, reg.R8, reg.R9, reg.R10, reg.R11, reg.R12, reg.R13, reg.R14, reg.R15}

// sib is the last bytes of an instruction whose operand is base + index + disp.
func sib(tile int, base, index reg.Register, disp int) []byte {
	return []byte{0x80 | byte(tile)<<3 | 4, (registerNumber(index)&7)<<3 | registerNumber(base)&7, byte(disp), byte(disp >> 8), byte(disp >> 16), byte(disp >> 24)}
}

// configureTiles makes all tile registers as large as they get. at is clobbered.
func configureTiles(at reg.Register) {
	if tileShapesTable == nil {
		table := GLOBL("tileShapes", RODATA|NOPTR)
		const columns, rows = tileBytes * 0x0001000100010001, tileRows * 0x0101010101010101 // of four and of eight registers
		for i, v := range []uint64{1, 0, columns, columns, 0, 0, rows, 0} {                 // the first is the palette
			DATA(8*i, U64(v))
		}
		tileShapesTable = &table
	}
	LEAQ(*tileShapesTable, at)
	vex0F38("LDTILECFG (AT)", 0, 0, nil, at, 0x49, registerNumber(at)&7)
}

var tileShapesTable *Mem

func releaseTiles() { vex0F38("TILERELEASE", 0, 0, nil, nil, 0x49, 0xc0) }

func zeroTile(t int) {
	vex0F38(fmt.Sprintf("TILEZERO TMM%d", t), 3, 0, nil, nil, 0x49, 0xc0|byte(t)<<3)
}

// loadTile loads a tile; once: its memory is not kept close for another load.
func loadTile(t int, base, stride reg.Register, disp int, once bool) {
	name, prefix := "TILELOADD", byte(3)
	if once {
		name, prefix = "TILELOADDT1", 1
	}
	vex0F38(fmt.Sprintf("%s %d(%s)(%s*1), TMM%d", name, disp, base.Asm(), stride.Asm(), t), prefix, 0, stride, base, append([]byte{0x4b}, sib(t, base, stride, disp)...)...)
}

func storeTile(t int, base, stride reg.Register, disp int) {
	vex0F38(fmt.Sprintf("TILESTORED TMM%d, %d(%s)(%s*1)", t, disp, base.Asm(), stride.Asm()), 2, 0, stride, base, append([]byte{0x4b}, sib(t, base, stride, disp)...)...)
}

// multiplyTiles adds the product of pairs in bf16 of tiles a and b to tile c.
func multiplyTiles(c, a, b int) {
	vex0F38(fmt.Sprintf("TDPBF16PS TMM%d, TMM%d, TMM%d", b, a, c), 2, byte(b), nil, nil, 0x5c, 0xc0|byte(c)<<3|byte(a))
}

// columnAMX writes the kernel for full tiles below one another: steps are taken 16 at once, and panels of A have in each 16 steps row after
// row. The tiles' panel of B stays in the first-level cache, past which A streams; C's next tile, and of the panel of B after this one a part with
// each tile, are fetched meanwhile, or a tile would wait for them as long as it is computed.
func columnAMX() {
	TEXT("columnAMX", NOSPLIT, "func(n, k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc("columnAMX computes n tiles of a product below one another, 32 × 32 each, from pairs in bf16, a multiple of 16 of them; ldb and ldc count bytes.")
	n := reg.RBX
	Load(Param("n"), n)
	t := loadTiles(2)
	nextB, nextC := reg.R13, reg.RAX
	MOVQ(t.k, nextB)
	SHLQ(Imm(7), nextB)
	ADDQ(t.b, nextB)
	loop("tile", n, 1, func() {
		Load(Param("k"), t.k)
		Load(Param("b"), t.b)
		MOVQ(t.ldc, t.second)
		SHLQ(Imm(4), t.second)
		LEAQ(Mem{Base: t.c, Index: t.second, Scale: 2}, nextC)
		ADDQ(t.c, t.second)
		t.sum(func() {
			for range 2 {
				PREFETCHT0(Mem{Base: nextC})
				PREFETCHT0(Mem{Base: nextC, Disp: 64})
				ADDQ(t.ldc, nextC)
			}
			for i := range 4 {
				PREFETCHT1(Mem{Base: nextB, Disp: i * 64})
			}
			ADDQ(U32(4*64), nextB)
		})
		MOVQ(t.ldc, nextC)
		SHLQ(Imm(5), nextC)
		ADDQ(nextC, t.c)
	})
	releaseTiles()
	RET()
}

// halfTileAMX writes the kernel for up to 16 rows.
func halfTileAMX() {
	TEXT("halfTileAMX", NOSPLIT, "func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc("halfTileAMX computes the first 16 rows of a tile as columnAMX does.")
	t := loadTiles(1)
	t.sum(func() {})
	releaseTiles()
	RET()
}

// amxTile is a tile of C on its way, in general registers; of tile registers, the first four hold it, the next two A, the last two B.
type amxTile struct {
	down                                      int // tile registers below one another
	k, a, b, ldb, stepB, c, second, ldc, wide reg.Register
}

// loadTiles loads the arguments of a kernel for tiles.
func loadTiles(down int) amxTile {
	t := amxTile{down, reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R12, reg.R8, reg.R11, reg.R9, reg.R10}
	configureTiles(t.second)
	Load(Param("k"), t.k)
	Load(Param("a"), t.a)
	Load(Param("b"), t.b)
	Load(Param("ldb"), t.ldb)
	Load(Param("c"), t.c)
	Load(Param("ldc"), t.ldc)
	MOVL(U32(tileBytes), reg.R10L)
	MOVQ(t.ldb, t.stepB)
	SHLQ(Imm(4), t.stepB)
	return t
}

// sum computes the tile and moves a behind it; also runs with every 16 steps.
func (t amxTile) sum(also func()) {
	const across = 2
	acc := func(i, j int) int { return i*across + j }
	x, y := func(i int) int { return 4 + i }, func(j int) int { return 6 + j }
	each := func(do func(i, j int, row reg.Register)) {
		for i := range t.down {
			for j := range across {
				do(i, j, []reg.Register{t.c, t.second}[i])
			}
		}
	}
	add, err := Param("add").Resolve()
	if err != nil {
		panic(err)
	}
	CMPB(add.Addr, Imm(0))
	JEQ(LabelRef("zero"))
	each(func(i, j int, row reg.Register) { loadTile(acc(i, j), row, t.ldc, j*tileBytes, false) })
	JMP(LabelRef("sum"))
	Label("zero")
	each(func(i, j int, _ reg.Register) { zeroTile(acc(i, j)) })
	Label("sum")
	loop("steps", t.k, tilePairs, func() {
		loadTile(y(0), t.b, t.ldb, 0, false)
		for i := range t.down {
			loadTile(x(i), t.a, t.wide, i*tileRows*tileBytes, true)
			multiplyTiles(acc(i, 0), x(i), y(0))
		}
		loadTile(y(1), t.b, t.ldb, tileBytes, false)
		for i := range t.down {
			multiplyTiles(acc(i, 1), x(i), y(1))
		}
		also()
		ADDQ(U32(2*tileRows*tileBytes), t.a)
		ADDQ(t.stepB, t.b)
	})
	each(func(i, j int, row reg.Register) { storeTile(acc(i, j), row, t.ldc, j*tileBytes) })
}

// convertRows writes the packing of rows that run along the sum for columnAMX: each 32 floats of a row become 16 pairs, 64 bytes.
func convertRows() {
	TEXT("convertRowsAMX", NOSPLIT, "func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)")
	Doc("convertRowsAMX rounds rows of groups*32 floats to bf16; 64 bytes of a row lie beside those of the next, those of a group dstStride bytes after the group before; ld and dstStride count bytes.")
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	ld, rows := Load(Param("ld"), GP64()), Load(Param("rows"), GP64())
	dst, stride := Load(Param("dst"), GP64()), Load(Param("dstStride"), GP64())
	const low, high, pairs = 0, 1, 2
	loop("row", rows, 1, func() {
		from, to, n := GP64(), GP64(), GP64()
		MOVQ(src, from)
		MOVQ(dst, to)
		MOVQ(groups, n)
		loop("group", n, 1, func() {
			VMOVUPS(Mem{Base: from}, zmm[low])
			VMOVUPS(Mem{Base: from, Disp: 64}, zmm[high])
			convertPairs.emit(pairs, high, low)
			VMOVUPS(zmm[pairs], Mem{Base: to})
			ADDQ(Imm(128), from)
			ADDQ(stride, to)
		})
		ADDQ(ld, src)
		ADDQ(Imm(tileBytes), dst)
	})
	VZEROUPPER()
	RET()
}

// transposeRows writes the packing of rows that run across the sum for columnAMX: 16 columns of 32 rows become 16 rows of 16 pairs.
func transposeRows() {
	TEXT("transposeRowsAMX", NOSPLIT, "func(groups int, src *float32, ld int, dst *float32, dstStride int)")
	Doc("transposeRowsAMX rounds groups*32 rows of 16 floats to bf16 and transposes them: 64 bytes of a column lie beside those of the next, those of a group dstStride bytes after the group before. ld and dstStride count bytes.")
	const first, second, order, pairs = 28, 29, 30, 31
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	stride := Load(Param("dstStride"), GP64())
	VMOVUPS(pairOrder(), zmm[order])
	loop("group", groups, 1, func() {
		in := make([]reg.VecVirtual, 16)
		for i := range in {
			VMOVUPS(Mem{Base: src}, zmm[first])
			VMOVUPS(Mem{Base: src, Index: ld, Scale: 1}, zmm[second])
			LEAQ(Mem{Base: src, Index: ld, Scale: 2}, src)
			convertPairs.emit(pairs, second, first)
			in[i] = ZMM()
			VPERMW(zmm[pairs], zmm[order], in[i])
		}
		for i, row := range transposed(in) {
			VMOVUPS(row, Mem{Base: dst, Disp: i * tileBytes})
		}
		ADDQ(stride, dst)
	})
	VZEROUPPER()
	RET()
}

// multiplyAddsAMX is multiplyAdds of tiles of pairs in bf16.
func multiplyAddsAMX() {
	const sums, a, b = 4, 4, 5
	TEXT("multiplyAddsAMX", NOSPLIT, "func(n int, x *float32)")
	Doc(fmt.Sprintf("multiplyAddsAMX does n times %d multiplications of tiles of numbers in bf16, each 16·16·32 multiply-adds, whose rows are all the 64 bytes at x.", sums))
	n, x, stride := reg.RCX, reg.RSI, reg.RDX
	Load(Param("n"), n)
	Load(Param("x"), x)
	configureTiles(stride)
	XORQ(stride, stride)
	loadTile(a, x, stride, 0, false)
	loadTile(b, x, stride, 0, false)
	for i := range sums {
		zeroTile(i)
	}
	loop("step", n, 1, func() {
		for i := range sums {
			multiplyTiles(i, a, b)
		}
	})
	for i := range sums {
		storeTile(i, x, stride, 0)
	}
	releaseTiles()
	RET()
}
