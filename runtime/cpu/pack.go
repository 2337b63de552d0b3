package cpu

import "math"

// An operand is one factor of a product seen along the sum: element (i, l) has index i in C and step l of the sum.
type operand struct {
	mat    Mat
	alongK bool // a row of mat runs along the sum: element (i, l) is at row i, column l; else at row l, column i
}

// at returns the position of element (i, l) in mat.Data.
func (o operand) at(i, l int) int {
	if o.alongK {
		return i*o.mat.Stride + l
	}
	return l*o.mat.Stride + i
}

// packed is the floats that n columns of B take, packed for k steps.
func (t *tiling) packed(n, k int) int { return ceil(n, t.nr) * t.nr * t.steps(k) }

// copySteps is how many steps copy is given at once: their lines, one below the other, fit a set of the first-level cache.
const copySteps = 8

// panels packs elements i0 to i0+n, steps l0 to l0+k of the sum, into panels: width elements wide, each panel step after step. The
// last one is filled up with whatever is at hand: a tile's rows and columns do not mix, and those beyond n are not kept.
func (p *packer) panels(dst []float32, o operand, i0, n, l0, k int) {
	steps := p.steps(k)
	if whole := k / p.pair / copySteps * copySteps; !o.alongK && p.copy != nil && whole > 0 {
		// Rows that run across the panels are taken a few at a time through all full panels, so that a line is read once.
		full := n / p.width * p.width
		for step := 0; step < whole; step += copySteps {
			if p.copyMany != nil && full > 0 {
				p.copyMany(full/p.width, copySteps, &o.mat.Data[o.at(i0, l0+step*p.pair)], o.mat.Stride*4, &dst[step*p.width], steps*p.width*4)
				continue
			}
			for at := 0; at < full; at += p.width {
				p.copy(copySteps, &o.mat.Data[o.at(i0+at, l0+step*p.pair)], o.mat.Stride*4, &dst[at*steps+step*p.width])
			}
		}
		for at := 0; at < full; at += p.width {
			p.panel(dst[at*steps+whole*p.width:(at+p.width)*steps], o, i0+at, p.width, l0+whole*p.pair, k-whole*p.pair)
			if p.round {
				roundBF16(dst[at*steps:][:whole*p.width])
			}
		}
		dst, i0, n = dst[full*steps:], i0+full, n-full
	}
	for done := 0; done < n; done += p.width {
		p.panel(dst[done*steps:(done+p.width)*steps], o, i0+done, min(p.width, n-done), l0, k)
	}
}

// panel packs up to width elements. In pairs, an element of a step has two steps of the sum in bf16, the earlier one in its low half;
// after an odd last step comes a zero.
func (p *packer) panel(dst []float32, o operand, i0, n, l0, k int) {
	if p.rows != nil {
		p.rowPanel(dst, o, i0, n, l0, k)
		return
	}
	clear(dst[p.width*ceil(k, p.pair):])
	whole := k / p.pair // steps of the panel that vector kernels may pack
	switch {
	case !o.alongK && p.copy != nil && (n == p.width || o.at(i0, l0+k-1)+p.width <= len(o.mat.Data)):
		if whole > 0 {
			p.copy(whole, &o.mat.Data[o.at(i0, l0)], o.mat.Stride*4, &dst[0])
		}
		p.scalar(dst, o, i0, 0, n, l0, whole, k)
	case !o.alongK && p.pair == 1:
		for l := range k {
			row := dst[l*p.width : (l+1)*p.width]
			from := o.at(i0, l0+l)
			copy(row, o.mat.Data[from:from+n])
			clear(row[n:])
		}
	default:
		step := 0
		if groups := whole / max(1, p.block); o.alongK && p.transpose != nil && groups > 0 {
			for i := 0; i < n; i += p.lanes {
				p.transpose(groups, &o.mat.Data[o.at(i0+i, l0)], o.mat.Stride*4, min(p.lanes, n-i), &dst[i], p.width*4)
			}
			step = groups * p.block
		}
		p.scalar(dst, o, i0, 0, n, l0, step, k)
		for at := step * p.width; at < len(dst) && n < p.width; at += p.width {
			clear(dst[at+n : at+p.width])
		}
	}
	if p.round {
		roundBF16(dst)
	}
}

// rowPanel is panel for panels that have row after row in each group.
func (p *packer) rowPanel(dst []float32, o operand, i0, n, l0, k int) {
	each, size := p.pair*p.group, p.group*p.width // steps of the sum and floats of a group
	groups := k / each
	rest := groups * size
	clear(dst[rest:])
	for l := groups * each; l < k; l++ {
		for i := range n {
			p.put(dst[rest:], i, l-groups*each, o.mat.Data[o.at(i0+i, l0+l)])
		}
	}
	if groups == 0 {
		return
	}
	if o.alongK {
		p.rows.along(groups, &o.mat.Data[o.at(i0, l0)], o.mat.Stride*4, n, &dst[0], size*4)
		return
	}
	for i := 0; i < n; i += rowLanes {
		if last := o.at(i0+i, l0+groups*each-1); n-i >= rowLanes || last+rowLanes <= len(o.mat.Data) {
			p.rows.across(groups, &o.mat.Data[o.at(i0+i, l0)], o.mat.Stride*4, &dst[i*p.group], size*4)
			continue
		}
		for g := range groups {
			clear(dst[g*size+i*p.group : (g+1)*size])
		}
		for l := range groups * each {
			for j := i; j < n; j++ {
				p.put(dst[l/each*size:], j, l%each, o.mat.Data[o.at(i0+j, l0+l)])
			}
		}
	}
}

// put rounds element l of row i of a group to bf16 and adds it to its pair.
func (p *packer) put(group []float32, i, l int, x float32) {
	at := &group[i*p.group+l/p.pair]
	*at = math.Float32frombits(math.Float32bits(*at) | bf16Bits(x)>>(16*(1-l%p.pair)))
}

// scalar packs elements from to to, of the panel's steps those from one on.
func (p *packer) scalar(dst []float32, o operand, i0, from, to, l0, step, k int) {
	if step*p.pair >= k {
		return
	}
	along := 1 // from one step of the sum to the next
	if !o.alongK {
		along = o.mat.Stride
	}
	for i := from; i < to; i++ {
		src := o.mat.Data[o.at(i0+i, l0):]
		if p.pair == 1 {
			for l := step; l < k; l++ {
				dst[l*p.width+i] = src[l*along]
			}
			continue
		}
		for l := 2 * step; l < k; l += 2 {
			pair := bf16Bits(src[l*along]) >> 16
			if l+1 < k {
				pair |= bf16Bits(src[(l+1)*along])
			}
			dst[l/2*p.width+i] = math.Float32frombits(pair)
		}
	}
}

// bf16Bits rounds x to bf16, to nearest and ties to even, and returns it in the high half. Subnormal numbers become 0, as the
// instructions that multiply bf16 have it.
func bf16Bits(x float32) uint32 {
	b := math.Float32bits(x)
	switch {
	case b&0x7f800000 == 0:
		return b & 0x80000000
	case x != x:
		return b&0xffff0000 | 0x400000
	}
	return (b + 0x7fff + b>>16&1) & 0xffff0000
}

// roundBF16 rounds every element to bf16.
func roundBF16(x []float32) {
	for i := roundBF16Vector(x); i < len(x); i++ {
		x[i] = math.Float32frombits(bf16Bits(x[i]))
	}
}
