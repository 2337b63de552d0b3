package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tile writes the inner kernel of the matrix product: rows × nr of C in registers, one row of B and rows broadcast
// elements of A a step. A is packed mr to a step whatever rows is.
func (v isa) tile(rows int) {
	TEXT(fmt.Sprintf("tile%dx%d%s", rows, v.nr, v.suffix), NOSPLIT, "func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("tile%dx%d%s computes %d rows of a product tile; ldb and ldc count bytes.", rows, v.nr, v.suffix, rows))
	k, a, b := Load(Param("k"), GP64()), Load(Param("a"), GP64()), Load(Param("b"), GP64())
	ldb, c, ldc := Load(Param("ldb"), GP64()), Load(Param("c"), GP64()), Load(Param("ldc"), GP64())
	add := Load(Param("add"), GP8())

	const cols = 2
	acc := make([][cols]reg.VecVirtual, rows)
	for i := range acc {
		for j := range cols {
			acc[i][j] = v.vec()
			clear(acc[i][j])
		}
	}
	fetch := v.fetching(rows, b, ldb, c, ldc)
	step := func(offset int) {
		var row [cols]reg.VecVirtual
		for j := range cols {
			row[j] = v.vec()
			VMOVUPS(Mem{Base: b, Disp: j * v.lanes * 4}, row[j])
		}
		fetch.step()
		for i := range rows {
			x := v.vec()
			VBROADCASTSS(Mem{Base: a, Disp: (offset*v.mr + i) * 4}, x)
			for j := range cols {
				VFMADD231PS(x, row[j], acc[i][j])
			}
		}
		ADDQ(ldb, b)
	}
	const unroll = 4
	loop("four", k, unroll, func() {
		if v.lanes == 16 {
			PREFETCHT0(Mem{Base: a, Disp: 512 + 64})
			PREFETCHT0(Mem{Base: a, Disp: 512 + 128})
			PREFETCHT0(Mem{Base: a, Disp: 512 + 192})
			fetch.row()
		}
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
			VADDPS(Mem{Base: at, Disp: j * v.lanes * 4}, acc[i][j], acc[i][j])
		}
		ADDQ(ldc, at)
	}
	Label("store")
	for i := range rows {
		for j := range cols {
			VMOVUPS(acc[i][j], Mem{Base: c, Disp: j * v.lanes * 4})
		}
		ADDQ(ldc, c)
	}
	VZEROUPPER()
	RET()
}

// fetching asks for what a tile is about to need: steps of B ahead of those at hand, which may lie beyond the second cache, and the rows of C,
// one at a time, for together they would take all buffers of the first cache from A and B. Tiles of 256 bits have fewer rows and take twice as
// long over a step: they ask for the rows of C at once and for nothing more.
type fetching struct {
	ahead, ldb             reg.Register // of B; nil: nothing more
	next, down, left, zero reg.Register // of C: the next row, how far the one after it is, and how many are left
	lines                  int          // of a row of either
}

// stepsAhead of B, a power of two: a few hundred cycles.
const stepsAhead = 5

func (v isa) fetching(rows int, b, ldb, c, ldc reg.Register) fetching {
	f := fetching{next: GP64(), lines: v.nr * 4 / 64}
	MOVQ(c, f.next)
	if v.lanes < 16 {
		for range rows {
			f.line(f.next)
			ADDQ(ldc, f.next)
		}
		return f
	}
	f.ahead, f.ldb, f.down, f.left, f.zero = GP64(), ldb, GP64(), GP64(), GP64()
	MOVQ(ldb, f.ahead)
	SHLQ(Imm(stepsAhead), f.ahead)
	ADDQ(b, f.ahead)
	MOVQ(ldc, f.down)
	MOVQ(U64(rows), f.left)
	XORQ(f.zero, f.zero)
	return f
}

// step asks for one more step of B.
func (f fetching) step() {
	if f.ahead == nil {
		return
	}
	f.line(f.ahead)
	ADDQ(f.ldb, f.ahead)
}

// row asks for one more row of C; after the last, for that again.
func (f fetching) row() {
	f.line(f.next)
	DECQ(f.left)
	CMOVQEQ(f.zero, f.down)
	ADDQ(f.down, f.next)
}

func (f fetching) line(at reg.Register) {
	for i := range f.lines {
		PREFETCHT0(Mem{Base: at, Disp: i * 64})
	}
}

// dot writes the kernel for few rows: out[r*4+j] = x[r]·w[j] for four rows of w, each read once and unpacked.
func (v isa) dot(rows int) {
	TEXT(fmt.Sprintf("dot%d%s", rows, v.suffix), NOSPLIT, "func(k int, w *float32, ldw int, x *float32, ldx int, out *float32)")
	Doc(fmt.Sprintf("dot%d%s computes out[r*4+j] = x[r]·w[j] for %d rows of x and four of w, over k, a multiple of %d; ldw and ldx count bytes.",
		rows, v.suffix, rows, v.lanes))
	k, w := Load(Param("k"), GP64()), Load(Param("w"), GP64())
	ldw, x := Load(Param("ldw"), GP64()), Load(Param("x"), GP64())
	ldx, out := Load(Param("ldx"), GP64()), Load(Param("out"), GP64())
	ldw3, ldx3 := GP64(), GP64()
	LEAQ(Mem{Base: ldw, Index: ldw, Scale: 2}, ldw3)
	LEAQ(Mem{Base: ldx, Index: ldx, Scale: 2}, ldx3)
	row := func(base, ld, ld3 reg.Register, i int) Mem {
		switch i {
		case 0:
			return Mem{Base: base}
		case 3:
			return Mem{Base: base, Index: ld3, Scale: 1}
		}
		return Mem{Base: base, Index: ld, Scale: uint8(i)}
	}
	acc := make([][4]reg.VecVirtual, rows)
	for r := range acc {
		for j := range 4 {
			acc[r][j] = v.vec()
			clear(acc[r][j])
		}
	}
	loop("step", k, v.lanes, func() {
		for j := range 4 {
			wv := v.vec()
			VMOVUPS(row(w, ldw, ldw3, j), wv)
			for r := range rows {
				VFMADD231PS(row(x, ldx, ldx3, r), wv, acc[r][j])
			}
		}
		ADDQ(Imm(uint64(v.lanes*4)), w)
		ADDQ(Imm(uint64(v.lanes*4)), x)
	})
	for r := range rows {
		for j := range 4 {
			VMOVSS(v.sum(acc[r][j]), Mem{Base: out, Disp: (r*4 + j) * 4})
		}
	}
	VZEROUPPER()
	RET()
}

// sum adds the lanes of x by halves and returns the register that holds the sum.
func (v isa) sum(x reg.VecVirtual) reg.Register { return v.fold(x, VADDPS, VADDSS) }

// fold combines the lanes of x by halves, by an operation on vectors and the same on one lane, and returns the register that holds
// the result.
func (v isa) fold(x reg.VecVirtual, op, last func(...Op)) reg.Register {
	y := x.AsY()
	if v.lanes == 16 {
		high := YMM()
		VEXTRACTF64X4(Imm(1), x, high)
		op(high, y, y)
	}
	low, t := x.AsX(), XMM()
	if v.lanes == 16 {
		VEXTRACTF32X4(Imm(1), y, t) // reaches all 32 registers
	} else {
		VEXTRACTF128(Imm(1), y, t)
	}
	op(t, low, low)
	VMOVHLPS(low, low, t)
	op(t, low, low)
	VMOVSHDUP(low, t)
	last(t, low, low)
	return low
}

// transpose16 writes the packing of a panel from a matrix whose rows run along k: groups blocks of 16 steps of k, each
// step's rows elements stored dstStride bytes after those of the step before.
func transpose16(name string, rows int) {
	TEXT(name+"AVX512", NOSPLIT, "func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)")
	Doc(fmt.Sprintf("%sAVX512 transposes up to %d rows by groups*16 columns of src into dst, the last row standing in for those that are not there; ld and dstStride count bytes.", name, rows))
	transposing(rows, 64, func(at reg.Register) reg.VecVirtual {
		in := ZMM()
		VMOVUPS(Mem{Base: at}, in)
		return in
	})
}

// transposing writes the body of a transposition in blocks of 16 × 16 elements of 32 bits: load reads a row of a block, and a
// block of a row is so many bytes.
func transposing(rows, bytes int, load func(at reg.Register) reg.VecVirtual) {
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	stride, count := Load(Param("dstStride"), GP64()), Load(Param("rows"), GP64())
	mask := K()
	m := GP32()
	MOVL(U32(1<<rows-1), m)
	KMOVW(m, mask)
	loop("group", groups, 1, func() {
		at := GP64()
		MOVQ(src, at)
		in := make([]reg.VecVirtual, 16)
		for i := range in {
			if i < rows {
				in[i] = load(at)
				nextRow(at, ld, count, i+1)
			} else {
				in[i] = ZMM()
				clear(in[i])
			}
		}
		out := transposed(in)
		for i := range out {
			if rows == 16 {
				VMOVUPS(out[i], Mem{Base: dst})
			} else {
				VMOVUPS(out[i], mask, Mem{Base: dst})
			}
			ADDQ(stride, dst)
		}
		ADDQ(Imm(uint64(bytes)), src)
	})
	VZEROUPPER()
	RET()
}

// transposed transposes 16 × 16 elements of 32 bits.
func transposed(in []reg.VecVirtual) (out [16]reg.VecVirtual) {
	// quads[g][j] holds in lane l column 4l+j of rows 4g to 4g+3.
	var quads [4][4]reg.VecVirtual
	for g := range quads {
		quads[g] = quad(in[4*g], in[4*g+1], in[4*g+2], in[4*g+3], ZMM)
	}
	for j := range 4 {
		even := func(x, y reg.VecVirtual) reg.VecVirtual { z := ZMM(); VSHUFF32X4(Imm(0x88), y, x, z); return z }
		odd := func(x, y reg.VecVirtual) reg.VecVirtual { z := ZMM(); VSHUFF32X4(Imm(0xDD), y, x, z); return z }
		a, b := even(quads[0][j], quads[1][j]), odd(quads[0][j], quads[1][j])
		c, d := even(quads[2][j], quads[3][j]), odd(quads[2][j], quads[3][j])
		out[j], out[4+j], out[8+j], out[12+j] = even(a, c), even(b, d), odd(a, c), odd(b, d)
	}
	return out
}

// nextRow moves at to row i, where there are more than i rows.
func nextRow(at, ld, count reg.Register, i int) {
	next := GP64()
	LEAQ(Mem{Base: at, Index: ld, Scale: 1}, next)
	CMPQ(count, Imm(uint64(i)))
	CMOVQGT(next, at)
}

// transpose8 is transpose16 for AVX2: blocks of 8 steps.
func transpose8(name string, rows int) {
	TEXT(name+"AVX2", NOSPLIT, "func(groups int, src *float32, ld, rows int, dst *float32, dstStride int)")
	Doc(fmt.Sprintf("%sAVX2 transposes up to %d rows by groups*8 columns of src into dst, the last row standing in for those that are not there; ld and dstStride count bytes.", name, rows))
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	stride, count := Load(Param("dstStride"), GP64()), Load(Param("rows"), GP64())
	ahead := GP64() // the rows that are packed next
	IMUL3Q(Imm(uint64(rows)), ld, ahead)
	ADDQ(src, ahead)
	group := func() {
		at := GP64()
		MOVQ(src, at)
		in := make([]reg.VecVirtual, 8)
		for i := range in {
			in[i] = YMM()
			if i < rows {
				VMOVUPS(Mem{Base: at}, in[i])
				nextRow(at, ld, count, i+1)
			} else {
				clear(in[i])
			}
		}
		low := quad(in[0], in[1], in[2], in[3], YMM)
		high := quad(in[4], in[5], in[6], in[7], YMM)
		for half := range 2 {
			for j := range 4 {
				out := YMM()
				VPERM2F128(Imm(uint64(0x20+0x11*half)), high[j], low[j], out)
				if rows == 8 {
					VMOVUPS(out, Mem{Base: dst})
				} else {
					VMOVUPS(out.AsX(), Mem{Base: dst})
					top := XMM()
					VEXTRACTF128(Imm(1), out, top)
					VMOVLPS(top, Mem{Base: dst, Disp: 16})
				}
				ADDQ(stride, dst)
			}
		}
		ADDQ(Imm(32), src)
	}
	loop("line", groups, 2, func() {
		at := GP64()
		MOVQ(ahead, at)
		for range rows {
			PREFETCHT0(Mem{Base: at})
			ADDQ(ld, at)
		}
		ADDQ(Imm(64), ahead)
		group()
		group()
	})
	loop("group", groups, 1, group)
	VZEROUPPER()
	RET()
}

// copyPanel writes the packing of a panel from a matrix whose rows run across it: width floats a step, ld bytes apart.
func (v isa) copyPanel(name string, width int) {
	TEXT(name+v.suffix, NOSPLIT, "func(k int, src *float32, ld int, dst *float32)")
	Doc(fmt.Sprintf("%s%s copies %d floats a step, for k steps, into dst; ld counts bytes.", name, v.suffix, width))
	k, src := Load(Param("k"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	rest := width % v.lanes
	var mask reg.Register
	if rest != 0 && v.lanes == 16 {
		mask = K()
		m := GP32()
		MOVL(U32(1<<rest-1), m)
		KMOVW(m, mask)
	}
	loop("step", k, 1, func() {
		for at := 0; at+v.lanes <= width; at += v.lanes {
			VMOVUPS(v.load(Mem{Base: src, Disp: at * 4}), Mem{Base: dst, Disp: at * 4})
		}
		if at := (width - rest) * 4; rest != 0 && v.lanes == 16 {
			x := ZMM()
			VMOVUPS_Z(Mem{Base: src, Disp: at}, mask, x)
			VMOVUPS(x, mask, Mem{Base: dst, Disp: at})
		} else if rest != 0 { // 4 and 2
			x, y := XMM(), GP64()
			VMOVUPS(Mem{Base: src, Disp: at}, x)
			MOVQ(Mem{Base: src, Disp: at + 16}, y)
			VMOVUPS(x, Mem{Base: dst, Disp: at})
			MOVQ(y, Mem{Base: dst, Disp: at + 16})
		}
		ADDQ(ld, src)
		ADDQ(Imm(uint64(width*4)), dst)
	})
	VZEROUPPER()
	RET()
}

// copyPanels is copyPanel for AVX2 and several panels side by side.
func copyPanels(name string, width int) {
	v := avx2
	TEXT(name+v.suffix, NOSPLIT, "func(panels, k int, src *float32, ld int, dst *float32, dstStride int)")
	Doc(fmt.Sprintf("%s%s copies %d floats a step, for k steps, 1 at least, into each of so many panels, dstStride bytes apart; ld and dstStride count bytes.", name, v.suffix, width))
	panels, src := Load(Param("panels"), GP64()), Load(Param("src"), GP64())
	ld, dst := Load(Param("ld"), GP64()), Load(Param("dst"), GP64())
	stride := Load(Param("dstStride"), GP64())
	loop("panel", panels, 1, func() {
		k, from, ahead, to := GP64(), GP64(), GP64(), GP64()
		Load(Param("k"), k)
		MOVQ(src, from)
		MOVQ(dst, to)
		LEAQ(Mem{Base: src, Index: ld, Scale: copyAhead}, ahead)
		next := func() {
			PREFETCHT0(Mem{Base: ahead})
			ADDQ(ld, from)
			ADDQ(ld, ahead)
			ADDQ(Imm(uint64(width*4)), to)
		}
		if width%v.lanes == 0 {
			loop("step", k, 1, func() {
				for at := 0; at < width; at += v.lanes {
					VMOVUPS(v.load(Mem{Base: from, Disp: at * 4}), Mem{Base: to, Disp: at * 4})
				}
				next()
			})
		} else { // 4 and 2: a register reaches into the next step, which is stored after it; only the last step must end where it does
			DECQ(k)
			loop("step", k, 1, func() {
				VMOVUPS(v.load(Mem{Base: from}), Mem{Base: to})
				next()
			})
			x, y := XMM(), GP64()
			VMOVUPS(Mem{Base: from}, x)
			MOVQ(Mem{Base: from, Disp: 16}, y)
			VMOVUPS(x, Mem{Base: to})
			MOVQ(y, Mem{Base: to, Disp: 16})
		}
		ADDQ(Imm(uint64(width*4)), src)
		ADDQ(stride, dst)
	})
	VZEROUPPER()
	RET()
}

// copyAhead is how many steps ahead a row is asked for.
const copyAhead = 8

// quad transposes 4×4 blocks within the 128-bit lanes of four rows.
func quad(a, b, c, d reg.VecVirtual, vec func() reg.VecVirtual) (out [4]reg.VecVirtual) {
	ab, cd, abHigh, cdHigh := vec(), vec(), vec(), vec()
	VUNPCKLPS(b, a, ab)
	VUNPCKLPS(d, c, cd)
	VUNPCKHPS(b, a, abHigh)
	VUNPCKHPS(d, c, cdHigh)
	for j := range out {
		out[j] = vec()
	}
	VUNPCKLPD(cd, ab, out[0])
	VUNPCKHPD(cd, ab, out[1])
	VUNPCKLPD(cdHigh, abHigh, out[2])
	VUNPCKHPD(cdHigh, abHigh, out[3])
	return out
}
