package cudagen

import (
	"slices"

	"github.com/tfc-dev/tfc/ir"
)

// Products of our own (kernels/product_wgmma.cuh), for Hopper's matrix units. Each product that they can make has two beside
// cuBLASLt's kernels, or one where it sums columns, and which is the fastest is measured on the device. Those with an activation are theirs alone: where the value
// before it is read by the backward product only, the two keep the activation's derivative in its place, which is worked out
// with the activation and costs the backward product a multiplication.

// sumRows is how many sums of a product's columns there are, each over 32 of its rows, in tiles of 128.
func sumRows(rows int) int { return 4 * ((rows + 127) / 128) }

// rivals makes the kernels for p, a product of op, once for all that are alike.
func (e *emitter) rivals(op *ir.Op, p ir.Product) {
	key := p
	key.About = ""
	if !slices.Contains(e.g.Archs, hopper) || !rivalable(p) || e.g.rivals[key] {
		return
	}
	if e.g.rivals == nil {
		e.g.rivals = map[ir.Product]bool{}
	}
	e.g.rivals[key] = true
	if p.Quantizes() {
		e.quantizes(op, key)
		return
	}
	for _, pairs := range []bool{true, false} {
		if p.Sums && !pairs {
			continue // slower wherever it was measured
		}
		panels := 4
		if pairs {
			panels = 2
		}
		k := kernel{file: "product_wgmma.cuh", body: "product_wgmma", arch: hopper, threads: 384, blocks: 1, shared: rivalShared(p, pairs, panels), waits: true}
		for _, name := range []string{"a", "b", "d", "other"} {
			k.params = append(k.params, param{ctype: "const __grid_constant__ TensorMap ", name: name})
		}
		k.params = append(k.params, param{ctype: "const " + ctype(p.A) + " *", name: "bias"}, param{ctype: "float *", name: "sums"})
		act := p.Act
		if p.Epilogue == "gelu_tanh" {
			act = "gelu_tanh"
		}
		config := []constant{
			typ("T", p.A), integer("terms", p.K), integer("cols", p.N), boolean("across", !p.TransB), boolean("pairs", pairs), integer("panels", panels),
			boolean("has_bias", p.Epilogue != ""), boolean("has_c", p.Beta != 0), boolean("has_fn", act != ""),
		}
		if act != "" {
			config = append(config, fn(act))
		}
		config = append(config, boolean("slope", p.Own == "slope"), boolean("times", p.Own == "times"), boolean("sums", p.Sums), boolean("gated", p.Gated))
		made := e.g.counted(e.g.kernel(op, &k, config, true), op, ir.Cost{})
		e.g.code.Rivals = append(e.g.code.Rivals, ir.Rival{Product: key, Kernel: made, Rows: 128, Cols: 64 * panels})
	}
}

// quantizes makes the kernel for p, which is product_quantize's alone.
func (e *emitter) quantizes(op *ir.Op, p ir.Product) {
	k := kernel{file: "product_quantize.cuh", body: "product_quantize", arch: hopper, threads: 384, blocks: 1, shared: quantizeShared(p), waits: true}
	for _, name := range []string{"a", "b", "q", "t"} {
		k.params = append(k.params, param{ctype: "const __grid_constant__ TensorMap ", name: name})
	}
	for _, x := range [][2]string{
		{"const bf16 *", "bias"}, {"Pack<uint32_t, 4> *", "kept"}, {"const float *", "a_scale"}, {"const float *", "b_scale"}, {"float *", "scale"}, {"float *", "sums"},
		{"unsigned *", "history"}, {"const unsigned *", "amax"}, {"unsigned *", "top"},
	} {
		k.params = append(k.params, param{ctype: x[0], name: x[1]})
	}
	config := []constant{typ("T", ir.BF16), integer("terms", p.K), integer("cols", p.N), boolean("has_bias", p.Epilogue != "")}
	if p.Act != "" {
		config = append(config, fn(p.Act))
	}
	config = append(config, boolean("keeps", p.Own == "slope"), boolean("times", p.Own == "times"), boolean("sums", p.Sums), boolean("gated", p.Gated))
	made := e.g.counted(e.g.kernel(op, &k, config, true), op, ir.Cost{})
	e.g.code.Rivals = append(e.g.code.Rivals, ir.Rival{Product: p, Kernel: made, Rows: 128, Cols: 128})
}

// quantizeShared is QuantizeTiles::shared.
func quantizeShared(p ir.Product) int {
	boxes := 2 * 2                     // of two warpgroups, for q and t
	if p.Gated != (p.Own == "times") { // two parts of a tile; of a gated backward product two results of one part
		boxes *= 2
	}
	if p.Gated && p.Own == "times" {
		boxes *= 2
	}
	const stage = 2 * 128 * 128
	fixed := boxes*128*64 + 1024
	return (227*1024-fixed)/stage*stage + fixed
}

// rivalShared is ProductTiles::shared.
func rivalShared(p ir.Product, pairs bool, panels int) int {
	input, joins := p.Beta != 0 || p.Own == "times", p.Gated && p.Own != "times"
	parts, own, sets := panels, 1, 2
	if joins {
		parts /= 2
	}
	if pairs {
		parts, sets = 2*parts, 4
	}
	if p.Own == "slope" {
		own, sets = 2, 2
	}
	if p.Gated && (p.Own == "slope" || p.Own == "times") {
		own++
	}
	switch {
	case input && p.Gated:
		sets = 2
	case input:
		sets = parts
	case p.Own == "slope" && p.Gated && !pairs:
		sets = 1
	}
	stage, fixed := (128+64*panels)*128, 2*min(sets, parts)*own*64*128+1024
	return (227*1024-fixed)/stage*stage + fixed
}

// rivalable says whether there are kernels for p: product_wgmma's for 16 bits, with A as it is stored, and rows that start at multiples of 16
// bytes, or product_quantize.
func rivalable(p ir.Product) bool {
	if p.Quantizes() {
		return true
	}
	if p.A == ir.F32 || p.D != p.A || p.TransA || p.Align%16 != 0 {
		return false
	}
	for _, ld := range []int{p.LDA, p.LDB, p.LDC, p.LDD, p.LDAux} {
		if ld%8 != 0 {
			return false
		}
	}
	return p.Epilogue == "" || p.Epilogue == "bias" || p.Epilogue == "gelu_tanh" && p.Beta == 0
}

// keepsSlope says whether v, the value before an activation, is read by nothing but the backward products that multiply by the
// activation's derivative there, so that on Hopper that derivative may take its place. For a gated activation these are two, and it may
// be that nothing reads them.
func (e *emitter) keepsSlope(v *ir.Value) bool {
	op := v.Op
	if !slices.Contains(e.g.Archs, hopper) || v.Type.DType == ir.F32 || !e.has(v) || op == nil || len(op.Results) < 2 || op.Results[1] != v {
		return false
	}
	reader, at, fn := "linear_dx", 3, op.Str("act")
	switch op.Kind {
	case "linear":
		if op.Args[3] != nil {
			return false
		}
	case "linear_glu":
		reader, at, fn = "linear_glu_dx", 2, op.Str("fn")
	default:
		return false
	}
	if _, dynamic := e.rows(v); dynamic || op.Str("kernel") == "small_linear" || slices.Contains(e.f.Results, v) {
		return false
	}
	whole := func(rows ...*ir.Value) bool { // pieces of 16 bytes
		for _, r := range rows {
			if r.Type.DType != v.Type.DType || e.vec(r.Type.Cols(), r) != 8 {
				return false
			}
		}
		return true
	}
	if !whole(op.Args[0], op.Results[0], v) {
		return false
	}
	for _, use := range e.f.Uses()[v] {
		if use == nil || use.Kind != reader || use.Args[at] != v || use.Str("act")+use.Str("fn") != fn || !whole(use.Args[0], use.Results[0]) {
			return false
		}
		if reader == "linear_dx" && use.Args[2] != nil {
			return false
		}
	}
	return true
}
