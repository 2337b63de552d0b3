package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// The tests of the kernels compare with plain float64 code and its central differences. Operands are columns of a wider
// matrix; what lies beside them, outputs and working memory are NaN to begin with.

var nan = float32(math.NaN())

func fill(x []float32, v float32) {
	for i := range x {
		x[i] = v
	}
}

func randoms(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// poisoned returns a matrix of NaN amid NaN.
func poisoned(rows, cols int) Mat {
	stride := cols + 5
	data := make([]float32, rows*stride)
	fill(data, nan)
	return Mat{Data: data, Rows: rows, Cols: stride, Stride: stride}.Columns(2, 2+cols)
}

// normal returns a matrix of random numbers amid NaN.
func normal(r *rand.Rand, rows, cols int) Mat {
	m := poisoned(rows, cols)
	for i := range rows {
		copy(m.Row(i), randoms(r, cols))
	}
	return m
}

// copyOf returns a matrix like m with memory of its own.
func copyOf(m Mat) Mat {
	m.Data = append([]float32(nil), m.Data...)
	return m
}

func wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// dense returns the elements of m in float64, row by row.
func dense(m Mat) []float64 {
	var y []float64
	for r := range m.Rows {
		y = append(y, wide(m.Row(r))...)
	}
	return y
}

// near fails unless got is want within tol of the larger of want and 1.
func near(t *testing.T, what string, got, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		if got[i] == want[i] { // infinities
			continue
		}
		if d := math.Abs(got[i] - want[i]); !(d <= tol*max(1, math.Abs(want[i]))) {
			t.Fatalf("%s: element %d is %.9g, want %.9g", what, i, got[i], want[i])
		}
	}
}

// slopes checks grad, the gradient of loss with respect to x, by central differences along single elements and along
// random directions.
func slopes(t *testing.T, what string, r *rand.Rand, x, grad []float64, loss func() float64) {
	t.Helper()
	const h = 1e-5
	saved := append([]float64(nil), x...)
	along := func(u []float64) {
		t.Helper()
		at := func(step float64) float64 {
			for i := range x {
				x[i] = saved[i] + step*u[i]
			}
			defer copy(x, saved)
			return loss()
		}
		want := (at(h) - at(-h)) / (2 * h)
		got, size := 0.0, 0.0
		for i := range u {
			got += grad[i] * u[i]
			size += math.Abs(grad[i] * u[i])
		}
		if !(math.Abs(got-want) <= 1e-5*(2+size)) {
			t.Fatalf("%s: slope is %.9g, want %.9g", what, got, want)
		}
	}
	u := make([]float64, len(x))
	for range 3 {
		i := r.IntN(len(x))
		u[i] = 1
		along(u)
		u[i] = 0
	}
	for range 2 {
		for i := range u {
			u[i] = r.NormFloat64()
		}
		along(u)
	}
}

// weighted returns the sum of dy*y.
func weighted(dy, y []float64) (sum float64) {
	for i := range y {
		sum += dy[i] * y[i]
	}
	return sum
}

// sameOnAnyPool runs kernel on pools of one to three workers. It fails if outputs differ by a bit, or if every run
// allocates. kernel must write the outputs anew each time.
func sameOnAnyPool(t *testing.T, kernel func(p *Pool), outputs ...[]float32) {
	t.Helper()
	var want [][]float32
	for workers := 1; workers <= 3; workers++ {
		p := NewPool(workers)
		for _, s := range p.scratch {
			fill(s.floats(1<<16), nan)
		}
		for _, out := range outputs {
			fill(out, nan)
		}
		kernel(p)
		for o, out := range outputs {
			if workers == 1 {
				want = append(want, append([]float32(nil), out...))
				continue
			}
			for i := range out {
				if math.Float32bits(out[i]) != math.Float32bits(want[o][i]) {
					t.Fatalf("%d workers: output %d, element %d is %v, with one worker %v", workers, o, i, out[i], want[o][i])
				}
			}
		}
		for try := 1; testing.AllocsPerRun(1, func() { kernel(p) }) != 0; try++ { // a worker may have had no part until now
			if try == 10 {
				t.Fatalf("%d workers: run %d still allocates", workers, try)
			}
		}
		p.Close()
	}
}

// shapes of row-wise kernels: rows × columns.
var shapes = [][2]int{{1, 1}, {1, 7}, {2, 4}, {31, 12}, {33, 64}, {65, 80}, {200, 130}, {3, 9000}}

func eachShape(t *testing.T, f func(t *testing.T, r *rand.Rand, rows, cols int)) {
	for i, s := range shapes {
		t.Run(fmt.Sprintf("%dx%d", s[0], s[1]), func(t *testing.T) { f(t, rand.New(rand.NewPCG(uint64(i), 1)), s[0], s[1]) })
	}
}
