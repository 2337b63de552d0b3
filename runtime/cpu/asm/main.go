// Command asm writes the vector kernels of package cpu as Go assembly, with avo.
//
// It is a module of its own so that users of the runtime do not depend on avo. Run `go generate` in runtime/cpu.
// Each kernel is described once, for a register width; the two instruction sets differ in lanes and tile shape.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// An isa is one instruction set: its suffix in kernel names, and the shape of its tile of C.
type isa struct {
	suffix string
	lanes  int   // floats in a register
	mr, nr int   // rows and columns of the tile that stays in registers
	rows   []int // row counts that have a tile kernel
	dots   []int // row counts that have a dot kernel; four times as many sums must fit the registers
	vec    func() reg.VecVirtual
}

var (
	avx512 = isa{"AVX512", 16, 14, 32, []int{14, 8, 4, 2, 1}, []int{4, 2, 1}, ZMM}
	avx2   = isa{"AVX2", 8, 6, 16, []int{6, 4, 2, 1}, []int{2, 1}, YMM}
)

func main() {
	for _, v := range []isa{avx512, avx2} {
		for _, rows := range v.rows {
			v.tile(rows)
		}
		for _, rows := range v.dots {
			v.dot(rows)
		}
		v.copyPanel("copyA", v.mr)
		v.copyPanel("copyB", v.nr)
		v.exp()
		v.arithmetic()
		v.rope()
		v.normalise()
		v.normGrad()
		v.tanh()
		v.activations()
		v.adamw()
		v.squares()
		v.dot64()
		v.max()
		v.keep()
		v.normal()
		v.roundBF16()
		v.columnSums()
		v.multiplyAdds()
		v.read()
	}
	for _, rows := range avx512.rows {
		tileBF16(rows)
	}
	transposeBF16("transposeA", 14)
	transposeBF16("transposeB", 16)
	copyPanelBF16("copyA", 14)
	copyPanelBF16("copyB", 32)
	multiplyAddsBF16()
	multiplyAddsAMX()
	columnAMX()
	halfTileAMX()
	convertRows()
	transposeRows()
	transpose16("transposeA", 14)
	transpose16("transposeB", 16)
	copyPanels("copyPanelsA", avx2.mr)
	copyPanels("copyPanelsB", avx2.nr)
	transpose8("transposeA", 6)
	transpose8("transposeB", 8)
	fetchRows()
	narrow()
	attend()
	for _, rows := range []int{4, 2, 1} {
		avx512.stream(rows)
		avx2.stream(rows)
	}
	avx512.exp64()
	avx2.exp64()
	constantTables()
	Generate()
}

// loop runs body while counter, decremented by step each time, stays at or above step.
func loop(label string, counter reg.Register, step int, body func()) {
	JMP(LabelRef(label + "Test"))
	Label(label)
	body()
	SUBQ(Imm(uint64(step)), counter)
	Label(label + "Test")
	CMPQ(counter, Imm(uint64(step)))
	JGE(LabelRef(label))
}

// clear zeroes a vector register.
func clear(v reg.VecVirtual) { VXORPS(v, v, v) }
