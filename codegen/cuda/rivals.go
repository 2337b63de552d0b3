package cudagen

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// Products of our own: for Hopper's matrix units, each product that kernels/product_wgmma.cuh can make has two kernels beside
// cuBLASLt's. Which is the fastest is measured on the device.

// rivalSums is the rows that one of a product's column sums is over.
const rivalSums = 128

// rivals makes the kernels for p, a product of op, once for all that are alike.
func (e *emitter) rivals(op *ir.Op, p ir.Product) {
	const arch = "sm_90a"
	key := p
	key.About = ""
	if !slices.Contains(e.g.Archs, arch) || !rivalable(p) || e.g.rivals[key] {
		return
	}
	if e.g.rivals == nil {
		e.g.rivals = map[ir.Product]bool{}
	}
	e.g.rivals[key] = true
	gradient := p.Epilogue == "gelu_tanh_grad"
	for _, pairs := range []bool{true, false} {
		if p.Sums && !pairs {
			continue
		}
		cols, stages, boxes := 256, 4, 2
		switch {
		case pairs:
			cols, stages, boxes = 128, 5, 4
		case gradient || p.Beta != 0 || p.Epilogue == "gelu_tanh_pre":
			stages, boxes = 3, 4
		}
		shared := stages*(128+cols)*128 + 2*boxes*64*128 + 8*(2*stages+6)
		t := ctype(p.A)
		k := kernel{
			file: "product_wgmma.cuh", body: "product_wgmma", arch: arch, threads: 384, blocks: 1, shared: (shared + 1023) / 1024 * 1024,
		}
		for _, name := range []string{"a", "b", "d", "other"} {
			k.params = append(k.params, param{ctype: "const __grid_constant__ TensorMap ", name: name})
		}
		k.params = append(k.params, param{ctype: "const " + t + " *", name: "bias"}, param{ctype: "float *", name: "sums"})
		config := []constant{
			typ("T", p.A), integer("terms", p.K), integer("cols", p.N), boolean("across", !p.TransB), boolean("pairs", pairs),
			boolean("has_bias", p.Epilogue != "" && !gradient), boolean("has_c", p.Beta != 0), boolean("has_pre", p.Epilogue == "gelu_tanh_pre"),
			boolean("has_fn", p.Epilogue != "" && p.Epilogue != "bias"), constant("static constexpr Activation fn = Activation::gelu_tanh"),
			boolean("gradient", gradient), boolean("sums", p.Sums),
		}
		made := e.g.counted(e.g.kernel(op, &k, config, true), op, ir.Cost{})
		e.g.code.Rivals = append(e.g.code.Rivals, ir.Rival{Product: key, Kernel: made, Rows: 128, Cols: cols})
	}
}

// rivalable says whether product_wgmma can make p: of 16 bits, with A as it is stored, and rows that start at multiples of 16 bytes.
func rivalable(p ir.Product) bool {
	if p.A == ir.F32 || p.D != p.A || p.TransA || p.Align%16 != 0 || p.Beta != 0 && p.Epilogue == "gelu_tanh_pre" {
		return false
	}
	for _, ld := range []int{p.LDA, p.LDB, p.LDC, p.LDD, p.LDAux} {
		if ld%8 != 0 {
			return false
		}
	}
	return p.Beta == 0 || p.Epilogue == "" || p.Epilogue == "bias"
}
