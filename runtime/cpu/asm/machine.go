package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// What bench cpu measures a machine with.

// chains is how many sums are under way at once: enough to hide the latency of a multiply-add on two units.
const chains = 12

// multiplyAdds writes a loop of nothing but multiply-adds of registers.
func (v isa) multiplyAdds() {
	TEXT("multiplyAdds"+v.suffix, NOSPLIT, "func(n int, x *float32)")
	Doc(fmt.Sprintf("multiplyAdds%s does n times %d multiply-adds of %d floats, of numbers that start at x.", v.suffix, chains, v.lanes))
	n, x := Load(Param("n"), GP64()), Load(Param("x"), GP64())
	a := v.load(Mem{Base: x})
	b := v.load(Mem{Base: x})
	var sums [chains]vector
	for i := range sums {
		sums[i] = v.load(Mem{Base: x})
	}
	loop("step", n, 1, func() {
		for _, s := range sums {
			VFMADD231PS(a, b, s)
		}
	})
	for i := 1; i < chains; i++ {
		VADDPS(sums[i], sums[0], sums[0])
	}
	VMOVUPS(sums[0], Mem{Base: x})
	VZEROUPPER()
	RET()
}

// multiplyAddsBF16 is multiplyAdds of pairs in bf16.
func multiplyAddsBF16() {
	TEXT("multiplyAddsBF16", NOSPLIT, "func(n int, x *float32)")
	Doc(fmt.Sprintf("multiplyAddsBF16 does n times %d multiply-adds of 32 numbers in bf16, of numbers that start at x.", chains))
	n, x := Load(Param("n"), GP64()), Load(Param("x"), GP64())
	for i := range chains + 2 {
		VMOVUPS(Mem{Base: x}, zmm[i])
	}
	loop("step", n, 1, func() {
		for i := range chains {
			dotPairs.emit(i, chains, chains+1)
		}
	})
	for i := 1; i < chains; i++ {
		VADDPS(zmm[i], zmm[0], zmm[0])
	}
	VMOVUPS(zmm[0], Mem{Base: x})
	VZEROUPPER()
	RET()
}

// read writes a loop of nothing but reads, whose sum keeps them from being idle.
func (v isa) read() {
	const floats = 64 // a step
	at := floats / v.lanes
	TEXT("read"+v.suffix, NOSPLIT, "func(x *float32, n int, sum *float32)")
	Doc(fmt.Sprintf("read%s reads n floats, a multiple of %d, and adds them up in sum, %d floats.", v.suffix, floats, v.lanes))
	x, n, sum := Load(Param("x"), GP64()), Load(Param("n"), GP64()), Load(Param("sum"), GP64())
	sums := make([]vector, at)
	for i := range sums {
		sums[i] = v.vec()
		clear(sums[i])
	}
	loop("step", n, floats, func() {
		for i, s := range sums {
			VADDPS(Mem{Base: x, Disp: i * v.lanes * 4}, s, s)
		}
		ADDQ(U32(floats*4), x)
	})
	for i := 1; i < at; i++ {
		VADDPS(sums[i], sums[0], sums[0])
	}
	VMOVUPS(sums[0], Mem{Base: sum})
	VZEROUPPER()
	RET()
}
