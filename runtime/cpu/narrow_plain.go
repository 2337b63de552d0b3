package cpu

import (
	"math"
	"unsafe"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// The narrow kernels in plain Go, for one row of x. They are what the vector kernels are tested against.

func narrowBF16x1(blocks, steps int, w *byte, _ *uint16, x, _ *byte, out *float32, _ int) {
	pairs := unsafe.Slice((*[narrowLanes]uint32)(unsafe.Pointer(w)), blocks*steps)
	xs := unsafe.Slice((*uint32)(unsafe.Pointer(x)), steps)
	sums := unsafe.Slice((*[narrowLanes]float32)(unsafe.Pointer(out)), blocks)
	for b := range blocks {
		var sum [narrowLanes]float32
		for i, pair := range pairs[b*steps:][:steps] {
			even, odd := math.Float32frombits(xs[i]<<16), math.Float32frombits(xs[i]&^0xffff)
			for r, v := range pair {
				sum[r] += even*math.Float32frombits(v<<16) + odd*math.Float32frombits(v&^0xffff)
			}
		}
		sums[b] = sum
	}
}

// narrowMeta is what stands beside a group of activations.
type narrowMeta struct {
	scale float32
	start int32
}

func narrowInt8x1(blocks, steps int, w *byte, scales *uint16, x, meta *byte, out *float32, _ int) {
	groups := unsafe.Slice((*[quant.Group / 4][narrowLanes][4]uint8)(unsafe.Pointer(w)), blocks*steps)
	narrowGroups(blocks, steps, scales, x, meta, out, func(g, r int, x *[quant.Group]int8) (sum int32) {
		for q := range quant.Group / 4 {
			for c, code := range groups[g][q][r] {
				sum += int32(code) * int32(x[4*q+c])
			}
		}
		return sum
	})
}

func narrowInt4x1(blocks, steps int, w *byte, scales *uint16, x, meta *byte, out *float32, _ int) {
	groups := unsafe.Slice((*[quant.Group / 8][narrowLanes][4]uint8)(unsafe.Pointer(w)), blocks*steps)
	narrowGroups(blocks, steps, scales, x, meta, out, func(g, r int, x *[quant.Group]int8) (sum int32) {
		for q := range quant.Group / 8 {
			for c, code := range groups[g][q][r] {
				sum += int32(code&15)*int32(x[4*q+c]) + int32(code>>4)*int32(x[4*q+c+16])
			}
		}
		return sum
	})
}

// narrowGroups sums the products of groups; dot gives that of a group's codes for one row of w.
func narrowGroups(blocks, steps int, scales *uint16, x, meta *byte, out *float32, dot func(g, r int, x *[quant.Group]int8) int32) {
	of := unsafe.Slice((*[narrowLanes]uint16)(unsafe.Pointer(scales)), blocks*steps)
	xs := unsafe.Slice((*[quant.Group]int8)(unsafe.Pointer(x)), steps)
	metas := unsafe.Slice((*narrowMeta)(unsafe.Pointer(meta)), steps)
	sums := unsafe.Slice((*[narrowLanes]float32)(unsafe.Pointer(out)), blocks)
	for b := range blocks {
		var sum [narrowLanes]float32
		for g := range steps {
			for r := range sum {
				both := quant.FromBF16(of[b*steps+g][r]) * metas[g].scale
				sum[r] = fma32(float32(metas[g].start+dot(b*steps+g, r, &xs[g])), both, sum[r])
			}
		}
		sums[b] = sum
	}
}

// fma32 returns a*b + c rounded once, for an a of at most 24 bits: the product is exact in float64, and so is what its sum
// loses, by which a sum that lies between two float32s is moved off the middle (rounding to odd; Boldo, Melquiond 2008).
func fma32(a, b, c float32) float32 {
	p, q := float64(a)*float64(b), float64(c)
	s := p + q
	t := s - p
	lost := (p - (s - t)) + (q - t)
	if bits := math.Float64bits(s); lost != 0 && bits&1 == 0 {
		if (lost > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
		s = math.Float64frombits(bits)
	}
	return float32(s)
}

func quantise(groups int, src *float32, codes *int8, ldc int, meta *byte, ldm int, shift int32) {
	xs := unsafe.Slice((*[quant.Group]float32)(unsafe.Pointer(src)), groups)
	for g := range groups {
		to := (*[quant.Group]int8)(unsafe.Add(unsafe.Pointer(codes), g*ldc))
		m := (*narrowMeta)(unsafe.Add(unsafe.Pointer(meta), g*ldm))
		m.scale = quant.Activations(to[:], xs[g][:])
		m.start = 0
		for _, c := range to {
			m.start -= shift * int32(c)
		}
	}
}

func encode(groups int, src *float32, codes *int8, scales *uint16, _, _, _ float32, signed bool) {
	xs, to := unsafe.Slice((*[quant.Group]float32)(unsafe.Pointer(src)), groups), unsafe.Slice((*[quant.Group]int8)(unsafe.Pointer(codes)), groups)
	for g := range xs {
		scale := unsafe.Slice(scales, groups)
		if signed {
			scale[g] = quant.Int4(to[g][:], xs[g][:])
		} else {
			scale[g] = quant.Int8(to[g][:], xs[g][:])
		}
	}
}

func toBF16(dst *uint16, src *float32, n int) {
	to := unsafe.Slice(dst, n)
	for i, x := range unsafe.Slice(src, n) {
		to[i] = quant.BF16(x)
	}
}
