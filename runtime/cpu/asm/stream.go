package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fetchAhead is how many bytes ahead weights are fetched, into the second-level cache, where few rows of x meet them: the
// processor's own prefetching stops at the end of a page.
const fetchAhead = 4096

// stream writes the product for few rows of x that is bound by reading w: row after row of w as it lies in memory, so that
// the processor sees one stream and fetches it ahead.
func (v isa) stream(rows int) {
	TEXT(fmt.Sprintf("stream%d%s", rows, v.suffix), NOSPLIT, "func(n, k int, w *float32, ldw int, x *float32, ldx int, out *float32, ldo int)")
	Doc(fmt.Sprintf("stream%d%s computes out[r][j] = x[r]·w[j] for %d rows of x and n of w, over k, a multiple of %d; ldw, ldx and ldo count bytes.",
		rows, v.suffix, rows, v.lanes))
	load := func(p string) reg.GPVirtual { r := GP64(); Load(Param(p), r); return r }
	n, w, ldw, ldx, out, ldo := load("n"), load("w"), load("ldw"), load("ldx"), load("out"), load("ldo")
	ldx3, ldo3 := GP64(), GP64()
	LEAQ(Mem{Base: ldx, Index: ldx, Scale: 2}, ldx3)
	LEAQ(Mem{Base: ldo, Index: ldo, Scale: 2}, ldo3)
	row := func(base, ld, ld3 reg.Register, r, disp int) Mem {
		switch r {
		case 0:
			return Mem{Base: base, Disp: disp}
		case 3:
			return Mem{Base: base, Index: ld3, Scale: 1, Disp: disp}
		}
		return Mem{Base: base, Index: ld, Scale: uint8(r), Disp: disp}
	}
	phases := 4 / rows
	loop("row", n, 1, func() {
		at, xs, k := GP64(), load("x"), load("k")
		MOVQ(w, at)
		acc := make([][]vector, rows)
		for r := range acc {
			for range phases {
				s := v.vec()
				clear(s)
				acc[r] = append(acc[r], s)
			}
		}
		step := func(phase, disp int) {
			wv := v.load(Mem{Base: at, Disp: disp})
			for r := range rows {
				VFMADD231PS(row(xs, ldx, ldx3, r, disp), wv, acc[r][phase])
			}
		}
		const lines = 4 // of the cache, a turn
		turn := lines * 64
		loop("turn", k, turn/4, func() {
			for i := range lines {
				PREFETCHT1(Mem{Base: at, Disp: fetchAhead + 64*i})
			}
			for i := range turn / 4 / v.lanes {
				step(i%phases, i*v.lanes*4)
			}
			ADDQ(U32(uint32(turn)), at)
			ADDQ(U32(uint32(turn)), xs)
		})
		loop("rest", k, v.lanes, func() {
			step(0, 0)
			ADDQ(Imm(uint64(v.lanes*4)), at)
			ADDQ(Imm(uint64(v.lanes*4)), xs)
		})
		for r := range rows {
			for p := phases / 2; p > 0; p /= 2 {
				for i := range p {
					VADDPS(acc[r][i+p], acc[r][i], acc[r][i])
				}
			}
			VMOVSS(v.sum(acc[r][0]), row(out, ldo, ldo3, r, 0))
		}
		ADDQ(ldw, w)
		ADDQ(Imm(4), out)
	})
	VZEROUPPER()
	RET()
}
