package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// attend writes the products of attention over a cache, f32 or bf16: of queries with keys, whose columns lie side by side for
// a block of positions, and of probabilities with values, whose rows are positions.
func attend() {
	for _, rows := range []int{8, 4, 2, 1} {
		avx512.attend(false, rows)
		avx512.attend(true, rows)
	}
	for _, rows := range []int{4, 2, 1} {
		avx2.attend(false, rows)
	}
	for _, rows := range []int{2, 1} { // of a block of bf16, there are four sums a row
		avx2.attend(true, rows)
	}
}

// attendAhead is how many bytes ahead a cache is fetched.
const attendAhead = 3072

func (v isa) attend(bf16 bool, rows int) {
	name, numbers := "attendF32", "16 numbers"
	if bf16 {
		name, numbers = "attendBF16", "32 numbers"
	}
	TEXT(fmt.Sprintf("%sx%d%s", name, rows, v.suffix), NOSPLIT, "func(blocks, steps int, w *byte, ldw int, x *float32, ldx int, out *float32, ldo int)")
	Doc(fmt.Sprintf("%sx%d%s computes, for %d rows of x, the sums over steps of x[step] times the %s of a block at w, ldw bytes from",
		name, rows, v.suffix, rows, numbers), "step to step; blocks lie side by side. ldx and ldo count bytes, too.")
	load := func(p string) reg.GPVirtual { r := GP64(); Load(Param(p), r); return r }
	blocks, w, ldw, ldx, out := load("blocks"), load("w"), load("ldw"), load("ldx"), load("out")
	multiple := map[int]Mem{} // of ldx, as an index
	for r := 1; r < rows; r++ {
		switch r {
		case 1, 2, 4:
			multiple[r] = Mem{Index: ldx, Scale: uint8(r)}
		case 6:
			multiple[r] = Mem{Index: multiple[3].Index, Scale: 2}
		default: // 3, 5, 7
			m := GP64()
			if r == 7 {
				LEAQ(Mem{Base: multiple[3].Index, Index: ldx, Scale: 4}, m)
			} else {
				LEAQ(Mem{Base: ldx, Index: ldx, Scale: uint8(r - 1)}, m)
			}
			multiple[r] = Mem{Index: m, Scale: 1}
		}
	}
	a := attendLoop{v, bf16, rows, blocks, w, ldw, out, multiple, nil}
	if bf16 {
		a.high = v.load(bitsOf(0xffff0000))
	}
	// With few rows, several blocks are computed side by side, or consecutive steps of one go to different sums: an instruction
	// waits for the sum before it, and a row of values is read once for all its columns.
	at := 1 // blocks side by side
	if v.lanes == 16 && rows <= 2 {
		at = 4 / rows
		if bf16 {
			at = 2
		}
	}
	if at > 1 {
		a.write(at, 1)
	}
	a.write(1, at)
	VZEROUPPER()
	RET()
}

// attendLoop is a kernel under construction.
type attendLoop struct {
	isa
	bf16                bool
	rows                int
	blocks, w, ldw, out reg.GPVirtual
	multiple            map[int]Mem
	high                vector // masks the upper number of a pair
}

// write writes the loop over blocks, side of them at a time, in so many phases of steps.
func (a *attendLoop) write(side, phases int) {
	v := a.isa
	load := func(p string) reg.GPVirtual { r := GP64(); Load(Param(p), r); return r }
	name := func(s string) string { return fmt.Sprintf("%s%d", s, side) }
	loads := 16 / v.lanes // of 64 bytes
	parts := loads        // sums of a block
	if a.bf16 {
		parts *= 2
	}
	loop(name("block"), a.blocks, side, func() {
		at, xs, steps := GP64(), load("x"), load("steps")
		MOVQ(a.w, at)
		acc := map[[4]int]vector{} // by row, block, part and phase
		for r := range a.rows {
			for b := range side {
				for p := range parts {
					for phase := range phases {
						s := v.vec()
						clear(s)
						acc[[4]int{r, b, p, phase}] = s
					}
				}
			}
		}
		step := func(phase int) {
			for b := range side {
				PREFETCHT0(Mem{Base: at, Disp: attendAhead + 64*b})
			}
			x := make([]vector, a.rows)
			broadcast := func(r int) vector {
				m, y := a.multiple[r], v.vec()
				m.Base, m.Disp = xs, 4*phase
				VBROADCASTSS(m, y)
				return y
			}
			if side*parts > 1 {
				for r := range x {
					x[r] = broadcast(r)
				}
			}
			for b := range side {
				for l := range loads {
					m := Mem{Base: at, Disp: 64*b + l*v.lanes*4}
					numbers := []vector{v.load(m)}
					if a.bf16 {
						low := v.vec()
						VPSLLD(Imm(16), numbers[0], low)
						if v.lanes == 16 {
							VPANDD(a.high, numbers[0], numbers[0])
						} else {
							VPAND(a.high, numbers[0], numbers[0])
						}
						numbers = []vector{low, numbers[0]}
					}
					for half, n := range numbers {
						for r := range a.rows {
							y := x[r]
							if y == nil {
								y = broadcast(r)
							}
							VFMADD231PS(y, n, acc[[4]int{r, b, half*loads + l, phase}])
						}
					}
				}
			}
			ADDQ(a.ldw, at)
		}
		if phases > 1 {
			loop(name("some"), steps, phases, func() {
				for p := range phases {
					step(p)
				}
				ADDQ(Imm(uint64(4*phases)), xs)
			})
		}
		loop(name("one"), steps, 1, func() {
			step(0)
			ADDQ(Imm(4), xs)
		})
		to, ldo := GP64(), load("ldo")
		MOVQ(a.out, to)
		for r := range a.rows {
			for b := range side {
				for p := range parts {
					for n := phases / 2; n > 0; n /= 2 {
						for i := range n {
							VADDPS(acc[[4]int{r, b, p, i + n}], acc[[4]int{r, b, p, i}], acc[[4]int{r, b, p, i}])
						}
					}
					VMOVUPS(acc[[4]int{r, b, p, 0}], Mem{Base: to, Disp: (b*parts + p) * v.lanes * 4})
				}
			}
			if r+1 < a.rows {
				ADDQ(ldo, to)
			}
		}
		ADDQ(U32(uint32(side*64)), a.w)
		ADDQ(U32(uint32(side*parts*v.lanes*4)), a.out)
	})
}
