package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The kernels of products whose weights have few bits. Package cpu, narrow.go, has the layout of weights and activations:
// the weights of 16 rows of w lie side by side, so that a register holds a sum for each of them.

const (
	narrowLanes = 16 // rows of w in a block
	groupSize   = 32 // weights that share a scale
)

func narrow() {
	GLOBL("unpack", RODATA|NOPTR) // undoes two rounds of packing within 128-bit lanes
	for i, n := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(n))
	}
	for _, rows := range []int{8, 4, 2, 1} {
		for _, bits := range []int{8, 4} {
			avx512.narrowInts(bits, rows)
		}
		narrowBF16(rows)
	}
	for _, rows := range []int{2, 1} {
		for _, bits := range []int{8, 4} {
			avx2.narrowInts(bits, rows)
		}
	}
	for _, rows := range []int{4, 2, 1} {
		avx2.narrowBF16(rows)
	}
	for _, v := range []isa{avx512, avx2} {
		v.widen()
		v.quantise()
		v.encode()
		v.toBF16()
	}
}

// narrowArgs are the registers of a narrow kernel; x, meta and steps are those of the block under way.
type narrowArgs struct {
	blocks, w, scales, out, ldo reg.GPVirtual
	x, meta, steps              reg.GPVirtual
}

// narrowKernel writes a kernel over blocks of 16 rows of w: start begins the sums, step adds one step, finish gives the sum
// of row r of x in the registers that cover a block.
func (v isa) narrowKernel(name, doc string, rows int, start func(a *narrowArgs), perStep, stepBytes int, step func(a *narrowArgs), finish func(r int) []vector) {
	TEXT(name+v.suffix, NOSPLIT, "func(blocks, steps int, w *byte, scales *uint16, x, meta *byte, out *float32, ldo int)")
	Doc(fmt.Sprintf("%s%s computes %s for %d rows of x and blocks of 16 rows of w, over steps, a multiple of %d; ldo counts bytes.", name, v.suffix, doc, rows, perStep))
	a := &narrowArgs{x: GP64(), meta: GP64(), steps: GP64()}
	load := func(p string) reg.GPVirtual { r := GP64(); Load(Param(p), r); return r }
	a.blocks, a.w, a.scales, a.out, a.ldo = load("blocks"), load("w"), load("scales"), load("out"), load("ldo")
	loop("block", a.blocks, 1, func() {
		Load(Param("x"), a.x)
		Load(Param("meta"), a.meta)
		Load(Param("steps"), a.steps)
		start(a)
		loop("step", a.steps, perStep, func() {
			for at := 0; rows <= 2 && at < stepBytes; at += 64 {
				PREFETCHT1(Mem{Base: a.w, Disp: fetchAhead + at})
			}
			step(a)
		})
		at := GP64()
		MOVQ(a.out, at)
		for r := range rows {
			for i, sum := range finish(r) {
				VMOVUPS(sum, Mem{Base: at, Disp: i * v.lanes * 4})
			}
			if r+1 < rows {
				ADDQ(a.ldo, at)
			}
		}
		ADDQ(U32(narrowLanes*4), a.out)
	})
	VZEROUPPER()
	RET()
}

// narrowInts writes the product of weights of 8 or 4 bits, whose codes are stored above 0 (plus 128, or 8), with activations
// of 8. A step is a group: its integer sums become floats once.
func (v isa) narrowInts(bits, rows int) {
	halves := narrowLanes / v.lanes
	sums := make([][]vector, rows) // [r][half]
	ints := make([][]vector, rows)
	for r := range sums {
		sums[r], ints[r] = make([]vector, halves), make([]vector, halves)
	}
	var ones, low, flip vector
	v.narrowKernel(fmt.Sprintf("narrowInt%dx%d", bits, rows), fmt.Sprintf("x·wᵀ of %d-bit weights and 8-bit activations", bits), rows, func(a *narrowArgs) {
		for r := range sums {
			for h := range halves {
				sums[r][h] = v.vec()
				clear(sums[r][h])
			}
		}
		if v.lanes == 8 {
			ones = v.load(bitsOf(0x00010001))
		}
		switch {
		case bits == 4:
			low = v.load(bitsOf(0x0f0f0f0f))
		case v.lanes == 8:
			flip = v.load(bitsOf(0x80808080))
		}
	}, 1, narrowLanes*groupSize*bits/8, func(a *narrowArgs) {
		for r := range ints {
			for h := range halves {
				ints[r][h] = v.vec()
				if v.lanes == 8 && bits == 8 {
					clear(ints[r][h]) // the codes get their sign below
				} else {
					VPBROADCASTD(Mem{Base: a.meta, Disp: 8*r + 4}, ints[r][h])
				}
			}
		}
		quad := func(r, q int) Mem { return Mem{Base: a.x, Disp: groupSize*r + 4*q} }
		if v.lanes == 8 {
			v.groupAVX2(bits, a, ints, ones, low, flip, quad)
		} else {
			groupVNNI(bits, a, ints, low, quad)
		}
		for h := range halves {
			scale := v.vec()
			VPMOVZXWD(Mem{Base: a.scales, Disp: h * v.lanes * 2}, scale)
			VPSLLD(Imm(16), scale, scale)
			for r := range rows {
				f, both := v.vec(), v.vec()
				VCVTDQ2PS(ints[r][h], f)
				VBROADCASTSS(Mem{Base: a.meta, Disp: 8 * r}, both)
				VMULPS(scale, both, both)
				VFMADD231PS(f, both, sums[r][h])
			}
		}
		ADDQ(U32(narrowLanes*groupSize*bits/8), a.w)
		ADDQ(U32(narrowLanes*2), a.scales)
		ADDQ(U32(groupSize*rows), a.x)
		ADDQ(U32(8*rows), a.meta)
	}, func(r int) []vector { return sums[r] })
}

// groupVNNI adds a group's products of codes to the sums, four columns an instruction.
//
// With few rows of x, two sums take turns: an instruction waits for the sum before it.
func groupVNNI(bits int, a *narrowArgs, ints [][]vector, low vector, quad func(r, q int) Mem) {
	turns := make([][2]vector, len(ints))
	for r := range ints {
		turns[r] = [2]vector{ints[r][0], ints[r][0]}
		if len(ints) <= 2 {
			turns[r][1] = ZMM()
			VPXORD(turns[r][1], turns[r][1], turns[r][1])
		}
	}
	for q := range 8 * bits / 8 {
		w := ZMM()
		VMOVDQU32(Mem{Base: a.w, Disp: 64 * q}, w)
		if bits == 8 {
			for r := range ints {
				vpdpbusd(quad(r, q), w, turns[r][q%2])
			}
			continue
		}
		first, second := ZMM(), ZMM()
		VPANDD(low, w, first)
		VPSRLW(Imm(4), w, second)
		VPANDD(low, second, second)
		for r := range ints {
			vpdpbusd(quad(r, q), first, turns[r][0])
			vpdpbusd(quad(r, q+4), second, turns[r][1])
		}
	}
	for r := range ints {
		if len(ints) <= 2 {
			VPADDD(turns[r][1], ints[r][0], ints[r][0])
		}
	}
}

// vpdpbusd adds to each lane of sum the products of the four unsigned bytes of w with the four signed bytes at m. avo has no
// name for the instruction.
func vpdpbusd(m Mem, w, sum vector) {
	Instruction(&ir.Instruction{Opcode: "VPDPBUSD", Suffixes: []string{"BCST"}, Operands: []Op{m, w, sum}, Inputs: []Op{m, w, sum}, Outputs: []Op{sum}})
}

// groupAVX2 is groupVNNI with sums of pairs in 16 bits. These cannot hold the products of unsigned 8-bit codes, so those get
// their signs back: the magnitudes are multiplied with activations of their signs.
func (v isa) groupAVX2(bits int, a *narrowArgs, ints [][]vector, ones, low, flip vector, quad func(r, q int) Mem) {
	for h := range 2 {
		var words []vector
		if bits == 4 {
			for range ints {
				words = append(words, YMM())
			}
		}
		for q := range 8 * bits / 8 {
			w := YMM()
			VMOVDQU(Mem{Base: a.w, Disp: 64*q + 32*h}, w)
			if bits == 8 {
				size := YMM()
				VPXOR(flip, w, w)
				VPABSB(w, size)
				for r := range ints {
					x := YMM()
					VPBROADCASTD(quad(r, q), x)
					VPSIGNB(w, x, x)
					VPMADDUBSW(x, size, x)
					VPMADDWD(ones, x, x)
					VPADDD(x, ints[r][h], ints[r][h])
				}
				continue
			}
			second := YMM()
			VPSRLW(Imm(4), w, second)
			VPAND(low, w, w)
			VPAND(low, second, second)
			for r := range ints {
				for i, part := range []vector{w, second} {
					x := YMM()
					VPBROADCASTD(quad(r, q+4*i), x)
					if q == 0 && i == 0 {
						VPMADDUBSW(x, part, words[r])
						continue
					}
					VPMADDUBSW(x, part, x)
					VPADDW(x, words[r], words[r])
				}
			}
		}
		for r, x := range words {
			VPMADDWD(ones, x, x)
			VPADDD(x, ints[r][h], ints[r][h])
		}
	}
}

// narrowBF16 writes the product in bfloat16 of AVX512-BF16, in registers of its own choice (see bf16.go). A step is a pair of columns; with few rows of x, consecutive steps go to different sums, for an
// instruction waits for the sum before it.
func narrowBF16(rows int) {
	phases := max(1, 4/rows)
	acc := func(r, phase int) int { return phase*rows + r }
	avx512.narrowKernel(fmt.Sprintf("narrowBF16x%d", rows), "x·wᵀ in bfloat16", rows, func(a *narrowArgs) {
		for i := range rows * phases {
			VPXORD(zmm[i], zmm[i], zmm[i])
		}
	}, 4, 4*64, func(a *narrowArgs) {
		for u := range 4 {
			w := 16 + u
			VMOVDQU32(Mem{Base: a.w, Disp: 64 * u}, zmm[w])
			for r := range rows {
				x := 20 + (u*rows+r)%8
				VPBROADCASTD(Mem{Base: a.x, Disp: 4 * (u*rows + r)}, zmm[x])
				dotPairs.emit(acc(r, u%phases), w, x)
			}
		}
		ADDQ(U32(4*64), a.w)
		ADDQ(U32(4*4*rows), a.x)
	}, func(r int) []vector {
		for p := phases / 2; p > 0; p /= 2 {
			for i := range p {
				VADDPS(zmm[acc(r, i+p)], zmm[acc(r, i)], zmm[acc(r, i)])
			}
		}
		out := ZMM()
		VMOVAPS(zmm[acc(r, 0)], out)
		return []vector{out}
	})
}

// narrowBF16 is the same product without the instruction: both columns of a pair become floats.
func (v isa) narrowBF16(rows int) {
	halves := narrowLanes / v.lanes
	sums := make([][][]vector, rows) // [r][half][even or odd]
	chains := max(1, 2/rows)
	var high vector
	v.narrowKernel(fmt.Sprintf("narrowBF16x%d", rows), "x·wᵀ in bfloat16", rows, func(a *narrowArgs) {
		for r := range sums {
			sums[r] = make([][]vector, halves)
			for h := range sums[r] {
				for range chains {
					s := v.vec()
					clear(s)
					sums[r][h] = append(sums[r][h], s)
				}
			}
		}
		high = v.load(bitsOf(0xffff0000))
	}, 1, 64, func(a *narrowArgs) {
		// A step is a pair. All its weights are widened first, so that an activation is widened once for both halves.
		even, odd := make([]vector, halves), make([]vector, halves)
		for h := range halves {
			even[h], odd[h] = v.vec(), v.vec()
			VMOVDQU(Mem{Base: a.w, Disp: 32 * h}, odd[h])
			VPSLLD(Imm(16), odd[h], even[h])
			VPAND(high, odd[h], odd[h])
		}
		for r := range rows {
			x, y := v.vec(), v.vec()
			VPBROADCASTD(Mem{Base: a.x, Disp: 4 * r}, x)
			VPSLLD(Imm(16), x, y)
			VPAND(high, x, x)
			for h := range halves {
				VFMADD231PS(y, even[h], sums[r][h][0])
				VFMADD231PS(x, odd[h], sums[r][h][chains-1])
			}
		}
		ADDQ(U32(64), a.w)
		ADDQ(U32(4*rows), a.x)
	}, func(r int) []vector {
		var out []vector
		for _, s := range sums[r] {
			if chains == 2 {
				VADDPS(s[1], s[0], s[0])
			}
			out = append(out, s[0])
		}
		return out
	})
}

// widen writes the columns of a block in bfloat16 as floats.
func (v isa) widen() {
	TEXT("widen"+v.suffix, NOSPLIT, "func(pairs int, w *byte, dst *float32, ldd int)")
	Doc(fmt.Sprintf("widen%s writes pairs of columns of 16 rows in bfloat16 as floats, a column ldd bytes from the one before.", v.suffix))
	pairs, w, dst, ldd := Load(Param("pairs"), GP64()), Load(Param("w"), GP64()), Load(Param("dst"), GP64()), Load(Param("ldd"), GP64())
	high := v.load(bitsOf(0xffff0000))
	loop("pair", pairs, 1, func() {
		PREFETCHT0(Mem{Base: w, Disp: widenAhead})
		for h := range narrowLanes / v.lanes {
			both, even := v.load(Mem{Base: w, Disp: h * v.lanes * 4}), v.vec()
			VPSLLD(Imm(16), both, even)
			VMOVUPS(even, Mem{Base: dst, Disp: h * v.lanes * 4})
			VMOVUPS(v.and(both, high), Mem{Base: dst, Index: ldd, Scale: 1, Disp: h * v.lanes * 4})
		}
		ADDQ(U32(64), w)
		LEAQ(Mem{Base: dst, Index: ldd, Scale: 2}, dst)
	})
	VZEROUPPER()
	RET()
}

// widenAhead is how many bytes ahead weights are fetched.
const widenAhead = 1024

// quantise writes quant.Activations over groups.
func (v isa) quantise() {
	TEXT("quantise"+v.suffix, NOSPLIT, "func(groups int, src *float32, codes *int8, ldc int, meta *byte, ldm int, shift int32)")
	Doc(fmt.Sprintf("quantise%s codes groups of 32 activations, ldc bytes apart, and writes for each, ldm bytes apart, its scale and -shift", v.suffix),
		"times the sum of its codes.")
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	codes, ldc := Load(Param("codes"), GP64()), Load(Param("ldc"), GP64())
	meta, ldm := Load(Param("meta"), GP64()), Load(Param("ldm"), GP64())
	shift := Load(Param("shift"), GP32())
	NEGL(shift)
	parts := groupSize / v.lanes
	loop("group", groups, 1, func() {
		x := make([]vector, parts)
		top := v.vec()
		for i := range x {
			x[i] = v.load(Mem{Base: src, Disp: i * v.lanes * 4})
			size := v.binary(VANDPS, bitsOf(1<<31-1), x[i])
			if i == 0 {
				top = size
			} else {
				VPMAXSD(size, top, top) // as integers: a NaN counts for more than any number
			}
		}
		largest := v.foldInts(top, func(a, b reg.Register) { VPMAXSD(a, b, b) })
		// scale and its inverse, both 0 for a tiny group
		scale, inverse, tiny, c := XMM(), XMM(), XMM(), XMM()
		VMOVSS(number(127), c)
		VDIVSS(largest, c, inverse)
		VDIVSS(c, largest, scale)
		VCMPSS(Imm(1), number(0x1p-100), largest, tiny)
		VANDNPS(inverse, tiny, inverse)
		VANDNPS(scale, tiny, scale)
		VMOVSS(scale, Mem{Base: meta})
		all := v.vec()
		VBROADCASTSS(inverse, all)
		for i := range x {
			VMULPS(all, x[i], x[i])
			VCVTPS2DQ(x[i], x[i])
		}
		sum := v.load(x[0])
		for _, more := range x[1:] {
			VPADDD(more, sum, sum)
		}
		v.storeCodes(x, codes)
		total := GP32()
		VMOVD(v.foldInts(sum, func(a, b reg.Register) { VPADDD(a, b, b) }), total)
		IMULL(shift, total)
		MOVL(total, Mem{Base: meta, Disp: 4})
		ADDQ(Imm(groupSize*4), src)
		ADDQ(ldc, codes)
		ADDQ(ldm, meta)
	})
	VZEROUPPER()
	RET()
}

// encode writes quant.Int8 and quant.Int4 over groups.
func (v isa) encode() {
	TEXT("encode"+v.suffix, NOSPLIT, "func(groups int, src *float32, codes *int8, scales *uint16, divisor, low, high float32, signed bool)")
	Doc(fmt.Sprintf("encode%s codes groups of 32 weights, by scales that are the largest of a group, its magnitude or signed, over divisor.", v.suffix),
		"Codes lie between low and high. Where a weight is not finite the scale is NaN, and the codes are anything.")
	groups, src := Load(Param("groups"), GP64()), Load(Param("src"), GP64())
	codes, scales := Load(Param("codes"), GP64()), Load(Param("scales"), GP64())
	lowest, highest := v.broadcast("low"), v.broadcast("high")
	divisor := XMM()
	a, err := Param("divisor").Resolve()
	if err != nil {
		panic(err)
	}
	VMOVSS(a.Addr, divisor)
	signed := Load(Param("signed"), GP8())
	parts := groupSize / v.lanes
	loop("group", groups, 1, func() {
		x := make([]vector, parts)
		for i := range x {
			x[i] = v.load(Mem{Base: src, Disp: i * v.lanes * 4})
		}
		// The largest magnitude, as an integer, by which what is not finite stands out.
		top := v.vec()
		for i := range x {
			size := v.binary(VANDPS, bitsOf(1<<31-1), x[i])
			if i == 0 {
				top = size
			} else {
				VPMAXSD(size, top, top)
			}
		}
		largest := v.foldInts(top, func(a, b reg.Register) { VPMAXSD(a, b, b) })
		bits := GP32()
		VMOVD(largest, bits)
		scale := GP32()
		MOVL(U32(0x7fc00000), scale)
		CMPL(bits, U32(0x7f800000))
		JGE(LabelRef("scaled"))
		// Its sign: that of the highest number, where it is as large.
		TESTB(signed, signed)
		JZ(LabelRef("magnitude"))
		high := v.load(x[0])
		for _, more := range x[1:] {
			VMAXPS(more, high, high)
		}
		above := v.foldFloats(high)
		VUCOMISS(above, largest)
		JEQ(LabelRef("magnitude"))
		VXORPS(bitsOf(1<<31), largest, largest)
		Label("magnitude")
		VDIVSS(divisor, largest, largest)
		VMOVD(largest, scale)
		rest := GP32()
		MOVL(scale, rest)
		SHRL(Imm(16), rest)
		ANDL(Imm(1), rest)
		LEAL(Mem{Base: scale, Index: rest, Scale: 1, Disp: 0x7fff}, scale)
		ANDL(U32(0xffff0000), scale)
		Label("scaled")
		tiny, rounded, inverse, is := GP32(), XMM(), XMM(), XMM()
		MOVL(scale, tiny)
		ANDL(U32(1<<31-1), tiny)
		VMOVD(scale, rounded)
		VMOVSS(number(1), inverse)
		VDIVSS(rounded, inverse, inverse)
		// Tiny scales are 0, and so are the codes.
		VMOVD(tiny, is)
		VCMPSS(Imm(1), number(0x1p-100), is, is)
		VANDNPS(inverse, is, inverse)
		VANDNPS(rounded, is, rounded)
		VMOVD(rounded, scale)
		SHRL(Imm(16), scale)
		MOVW(scale.As16(), Mem{Base: scales})
		all := v.vec()
		VBROADCASTSS(inverse, all)
		for i := range x {
			VMULPS(all, x[i], x[i])
			VMAXPS(lowest, x[i], x[i])
			VMINPS(highest, x[i], x[i])
			VCVTPS2DQ(x[i], x[i])
		}
		v.storeCodes(x, codes)
		ADDQ(U32(groupSize*4), src)
		ADDQ(Imm(groupSize), codes)
		ADDQ(Imm(2), scales)
	})
	VZEROUPPER()
	RET()
}

// foldFloats returns the highest lane of x.
func (v isa) foldFloats(x vector) reg.VecVirtual {
	y := x.AsY()
	if v.lanes == 16 {
		high := YMM()
		VEXTRACTF64X4(Imm(1), x, high)
		VMAXPS(high, y, y)
	}
	low, t := x.AsX(), XMM()
	VEXTRACTF128(Imm(1), y, t)
	VMAXPS(t, low, low)
	VMOVHLPS(low, low, t)
	VMAXPS(t, low, low)
	VMOVSHDUP(low, t)
	VMAXPS(t, low, low)
	out := XMM()
	VMOVAPS(low, out)
	return out
}

// storeCodes stores 32 integers as bytes.
func (v isa) storeCodes(x []vector, codes reg.Register) {
	if v.lanes == 16 {
		for i := range x {
			VPMOVSDB(x[i], Mem{Base: codes, Disp: 16 * i})
		}
		return
	}
	VPACKSSDW(x[1], x[0], x[0])
	VPACKSSDW(x[3], x[2], x[2])
	VPACKSSWB(x[2], x[0], x[0]) // dwords 0, 8, 16, 24 | 4, 12, …: within the lanes
	order := v.load(NewDataAddr(NewStaticSymbol("unpack"), 0))
	VPERMD(x[0], order, x[0])
	VMOVDQU(x[0], Mem{Base: codes})
}

// foldInts folds the 32-bit lanes of x by halves.
func (v isa) foldInts(x vector, fold func(a, b reg.Register)) reg.VecVirtual {
	y := x.AsY()
	if v.lanes == 16 {
		high := YMM()
		VEXTRACTI64X4(Imm(1), x, high)
		fold(high, y)
	}
	low, t := x.AsX(), XMM()
	VEXTRACTI128(Imm(1), y, t)
	fold(t, low)
	VPSHUFD(Imm(0x4e), low, t)
	fold(t, low)
	VPSHUFD(Imm(0xb1), low, t)
	fold(t, low)
	out := XMM()
	VMOVDQA(low, out)
	return out
}

// toBF16 writes quant.BF16.
func (v isa) toBF16() {
	TEXT("toBF16"+v.suffix, NOSPLIT, "func(dst *uint16, src *float32, n int)")
	Pragma("noescape")
	Doc(fmt.Sprintf("toBF16%s writes n numbers, a multiple of 16, in bfloat16.", v.suffix))
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	bias, one, quiet := v.load(bitsOf(0x7fff)), v.load(bitsOf(1)), v.load(bitsOf(1<<22))
	round := func(at int) vector {
		x := v.load(Mem{Base: src, Disp: at * 4})
		odd := v.vec()
		VPSRLD(Imm(16), x, odd)
		if v.lanes == 16 {
			VPANDD(one, odd, odd)
		} else {
			VPAND(one, odd, odd)
		}
		VPADDD(bias, odd, odd)
		VPADDD(x, odd, odd)
		// a NaN keeps its high bits, and is quiet
		nan := v.vec()
		if v.lanes == 16 {
			k := K()
			VCMPPS(Imm(3), x, x, k)
			VPORD(quiet, x, nan)
			VMOVDQA32(nan, k, odd)
		} else {
			is := v.vec()
			VCMPPS(Imm(3), x, x, is)
			VPOR(quiet, x, nan)
			VPBLENDVB(is, nan, odd, odd)
		}
		VPSRLD(Imm(16), odd, odd)
		return odd
	}
	loop("step", n, 16, func() {
		if v.lanes == 16 {
			VPMOVDW(round(0), Mem{Base: dst})
		} else {
			a, b := round(0), round(8)
			VPACKUSDW(b, a, a)
			VPERMQ(Imm(0xd8), a, a)
			VMOVDQU(a, Mem{Base: dst})
		}
		ADDQ(Imm(64), src)
		ADDQ(Imm(32), dst)
	})
	VZEROUPPER()
	RET()
}
