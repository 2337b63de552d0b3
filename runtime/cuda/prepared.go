package cuda

import (
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// algorithm is how cuBLASLt computes a product, in its own coding (cublasLtMatmulAlgo_t), which holds for one version.
type algorithm [8]uint64

// heuristicResult is cublasLtMatmulHeuristicResult_t.
type heuristicResult struct {
	algorithm algorithm
	workspace uint64
	state     int32
	waves     float32
	reserved  [4]int32
}

// Prepared is a product ready to be made, for as long as its BLAS is open. It is for one goroutine at a time.
type Prepared struct {
	blas    *BLAS
	product Product
	info    KernelInfo
	closed  bool

	operation                          uintptr // cublasLtMatmulDesc_t
	layoutA, layoutB, layoutC, layoutD uintptr // cublasLtMatrixLayout_t; C's may be D's
	bias, aux, scaleA, scaleB          Ptr     // those that operation holds
	algorithm                          algorithm
	origin                             string
	rivals                             []Rival
}

// Timing is how the algorithm of a product was chosen by time. Where there was no memory to time it in, there is the product
// alone.
type Timing struct {
	Product    Product
	Candidates int           // algorithms that the heuristic proposed, and kernels of the program's own
	Chosen     int           // number of the fastest, counted from 1: in the heuristic's order, the program's own last
	First      time.Duration // of the heuristic's first choice; 0 where it cannot be run
	Took       time.Duration // of the chosen one
}

// Origin returns where the algorithm comes from: "lock", "timed" or "heuristic".
func (p *Prepared) Origin() string { return p.origin }

// Attributes of operations (cublasLtMatmulDescAttributes_t).
const (
	descTransA      = 3
	descTransB      = 4
	descEpilogue    = 7
	descBiasPointer = 8
	descAuxPointer  = 11
	descAuxLD       = 12
	descScaleA      = 17 // of cuBLASLt's A, which is our B
	descScaleB      = 18
	descBiasType    = 26
)

// Attributes of preferences (cublasLtMatmulPreferenceAttributes_t), and a reduction scheme.
const (
	prefWorkspace      = 1
	prefReduction      = 3
	prefAlignA         = 5 // B, C and D follow
	prefAlignD         = 8
	reductionInCompute = 2 // partial sums go to the workspace in the compute type, and are added in order afterwards
)

// describe makes the descriptions of the operation and of the matrices. What of it was made when one fails is for destroy.
func (p *Prepared) describe() error {
	q, lib := &p.product, p.blas.lib
	const float = 0 // CUDA_R_32F, of alpha and beta
	if err := p.blas.do(&lib.matmulDescCreate, uintptr(unsafe.Pointer(&p.operation)), uintptr(q.Compute.cublas()), float); err != nil {
		return err
	}
	// A and B change places, see Multiply.
	set := func(attribute uintptr, value int32) error {
		return p.blas.do(&lib.matmulDescSetAttribute, p.operation, attribute, uintptr(unsafe.Pointer(&value)), 4)
	}
	err := errors.Join(
		set(descTransA, transpose(q.TransB)),
		set(descTransB, transpose(q.TransA)),
		set(descEpilogue, q.Epilogue.info().cublas),
	)
	// The heuristic takes the alignment of these two from their addresses.
	if q.Epilogue.info().bias {
		if q.Bias != q.D {
			err = errors.Join(err, set(descBiasType, q.Bias.cuda()))
		}
		err = errors.Join(err, p.setPointer(descBiasPointer, Ptr(q.Align)))
		p.bias = Ptr(q.Align)
	}
	if q.Epilogue.info().aux {
		ld := int64(q.LDAux)
		err = errors.Join(err, p.blas.do(&lib.matmulDescSetAttribute, p.operation, descAuxLD, uintptr(unsafe.Pointer(&ld)), 8),
			p.setPointer(descAuxPointer, Ptr(q.Align)))
		p.aux = Ptr(q.Align)
	}
	if q.scaled() { // that there are factors is part of what the heuristic goes by
		p.scaleA, p.scaleB = Ptr(q.Align), Ptr(q.Align)
		err = errors.Join(err, p.setPointer(descScaleA, p.scaleB), p.setPointer(descScaleB, p.scaleA))
	}
	if err != nil {
		return err
	}
	rowsA, colsA, rowsB, colsB := q.M, q.K, q.K, q.N
	if q.TransA {
		rowsA, colsA = colsA, rowsA
	}
	if q.TransB {
		rowsB, colsB = colsB, rowsB
	}
	err = errors.Join(
		p.layout(&p.layoutA, q.A, rowsA, colsA, q.LDA),
		p.layout(&p.layoutB, q.B, rowsB, colsB, q.LDB),
		p.layout(&p.layoutD, q.D, q.M, q.N, q.LDD),
	)
	if q.LDC != q.LDD {
		return errors.Join(err, p.layout(&p.layoutC, q.C, q.M, q.N, q.LDC))
	}
	p.layoutC = p.layoutD
	return err
}

// transpose returns cublasOperation_t.
func transpose(t bool) int32 {
	if t {
		return 1
	}
	return 0
}

// layout describes a row-major matrix, to cuBLASLt a column-major one of cols rows.
func (p *Prepared) layout(to *uintptr, t DType, rows, cols, ld int) error {
	return p.blas.do(&p.blas.lib.matrixLayoutCreate, uintptr(unsafe.Pointer(to)), uintptr(t.cuda()), uintptr(cols), uintptr(rows), uintptr(ld))
}

func (p *Prepared) setPointer(attribute uintptr, to Ptr) error {
	return p.blas.do(&p.blas.lib.matmulDescSetAttribute, p.operation, attribute, uintptr(unsafe.Pointer(&to)), 8)
}

// destroy frees the descriptions that there are.
func (p *Prepared) destroy() error {
	p.closed = true
	lib := p.blas.lib
	var err error
	if p.layoutC == p.layoutD {
		p.layoutC = 0
	}
	for _, l := range []*uintptr{&p.layoutA, &p.layoutB, &p.layoutC, &p.layoutD} {
		if *l != 0 {
			err = errors.Join(err, p.blas.do(&lib.matrixLayoutDestroy, *l))
			*l = 0
		}
	}
	if p.operation != 0 {
		err = errors.Join(err, p.blas.do(&lib.matmulDescDestroy, p.operation))
		p.operation = 0
	}
	return err
}

// choose finds the algorithm.
func (p *Prepared) choose() error {
	lock := p.blas.lock
	if lock == nil || p.product.Dynamic {
		return p.first()
	}
	where, name := p.blas.where, p.product.String()
	known := func() (ok bool) {
		if !lock.Anew {
			p.algorithm, ok = lock.find(where, name, p.usable)
		}
		if ok {
			p.origin = "lock"
		}
		return ok
	}
	if known() {
		return nil
	}
	if lock.Tune {
		lock.choosing()
		if known() { // by another process, meanwhile
			return nil
		}
		err := p.time()
		var full *OutOfMemoryError
		if err == nil || !errors.As(err, &full) {
			return err
		}
		// Without room to time in, the first is a good choice, but no measured one.
		p.blas.timings = append(p.blas.timings, Timing{Product: p.product})
	}
	if err := p.first(); err != nil {
		return err
	}
	lock.put(where, name, p.algorithm, 0)
	return nil
}

// first takes the heuristic's first choice.
func (p *Prepared) first() error {
	if p.product.owned() {
		p.algorithm, p.origin = p.rivals[0].algorithm(), "heuristic"
		return nil
	}
	found, err := p.candidates(1)
	if err != nil {
		return err
	}
	p.algorithm, p.origin = found[0].algorithm, "heuristic"
	return nil
}

// time takes the fastest of the heuristic's choices, for the lock to keep.
func (p *Prepared) time() error {
	var found []heuristicResult
	if !p.product.owned() {
		var err error
		if found, err = p.candidates(maxCandidates); err != nil {
			return err
		}
	}
	for i := range p.rivals {
		found = append(found, heuristicResult{algorithm: p.rivals[i].algorithm()})
	}
	best, first, took, err := p.fastest(found)
	if err != nil {
		return err
	}
	p.algorithm, p.origin = found[best].algorithm, "timed"
	p.blas.timings = append(p.blas.timings, Timing{Product: p.product, Candidates: len(found), Chosen: best + 1, First: first, Took: took})
	p.blas.lock.put(p.blas.where, p.product.String(), p.algorithm, took)
	return nil
}

// usable reports whether cuBLASLt takes an algorithm for the product, within the workspace there is, or the program has the
// kernel that it stands for.
func (p *Prepared) usable(a algorithm) bool {
	if r, ok := p.rival(&a); r != nil || !ok {
		return ok
	}
	x := struct {
		algorithm algorithm
		result    heuristicResult
	}{algorithm: a}
	err := p.blas.do(&p.blas.lib.algoCheck, p.blas.handle, p.operation, p.layoutB, p.layoutA, p.layoutC, p.layoutD,
		uintptr(unsafe.Pointer(&x.algorithm)), uintptr(unsafe.Pointer(&x.result)))
	return err == nil && x.result.workspace <= uint64(p.blas.bytes)
}

// candidates asks the heuristic for algorithms, the one it expects to be fastest first: at least one.
func (p *Prepared) candidates(most int) ([]heuristicResult, error) {
	lib := p.blas.lib
	var preference uintptr
	if err := p.blas.do(&lib.preferenceCreate, uintptr(unsafe.Pointer(&preference))); err != nil {
		return nil, err
	}
	set := func(attribute uintptr, value uint64, bytes uintptr) error { // little-endian: a short value is the first bytes
		return p.blas.do(&lib.preferenceSetAttribute, preference, attribute, uintptr(unsafe.Pointer(&value)), bytes)
	}
	err := errors.Join(
		set(prefWorkspace, uint64(p.blas.bytes), 8),
		set(prefReduction, reductionInCompute, 4),
	)
	for attribute := uintptr(prefAlignA); attribute <= prefAlignD; attribute++ {
		element := p.product.A // B's too
		if attribute > prefAlignA+1 {
			element = p.product.D // C's too
		}
		err = errors.Join(err, set(attribute, uint64(max(p.product.Align, element.Size())), 4))
	}
	results := make([]heuristicResult, most)
	var n int32
	if err == nil {
		err = p.blas.do(&lib.algoGetHeuristic, p.blas.handle, p.operation, p.layoutB, p.layoutA, p.layoutC, p.layoutD, preference,
			uintptr(most), uintptr(unsafe.Pointer(&results[0])), uintptr(unsafe.Pointer(&n)))
		if isStatus(err, statusNotSupported) {
			err, n = nil, 0
		}
	}
	if err = errors.Join(err, p.blas.do(&lib.preferenceDestroy, preference)); err != nil {
		return nil, err
	}
	var good []heuristicResult
	for _, r := range results[:min(max(int(n), 0), most)] {
		if r.state == 0 && r.workspace <= uint64(p.blas.bytes) {
			good = append(good, r)
		}
	}
	if len(good) == 0 {
		note := ""
		if p.product.Epilogue.info().bias && p.product.Bias != p.product.D {
			note = "; it adds a bias of the type of D only"
		}
		return nil, fmt.Errorf("cuBLASLt %s has no algorithm for it%s", p.blas.lib.versionText(), note)
	}
	return good, nil
}

// check says what is wrong with the addresses of a product.
func (p *Prepared) check(c *Context, o operands) error {
	if p == nil || p.closed || p.blas.ctx != c {
		return errors.New("product that is not prepared, is dropped, or is of another context")
	}
	e := p.product.Epilogue.info()
	switch {
	case o.d == 0 || o.a == 0 || o.b == 0:
		return fmt.Errorf("%s: address 0 of D, A or B", &p.info)
	case e.bias != (o.bias != 0) || p.product.aux() != (o.aux != 0):
		return fmt.Errorf("%s: bias at %#x, aux at %#x", &p.info, uint64(o.bias), uint64(o.aux))
	case p.product.Sums != (o.sums != 0):
		return fmt.Errorf("%s: sums at %#x", &p.info, uint64(o.sums))
	case p.product.quantizes() != (o.quantized.Transposed != 0) || p.product.quantizes() != (o.quantized.Scale != 0) || p.product.quantizes() != (o.quantized.History != 0):
		return fmt.Errorf("%s: transpose at %#x, scale at %#x, history at %#x", &p.info, uint64(o.quantized.Transposed), uint64(o.quantized.Scale), uint64(o.quantized.History))
	case p.product.scaled() != (o.scaleA != 0) || p.product.scaled() != (o.scaleB != 0):
		return fmt.Errorf("%s: factors of A at %#x, of B at %#x", &p.info, uint64(o.scaleA), uint64(o.scaleB))
	case (o.scaleA|o.scaleB)%eightBitSide != 0: // for which cuBLASLt says that the product is not supported
		return fmt.Errorf("%s: factors of A at %#x, of B at %#x: not all multiples of %d bytes", &p.info, uint64(o.scaleA), uint64(o.scaleB), eightBitSide)
	case o.c == o.d && p.layoutC != p.layoutD:
		return fmt.Errorf("%s: C is D, but LDC is not LDD", &p.info)
	case (o.d|o.a|o.b|o.c|o.bias|o.aux|o.quantized.Transposed)&Ptr(p.product.Align-1) != 0:
		return fmt.Errorf("%s: D at %#x, A at %#x, B at %#x, C at %#x, bias at %#x, aux at %#x: not all multiples of %d bytes",
			&p.info, uint64(o.d), uint64(o.a), uint64(o.b), uint64(o.c), uint64(o.bias), uint64(o.aux), p.product.Align)
	}
	return nil
}

// point writes the addresses of bias, aux and factors to the description of the operation, where they are others than before.
func (p *Prepared) point(s *Stream, o operands) error {
	for _, x := range [...]struct {
		held      *Ptr
		to        Ptr
		attribute uintptr
	}{{&p.bias, o.bias, descBiasPointer}, {&p.aux, o.aux, descAuxPointer}, {&p.scaleB, o.scaleB, descScaleA}, {&p.scaleA, o.scaleA, descScaleB}} {
		if *x.held == x.to {
			continue
		}
		if err := s.setPointer(p, x.attribute, x.to); err != nil {
			return err
		}
		*x.held = x.to
	}
	return nil
}

// setPointer is Prepared.setPointer without allocation.
func (s *Stream) setPointer(p *Prepared, attribute uintptr, to Ptr) error {
	x := s.scratch
	x.values[0] = to
	x.args[0], x.args[1], x.args[2], x.args[3] = p.operation, attribute, uintptr(unsafe.Pointer(&x.values[0])), 8
	code, err := s.invoke(&p.blas.lib.matmulDescSetAttribute, 4)
	if code != 0 {
		return p.blas.lib.check(&p.blas.lib.matmulDescSetAttribute, code)
	}
	return err
}
