package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// exp64 writes the weights that a sampler draws by, in float64, with 16 partial sums, element i in sum i%16.
func (v isa) exp64() {
	TEXT("exp64"+v.suffix, NOSPLIT, "func(dst *float64, x *float32, n int, highest, temperature float64, sums *[16]float64)")
	Pragma("noescape")
	Doc(fmt.Sprintf("exp64%s writes dst = e^((x-highest)/temperature) and adds dst[i] to sums[i%%16], over n elements, a multiple of 16; x is at most", v.suffix),
		"highest. Below 2^-1021, dst is 0.")
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	wide := func(param string) vector {
		r := v.vec()
		a, err := Param(param).Resolve()
		if err != nil {
			panic(err)
		}
		VBROADCASTSD(a.Addr, r)
		return r
	}
	highest, temperature := wide("highest"), wide("temperature")
	sums := Load(Param("sums"), GP64())
	acc := v.loadDoubles(sums)
	loop("step", n, 16, func() {
		for i := range acc {
			d := v.doubles(Mem{Base: x, Disp: i * v.lanes / 2 * 4})
			VSUBPD(highest, d, d)
			VDIVPD(temperature, d, d)
			// x = k ln 2 + r with |r| <= ln(2)/2, k in the last bits of t.
			low := v.load(double(-1021 * math.Ln2))
			inside := v.binary(VMAXPD, d, low)
			t := v.load(double(3 << 51))
			v.do(VFMADD231PD, double(math.Log2E), inside, t)
			k := v.vec()
			v.do(VSUBPD, double(3<<51), t, k)
			r := v.load(inside)
			v.do(VFNMADD231PD, double(6.93147180369123816490e-01), k, r)
			v.do(VFNMADD231PD, double(1.90821492927058770002e-10), k, r)
			c := 1.0 // 1/13!, Taylor's series: the rest is below 2^-57
			for f := 2; f <= 13; f++ {
				c /= float64(f)
			}
			p := v.load(double(c))
			for f := 13; f > 0; f-- {
				c *= float64(f)
				v.do(VFMADD213PD, double(c), r, p)
			}
			VPSLLQ(Imm(52), t, t)
			VPADDQ(t, p, p)
			// What is below is 0.
			if v.lanes == 16 {
				m := K()
				VCMPPD(Imm(5), low, d, m) // not less
				VMOVAPD_Z(p, m, p)
			} else {
				m := v.vec()
				VCMPPD(Imm(5), low, d, m)
				VANDPD(m, p, p)
			}
			VMOVUPD(p, Mem{Base: dst, Disp: i * v.lanes / 2 * 8})
			VADDPD(p, acc[i], acc[i])
		}
		ADDQ(Imm(64), x)
		ADDQ(U32(128), dst)
	})
	v.storeDoubles(acc, sums)
	VZEROUPPER()
	RET()
}
