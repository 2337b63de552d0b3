package cpu

// The element-wise vector kernels. Each function reports whether the active variant has its kernel, and if so has done
// all of the row: a tail shorter than a register goes through a full one, so that what an element becomes does not
// depend on where in the row it is. The switches, unlike tables, let the compiler keep the tails on the stack.

func expVector(dst, x []float32, shift float32, sums *[sumLanes]float32) bool {
	if active.rows == rowsPlain {
		return false
	}
	n := len(x) &^ (rowStep - 1)
	if n > 0 {
		expWhole(&dst[0], &x[0], n, shift, sums)
	}
	if n < len(x) {
		var tail [rowStep]float32
		m := copy(tail[:], x[n:])
		for i := m; i < rowStep; i++ {
			tail[i] = -inf // adds 0
		}
		expWhole(&tail[0], &tail[0], rowStep, shift, sums)
		copy(dst[n:], tail[:m])
	}
	return true
}

func expWhole(dst, x *float32, n int, shift float32, sums *[sumLanes]float32) {
	if active.rows == rowsAVX512 {
		expAVX512(dst, x, n, shift, sums)
	} else {
		expAVX2(dst, x, n, shift, sums)
	}
}

func tanhVector(dst, x []float32, in, out float32) bool {
	if active.rows == rowsPlain {
		return false
	}
	n := len(x) &^ (rowStep - 1)
	if n > 0 {
		tanhWhole(&dst[0], &x[0], n, in, out)
	}
	if n < len(x) {
		var tail [rowStep]float32
		copy(tail[:], x[n:])
		tanhWhole(&tail[0], &tail[0], rowStep, in, out)
		copy(dst[n:], tail[:len(x)-n])
	}
	return true
}

func tanhWhole(dst, x *float32, n int, in, out float32) {
	if active.rows == rowsAVX512 {
		tanhAVX512(dst, x, n, in, out)
	} else {
		tanhAVX2(dst, x, n, in, out)
	}
}

func applyVector(act Activation, y, x []float32) bool {
	if active.rows == rowsPlain || act == None {
		return false
	}
	n := len(x) &^ (rowStep - 1)
	if n > 0 {
		applyWhole(act, &y[0], &x[0], n)
	}
	if n < len(x) {
		var tail [rowStep]float32
		copy(tail[:], x[n:])
		applyWhole(act, &tail[0], &tail[0], rowStep)
		copy(y[n:], tail[:])
	}
	return true
}

func applyWhole(act Activation, y, x *float32, n int) {
	wide := active.rows == rowsAVX512
	switch {
	case act == GELU && wide:
		geluAVX512(y, x, n)
	case act == GELU:
		geluAVX2(y, x, n)
	case act == GELUTanh && wide:
		geluTanhAVX512(y, x, n)
	case act == GELUTanh:
		geluTanhAVX2(y, x, n)
	case act == ReLU && wide:
		reluAVX512(y, x, n)
	case act == ReLU:
		reluAVX2(y, x, n)
	case act == ReLU2 && wide:
		relu2AVX512(y, x, n)
	case act == ReLU2:
		relu2AVX2(y, x, n)
	case act == SiLU && wide:
		siluAVX512(y, x, n)
	case act == SiLU:
		siluAVX2(y, x, n)
	}
}

func gradVector(act Activation, dx, dy, x []float32) bool {
	if active.rows == rowsPlain || act == None {
		return false
	}
	n := len(x) &^ (rowStep - 1)
	if n > 0 {
		gradWhole(act, &dx[0], &dy[0], &x[0], n)
	}
	if n < len(x) {
		var tail, dtail [rowStep]float32
		copy(tail[:], x[n:])
		copy(dtail[:], dy[n:])
		gradWhole(act, &dtail[0], &dtail[0], &tail[0], rowStep)
		copy(dx[n:], dtail[:len(x)-n])
	}
	return true
}

func gradWhole(act Activation, dx, dy, x *float32, n int) {
	wide := active.rows == rowsAVX512
	switch {
	case act == GELU && wide:
		geluGradAVX512(dx, dy, x, n)
	case act == GELU:
		geluGradAVX2(dx, dy, x, n)
	case act == GELUTanh && wide:
		geluTanhGradAVX512(dx, dy, x, n)
	case act == GELUTanh:
		geluTanhGradAVX2(dx, dy, x, n)
	case act == ReLU && wide:
		reluGradAVX512(dx, dy, x, n)
	case act == ReLU:
		reluGradAVX2(dx, dy, x, n)
	case act == ReLU2 && wide:
		relu2GradAVX512(dx, dy, x, n)
	case act == ReLU2:
		relu2GradAVX2(dx, dy, x, n)
	case act == SiLU && wide:
		siluGradAVX512(dx, dy, x, n)
	case act == SiLU:
		siluGradAVX2(dx, dy, x, n)
	}
}

// The kernels below round each element as plain Go does, or are followed by plain Go on the tail alone; they return
// how many leading elements they have done.

func addVector(dst, x, y []float32) int {
	n := len(dst) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		addAVX512(&dst[0], &x[0], &y[0], n)
	default:
		addAVX2(&dst[0], &x[0], &y[0], n)
	}
	return n
}

func mulVector(dst, x, y []float32) int {
	n := len(dst) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		mulAVX512(&dst[0], &x[0], &y[0], n)
	default:
		mulAVX2(&dst[0], &x[0], &y[0], n)
	}
	return n
}

func mulLessVector(dst, x, y []float32, shift float32) int {
	n := len(dst) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		mulLessAVX512(&dst[0], &x[0], &y[0], n, shift)
	default:
		mulLessAVX2(&dst[0], &x[0], &y[0], n, shift)
	}
	return n
}

func scaleVector(dst, x []float32, factor float32) int {
	n := len(dst) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		scaleAVX512(&dst[0], &x[0], n, factor)
	default:
		scaleAVX2(&dst[0], &x[0], n, factor)
	}
	return n
}

func ropeVector(y1, y2, x1, x2, cos, sin []float32, inverse bool) int {
	n := len(y1) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		ropeAVX512(&y1[0], &y2[0], &x1[0], &x2[0], &cos[0], &sin[0], n, inverse)
	default:
		ropeAVX2(&y1[0], &y2[0], &x1[0], &x2[0], &cos[0], &sin[0], n, inverse)
	}
	return n
}

func normaliseVector(y, x, w []float32, mean, rstd, offset float32) int {
	n := len(y) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		normaliseAVX512(&y[0], &x[0], &w[0], n, mean, rstd, offset)
	default:
		normaliseAVX2(&y[0], &x[0], &w[0], n, mean, rstd, offset)
	}
	return n
}

func normGradSumsVector(dw, dy, x, w []float32, mean, rstd, offset float32, e, eh *[sumLanes]float64) int {
	n := len(dw) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		normGradSumsAVX512(&dw[0], &dy[0], &x[0], &w[0], n, mean, rstd, offset, e, eh)
	default:
		normGradSumsAVX2(&dw[0], &dy[0], &x[0], &w[0], n, mean, rstd, offset, e, eh)
	}
	return n
}

func normGradVector(dst, dy, x, w []float32, mean, rstd, offset, meanE, meanEH float32) int {
	n := len(dst) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		normGradAVX512(&dst[0], &dy[0], &x[0], &w[0], n, mean, rstd, offset, meanE, meanEH)
	default:
		normGradAVX2(&dst[0], &dy[0], &x[0], &w[0], n, mean, rstd, offset, meanE, meanEH)
	}
	return n
}

func squaresVector(x []float32, mean float64, sums *[sumLanes]float64) int {
	n := len(x) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		squaresAVX512(&x[0], n, mean, sums)
	default:
		squaresAVX2(&x[0], n, mean, sums)
	}
	return n
}

func dot64Vector(x, y []float32, sums *[sumLanes]float64) int {
	n := len(x) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		dot64AVX512(&x[0], &y[0], n, sums)
	default:
		dot64AVX2(&x[0], &y[0], n, sums)
	}
	return n
}

func adamwVector(w, g, m, v []float32, f *[9]float32) int {
	n := len(w) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		adamwAVX512(&w[0], &g[0], &m[0], &v[0], n, f)
	default:
		adamwAVX2(&w[0], &g[0], &m[0], &v[0], n, f)
	}
	return n
}

func maxVector(x []float32) (top float32, done int) {
	n := len(x) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return -inf, 0
	case active.rows == rowsAVX512:
		top = maxAVX512(&x[0], n)
	default:
		top = maxAVX2(&x[0], n)
	}
	return top, n
}

func roundBF16Vector(x []float32) int {
	n := len(x) &^ (rowStep - 1)
	switch {
	case active.rows == rowsPlain || n == 0:
		return 0
	case active.rows == rowsAVX512:
		roundBF16AVX512(&x[0], n)
	default:
		roundBF16AVX2(&x[0], n)
	}
	return n
}

// readFloats is what the kernels that read take in a step.
const readFloats = 64

// readVector reads all of x, a multiple of readFloats.
func readVector(x, sum []float32) {
	switch {
	case len(x) == 0:
	case active.rows == rowsAVX512:
		readAVX512(&x[0], len(x), &sum[0])
	case active.rows == rowsAVX2:
		readAVX2(&x[0], len(x), &sum[0])
	default:
		readPlain(x, sum)
	}
}

// multiplyAdds lists the kinds of multiply-adds that this machine has.
func multiplyAdds() []multiplyAdd {
	var list []multiplyAdd
	for _, v := range variants() {
		switch v {
		case amx:
			list = append(list, multiplyAdd{Rate{Type: "bf16", Width: 8192}, multiplyAddsAMX, 4 * 16 * 16 * 32 * 2})
		case avx512bf16:
			list = append(list, multiplyAdd{Rate{Type: "bf16", Width: 512}, multiplyAddsBF16, 12 * 32 * 2})
		case avx512:
			list = append(list, multiplyAdd{Rate{Type: "f32", Width: 512}, multiplyAddsAVX512, 12 * 16 * 2})
		case avx2:
			list = append(list, multiplyAdd{Rate{Type: "f32", Width: 256}, multiplyAddsAVX2, 12 * 8 * 2})
		}
	}
	if len(list) == 0 {
		list = append(list, plainMultiplyAdd)
	}
	return list
}

// columnSumsVector adds the rows of x to sum and returns how many leading columns it has done.
func columnSumsVector(sum []float32, x Mat) int {
	each, kernel := 128, columnSumsAVX512
	switch {
	case active.rows == rowsPlain || x.Rows == 0:
		return 0
	case active.rows == rowsAVX2:
		each, kernel = 64, columnSumsAVX2
	}
	at := 0
	for ; at+each <= len(sum); at += each {
		kernel(&sum[at], &x.Data[at], x.Rows, x.Stride*4)
	}
	return at
}

// fetch asks for rows that are read or written soon, and lie apart: a processor sees no stream in them, and would wait for each.
func fetch(m Mat) {
	if m.Rows > 0 && m.Cols > 0 {
		fetchRows(&m.Data[0], m.Rows, m.Stride*4, m.Cols*4)
	}
}
