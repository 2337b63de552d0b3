package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// attend writes the products of attention over a cache, f32 or bf16: of queries with keys, whose columns lie side by side for
// 16 positions, and of probabilities with values, whose rows are positions.
func attend() {
	for _, bf16 := range []bool{false, true} {
		for _, rows := range []int{8, 4, 2, 1} {
			avx512.attend(bf16, rows)
		}
		for _, rows := range []int{4, 2, 1} {
			avx2.attend(bf16, rows)
		}
	}
}

func (v isa) attend(bf16 bool, rows int) {
	name := "attendF32"
	if bf16 {
		name = "attendBF16"
	}
	TEXT(fmt.Sprintf("%sx%d%s", name, rows, v.suffix), NOSPLIT, "func(blocks, steps int, w *byte, ldw, ldb int, x *float32, ldx int, out *float32, ldo int)")
	Doc(fmt.Sprintf("%sx%d%s computes, for %d rows of x, the sums over steps of x[step] times 16 numbers at w, ldw bytes from step to step, and ldb from",
		name, rows, v.suffix, rows), "block to block of 16; ldx and ldo count bytes, too.")
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
	// With few rows, several blocks are computed side by side, or consecutive steps of one go to different sums: an instruction
	// waits for the sum before it, and a row of values is read once for all its columns.
	side := max(1, v.lanes/4/rows)
	if side > 1 {
		v.attendBlocks(bf16, rows, side, 1, blocks, w, ldw, out, multiple)
	}
	v.attendBlocks(bf16, rows, 1, side, blocks, w, ldw, out, multiple)
	VZEROUPPER()
	RET()
}

// attendBlocks writes the loop over blocks, side of them at a time, in so many phases of steps.
func (v isa) attendBlocks(bf16 bool, rows, side, phases int, blocks, w, ldw, out reg.GPVirtual, multiple map[int]Mem) {
	load := func(p string) reg.GPVirtual { r := GP64(); Load(Param(p), r); return r }
	halves := narrowLanes / v.lanes
	name := func(s string) string { return fmt.Sprintf("%s%d", s, side) }
	loop(name("block"), blocks, side, func() {
		at, xs, steps, ldb := GP64(), load("x"), load("steps"), load("ldb")
		MOVQ(w, at)
		ldb3 := GP64()
		if side > 3 {
			LEAQ(Mem{Base: ldb, Index: ldb, Scale: 2}, ldb3)
		}
		place := func(b int) Mem {
			switch b {
			case 0:
				return Mem{Base: at}
			case 3:
				return Mem{Base: at, Index: ldb3, Scale: 1}
			}
			return Mem{Base: at, Index: ldb, Scale: uint8(b)}
		}
		acc := map[[4]int]vector{} // by row, block, half and phase
		each := func(visit func(k [4]int)) {
			for r := range rows {
				for b := range side {
					for h := range halves {
						for p := range phases {
							visit([4]int{r, b, h, p})
						}
					}
				}
			}
		}
		each(func(k [4]int) {
			acc[k] = v.vec()
			clear(acc[k])
		})
		step := func(phase int) {
			xv := make([]vector, rows)
			for r := range xv {
				m := multiple[r]
				m.Base, m.Disp = xs, 4*phase
				if side*halves > 1 {
					xv[r] = v.vec()
					VBROADCASTSS(m, xv[r])
				}
			}
			for b := range side {
				for h := range halves {
					m, wv := place(b), v.vec()
					if bf16 {
						m.Disp = h * v.lanes * 2
						VPMOVZXWD(m, wv)
						VPSLLD(Imm(16), wv, wv)
					} else {
						m.Disp = h * v.lanes * 4
						VMOVUPS(m, wv)
					}
					for r := range rows {
						x := xv[r]
						if x == nil {
							m := multiple[r]
							m.Base, m.Disp = xs, 4*phase
							x = v.vec()
							VBROADCASTSS(m, x)
						}
						VFMADD231PS(x, wv, acc[[4]int{r, b, h, phase}])
					}
				}
			}
			ADDQ(ldw, at)
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
		MOVQ(out, to)
		for r := range rows {
			for b := range side {
				for h := range halves {
					for n := phases / 2; n > 0; n /= 2 {
						for i := range n {
							VADDPS(acc[[4]int{r, b, h, i + n}], acc[[4]int{r, b, h, i}], acc[[4]int{r, b, h, i}])
						}
					}
					VMOVUPS(acc[[4]int{r, b, h, 0}], Mem{Base: to, Disp: b*narrowLanes*4 + h*v.lanes*4})
				}
			}
			if r+1 < rows {
				ADDQ(ldo, to)
			}
		}
		for range side {
			ADDQ(ldb, w)
		}
		ADDQ(U32(uint32(side*narrowLanes*4)), out)
	})
}
