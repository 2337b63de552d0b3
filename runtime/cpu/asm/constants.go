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

var (
	constants = map[uint32]int{}
	bits      []uint32

	constants64 = map[uint64]int{}
	bits64      []uint64
)

// bitsOf places a constant with the given bits and returns the operand that reads it.
func bitsOf(b uint32) Mem {
	i, ok := constants[b]
	if !ok {
		i = len(bits)
		constants[b] = i
		bits = append(bits, b)
	}
	return NewDataAddr(NewStaticSymbol("constants"), i*constantBytes)
}

func number(x float64) Mem { return bitsOf(math.Float32bits(float32(x))) }

// bitsOf64 is bitsOf for 64-bit lanes.
func bitsOf64(b uint64) Mem {
	i, ok := constants64[b]
	if !ok {
		i = len(bits64)
		constants64[b] = i
		bits64 = append(bits64, b)
	}
	return NewDataAddr(NewStaticSymbol("constants64"), i*constantBytes)
}

func double(x float64) Mem { return bitsOf64(math.Float64bits(x)) }

// constantTables writes out the constants placed so far.
func constantTables() {
	GLOBL("constants", RODATA|NOPTR)
	for i, b := range bits {
		for at := 0; at < constantBytes; at += 4 {
			DATA(i*constantBytes+at, U32(b))
		}
	}
	GLOBL("constants64", RODATA|NOPTR)
	for i, b := range bits64 {
		for at := 0; at < constantBytes; at += 8 {
			DATA(i*constantBytes+at, U64(b))
		}
	}
}

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
	case "constants":
		return 4
	case "constants64":
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
