package cpu

// kernels holds the operands of each kernel between Pool.run and its parts, so that a call allocates nothing.
type kernels struct {
	rowwise         rowwise
	embedGrad       embedGrad
	normGrad        normGrad
	normSums        normSums
	attention       attention
	attentionGrad   attentionGrad
	attentionCached attentionCached
	product         product
	sums            []float32 // of Linear, where y cannot hold them
	biasGrad        biasGrad
	zeroing         zeroing
	gradNorm        gradNorm
	adamw           adamw
	headRows        headRows
	narrow          narrowProduct
	narrowing       narrowing
	narrowRows      narrowRows
}
