package main

import (
	"fmt"
	"math"
	"reflect"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// Constants stand in a table, one after the other. Registers of 256 bits read a constant repeated over 32 bytes, which is how far the linker
// aligns a table; those of 512 bits read one number and spread it over their lanes, for every other read of 64 bytes would touch
// two lines of the cache.

const constantBytes = 32

// A table holds the constants placed so far, each once.
type table[B uint32 | uint64] struct {
	name string
	at   map[B]int
	bits []B
}

var (
	constants   = &table[uint32]{name: "constants", at: map[uint32]int{}}
	constants64 = &table[uint64]{name: "constants64", at: map[uint64]int{}}
)

// place returns the operand that reads a constant with the given bits.
func (t *table[B]) place(b B) Mem {
	i, ok := t.at[b]
	if !ok {
		i = len(t.bits)
		t.at[b] = i
		t.bits = append(t.bits, b)
	}
	return NewDataAddr(NewStaticSymbol(t.name), i*constantBytes)
}

// write writes the table out, its constants by data.
func (t *table[B]) write(size int, data func(B) Constant) {
	GLOBL(t.name, RODATA|NOPTR)
	for i, b := range t.bits {
		for at := 0; at < constantBytes; at += size {
			DATA(i*constantBytes+at, data(b))
		}
	}
}

// constantTables writes out both.
func constantTables() {
	constants.write(4, func(b uint32) Constant { return U32(b) })
	constants64.write(8, func(b uint64) Constant { return U64(b) })
}

func bitsOf(b uint32) Mem   { return constants.place(b) }
func bitsOf64(b uint64) Mem { return constants64.place(b) }
func number(x float64) Mem  { return bitsOf(math.Float32bits(float32(x))) }
func double(x float64) Mem  { return bitsOf64(math.Float64bits(x)) }

// spreads has the form of an instruction that reads a number of so many bytes and spreads it.
var spreads = func() map[uintptr]spread {
	forms := map[uintptr]spread{}
	for _, f := range []struct {
		whole func(...Op)
		spread
	}{
		{VADDPS, spread{VADDPS_BCST, 4}}, {VSUBPS, spread{VSUBPS_BCST, 4}}, {VMULPS, spread{VMULPS_BCST, 4}},
		{VANDPS, spread{VANDPS_BCST, 4}}, {VXORPS, spread{VXORPS_BCST, 4}}, {VPANDD, spread{VPANDD_BCST, 4}}, {VPADDD, spread{VPADDD_BCST, 4}},
		{VFMADD213PS, spread{VFMADD213PS_BCST, 4}}, {VFMADD231PS, spread{VFMADD231PS_BCST, 4}}, {VFNMADD231PS, spread{VFNMADD231PS_BCST, 4}},
		{VADDPD, spread{VADDPD_BCST, 8}}, {VSUBPD, spread{VSUBPD_BCST, 8}}, {VMULPD, spread{VMULPD_BCST, 8}},
		{VANDPD, spread{VANDPD_BCST, 8}}, {VORPD, spread{VORPD_BCST, 8}}, {VPADDQ, spread{VPADDQ_BCST, 8}}, {VPMULUDQ, spread{VPMULUDQ_BCST, 8}},
		{VFMADD213PD, spread{VFMADD213PD_BCST, 8}}, {VFMADD231PD, spread{VFMADD231PD_BCST, 8}}, {VFNMADD231PD, spread{VFNMADD231PD_BCST, 8}},
	} {
		forms[reflect.ValueOf(f.whole).Pointer()] = f.spread
	}
	return forms
}()

type spread struct {
	form  func(...Op)
	bytes int
}

// constantSize is how many bytes of a constant x reads until it is repeated, 0 if x is none.
func constantSize(x Op) int {
	m, _ := x.(Mem)
	switch m.Symbol.Name {
	case constants.name:
		return 4
	case constants64.name:
		return 8
	}
	return 0
}

// do writes an instruction whose first operand may be a constant.
func (v isa) do(op func(...Op), x Op, more ...Op) {
	if size := constantSize(x); size > 0 && v.lanes == 16 {
		s, ok := spreads[reflect.ValueOf(op).Pointer()]
		if !ok || size > s.bytes {
			panic(fmt.Sprintf("no form of an instruction spreads a constant of %d bytes", size))
		}
		op = s.form
	}
	op(append([]Op{x}, more...)...)
}

// load returns a register that holds m.
func (v isa) load(m Op) vector {
	r := v.vec()
	switch size := constantSize(m); {
	case size == 4 && v.lanes == 16:
		VBROADCASTSS(m, r)
	case size == 8 && v.lanes == 16:
		VBROADCASTSD(m, r)
	default:
		VMOVUPS(m, r)
	}
	return r
}
