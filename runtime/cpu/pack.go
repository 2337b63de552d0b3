package cpu

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

// panelFloats returns the size of n elements by k steps packed in panels of the given width.
func panelFloats(n, k, width int) int { return (n + width - 1) / width * width * k }

// panels packs elements i0 to i0+n, steps l0 to l0+k, into panels: width elements wide, the last one filled up with
// zeros, each panel step after step.
func (p *packer) panels(dst []float32, o operand, i0, n, l0, k int) {
	for done := 0; done < n; done += p.width {
		p.panel(dst[done*k:(done+p.width)*k], o, i0+done, min(p.width, n-done), l0, k)
	}
}

// panel packs up to width elements.
func (p *packer) panel(dst []float32, o operand, i0, n, l0, k int) {
	if !o.alongK {
		if p.copy != nil && n == p.width {
			p.copy(k, &o.mat.Data[o.at(i0, l0)], o.mat.Stride*4, &dst[0])
			return
		}
		for l := range k {
			row := dst[l*p.width : (l+1)*p.width]
			from := o.at(i0, l0+l)
			copy(row, o.mat.Data[from:from+n])
			clear(row[n:])
		}
		return
	}
	i := 0
	if p.transpose != nil && k >= p.block {
		groups := k / p.block
		for ; i+p.lanes <= n; i += p.lanes {
			p.transpose(groups, &o.mat.Data[o.at(i0+i, l0)], o.mat.Stride*4, &dst[i], p.width*4)
			packScalar(dst, o, i0, i, i+p.lanes, l0, groups*p.block, k, p.width)
		}
	}
	packScalar(dst, o, i0, i, n, l0, 0, k, p.width)
	if n < p.width {
		for l := range k {
			clear(dst[l*p.width+n : (l+1)*p.width])
		}
	}
}

// packScalar packs elements from to to, steps fromL to k, of a panel whose source runs along k.
func packScalar(dst []float32, o operand, i0, from, to, l0, fromL, k, width int) {
	for i := from; i < to; i++ {
		at := o.at(i0+i, l0)
		src := o.mat.Data[at : at+k]
		for l := fromL; l < k; l++ {
			dst[l*width+i] = src[l]
		}
	}
}
