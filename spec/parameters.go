package spec

import "math/bits"

// Parameters counts the model's weights, each once. A count beyond int comes back as the largest int.
func (m *Model) Parameters() int {
	d := m.HiddenSize
	norm := d
	if m.Norm.Kind == "layernorm" && m.Norm.Bias {
		norm = sum(d, d)
	}
	perBlock := map[bool]int{true: 4, false: 2}[m.NormPlacement == "both"]
	if m.Residual == "parallel_shared" {
		perBlock = 1
	}
	n := sum(product(m.VocabSize, d), norm)
	if m.NormPlacement == "post" {
		n = product(m.VocabSize, d) // the last block's norm is the last
	}
	if !m.TieWordEmbeddings {
		n = sum(n, product(m.VocabSize, d))
	}
	if m.Bias.Head {
		n = sum(n, m.VocabSize)
	}
	if m.Positions.At(0).Kind == "learned" {
		n = sum(n, product(m.MaxPositionEmbeddings, d))
	}
	for l := range m.NumLayers {
		n = sum(n, product(perBlock, norm), m.attentionParameters(l), m.mlpParameters(l))
	}
	return n
}

func (m *Model) attentionParameters(l int) int {
	q, kv := product(m.NumHeads.At(l), m.HeadDim), product(m.NumKVHeads.At(l), m.HeadDim)
	n := product(m.HiddenSize, sum(q, q, kv, kv))
	if m.Bias.QKV {
		n = sum(n, q, kv, kv)
	}
	if m.Bias.Output {
		n = sum(n, m.HiddenSize)
	}
	each := 1
	if m.QKNorm.Kind == "layernorm" {
		each = 2
	}
	switch {
	case m.QKNorm.Kind == "none":
	case m.QKNorm.Over == "all":
		n = sum(n, product(each, sum(q, kv)))
	default:
		n = sum(n, product(each, 2, m.HeadDim))
	}
	return n
}

func (m *Model) mlpParameters(l int) int {
	f := m.IntermediateSize.At(l)
	in := 1
	if _, gated := m.Gated(); gated {
		in = 2
	}
	n := product(in+1, m.HiddenSize, f)
	if m.Bias.MLP {
		n = sum(n, product(in, f), m.HiddenSize)
	}
	return n
}

const maxInt = int(^uint(0) >> 1)

// product multiplies numbers that are not negative; beyond int it is the largest int.
func product(factors ...int) int {
	n := uint(1)
	for _, f := range factors {
		high, low := bits.Mul(n, uint(f))
		if high != 0 || low > uint(maxInt) {
			return maxInt
		}
		n = low
	}
	return int(n)
}

// sum adds numbers that are not negative; beyond int it is the largest int.
func sum(terms ...int) int {
	n := 0
	for _, t := range terms {
		if n > maxInt-t {
			return maxInt
		}
		n += t
	}
	return n
}
