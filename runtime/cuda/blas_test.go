package cuda_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// matrix is a row-major matrix on the device and its values here.
type matrix struct {
	rows, cols, ld int
	dtype          cuda.DType
	at             cuda.Ptr
	values         []float64 // [rows, ld]; those between the rows are NaN
}

func (m *matrix) get(r, c int, transposed bool) float64 {
	if transposed {
		r, c = c, r
	}
	return m.values[r*m.ld+c]
}

// encode returns x in a type, bf16 rounded to nearest even; halves are of numbers that they hold exactly.
func encode(x []float64, d cuda.DType) []byte {
	var b []byte
	for _, v := range x {
		switch bits := math.Float32bits(float32(v)); d {
		case cuda.BF16:
			if v == v {
				bits += 0x7fff + bits>>16&1
			}
			b = binary.LittleEndian.AppendUint16(b, uint16(bits>>16))
		case cuda.F16:
			h := uint16(bits>>16) & 0x8000
			switch {
			case v != v:
				h = 0x7e00
			case v != 0:
				h |= uint16(bits>>23&0xff-127+15)<<10 | uint16(bits>>13)&0x3ff
			}
			b = binary.LittleEndian.AppendUint16(b, h)
		case cuda.E4M3:
			b = append(b, eightBits(v, 3, 7))
		case cuda.E5M2:
			b = append(b, eightBits(v, 2, 15))
		default:
			b = binary.LittleEndian.AppendUint32(b, bits)
		}
	}
	return b
}

// eightBits encodes a normal number, 0 or NaN in 8 bits, so many of which are behind the first.
func eightBits(v float64, fraction, bias int) byte {
	f, exp := math.Frexp(math.Abs(v)) // f in [0.5, 1)
	b := byte(exp-1+bias)<<fraction | byte(math.Ldexp(f, fraction+1))&(1<<fraction-1)
	switch {
	case v != v:
		return 0x7f
	case v == 0:
		return 0
	case v < 0:
		b |= 0x80
	}
	return b
}

func decode(b []byte, d cuda.DType) []float64 {
	x := make([]float64, len(b)/d.Size())
	for i := range x {
		switch d {
		case cuda.BF16:
			x[i] = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16))
		case cuda.F16:
			h := binary.LittleEndian.Uint16(b[2*i:])
			v := math.Ldexp(float64(h&0x3ff|0x400), int(h>>10&0x1f)-25)
			switch h >> 10 & 0x1f {
			case 0:
				v = math.Ldexp(float64(h&0x3ff), -24)
			case 0x1f:
				v = math.NaN()
			}
			x[i] = math.Copysign(v, float64(int16(h)))
			if h&0x7fff == 0 {
				x[i] = 0
			}
		default:
			x[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		}
	}
	return x
}

// newMatrix fills a matrix with small multiples of 1/8, which all types hold.
func newMatrix(t testing.TB, c *cuda.Context, random *rand.Rand, rows, cols, ld int, d cuda.DType) *matrix {
	m := &matrix{rows: rows, cols: cols, ld: max(ld, cols), dtype: d}
	m.values = make([]float64, rows*m.ld)
	for i := range m.values {
		m.values[i] = float64(random.IntN(17)-8) / 8
		if i%m.ld >= cols {
			m.values[i] = math.NaN()
		}
	}
	m.at = must(c.Alloc(len(m.values) * d.Size()))(t)
	check(t, c.Upload(m.at, encode(m.values, d)))
	return m
}

func (m *matrix) download(t testing.TB, c *cuda.Context) []float64 {
	b := make([]byte, len(m.values)*m.dtype.Size())
	check(t, c.Download(b, m.at))
	return decode(b, m.dtype)
}

func newBLAS(t testing.TB, c *cuda.Context, lock *cuda.Lock) *cuda.BLAS {
	t.Helper()
	const bytes = 1 << 20
	return must(c.NewBLAS(must(c.Alloc(bytes))(t), bytes, lock))(t)
}

const geluScale = 0.79788456080286535588 // √(2/π)

func gelu(x float64) float64 { return x * (1 + math.Tanh(geluScale*(x+0.044715*x*x*x))) / 2 }

func geluSlope(x float64) float64 {
	th := math.Tanh(geluScale * (x + 0.044715*x*x*x))
	return (1+th)/2 + x*(1-th*th)*geluScale*(1+3*0.044715*x*x)/2
}

func TestProducts(t *testing.T) {
	newFake(t)
	c := open(t)
	if without := testProducts(t, c, 1e-5); len(without) > 0 {
		t.Errorf("no algorithm for %v", without)
	}
}

// testProducts holds products of every kind to sums in float64. precision is that of GELU in float. It returns those that
// the library has no algorithm for.
func testProducts(t *testing.T, c *cuda.Context, precision float64) (without []string) {
	b := newBLAS(t, c, nil)
	s := must(c.NewStream())(t)
	random := rand.New(rand.NewPCG(1, 1))
	sizes := []int{1, 7, 8, 33}
	for i := range 400 {
		p := cuda.Product{M: sizes[random.IntN(4)], N: sizes[random.IntN(4)], K: sizes[random.IntN(4)],
			TransA: random.IntN(2) == 0, TransB: random.IntN(2) == 0, About: fmt.Sprintf("case %d", i)}
		p.A = []cuda.DType{cuda.BF16, cuda.F16, cuda.F32}[random.IntN(3)]
		p.B, p.D = p.A, p.A
		if random.IntN(2) == 0 {
			p.D = cuda.F32
		}
		if p.A == cuda.F32 && random.IntN(2) == 0 {
			p.Compute = cuda.ComputeTF32
		}
		p.Epilogue = cuda.Epilogue(random.IntN(7))
		p.Beta = []float32{0, 0, 1, -0.5}[random.IntN(4)]
		needsAux := slices.Contains([]cuda.Epilogue{cuda.EpilogueGELUAux, cuda.EpilogueGELUAuxBias, cuda.EpilogueDGELU}, p.Epilogue)
		needsBias := slices.Contains([]cuda.Epilogue{cuda.EpilogueBias, cuda.EpilogueGELUBias, cuda.EpilogueGELUAuxBias}, p.Epilogue)
		ld := func(row int) int { return row + []int{0, 0, 3}[random.IntN(3)] }
		shape := func(rows, cols int, transposed bool) (int, int) {
			if transposed {
				return cols, rows
			}
			return rows, cols
		}
		rowsA, colsA := shape(p.M, p.K, p.TransA)
		rowsB, colsB := shape(p.K, p.N, p.TransB)
		p.LDA, p.LDB, p.LDD = ld(colsA), ld(colsB), ld(p.N)
		a := newMatrix(t, c, random, rowsA, colsA, p.LDA, p.A)
		bb := newMatrix(t, c, random, rowsB, colsB, p.LDB, p.B)
		d := newMatrix(t, c, random, p.M, p.N, p.LDD, p.D)
		old, cc := d, cuda.Ptr(0) // C is D, unless it is apart
		if p.Beta != 0 && random.IntN(2) == 0 {
			p.LDC = ld(p.N)
			old = newMatrix(t, c, random, p.M, p.N, p.LDC, p.D)
			cc = old.at
		}
		var bias, aux *matrix
		var biasAt, auxAt cuda.Ptr
		if needsBias {
			bias = newMatrix(t, c, random, 1, p.N, p.N, p.D)
			biasAt = bias.at
		}
		if needsAux {
			p.LDAux = (p.N + 7) &^ 7
			aux = newMatrix(t, c, random, p.M, p.N, p.LDAux, p.D)
			auxAt = aux.at
		}
		alpha := float32([]float64{1, 0.25}[random.IntN(2)])
		prepared, err := b.Prepare(p)
		if err != nil && strings.Contains(err.Error(), "has no algorithm for it") {
			without = append(without, p.String())
			continue
		}
		check(t, err)
		if prepared.Origin() != "heuristic" {
			t.Error(prepared.Origin())
		}
		s.Multiply(prepared, d.at, a.at, bb.at, cc, biasAt, auxAt, alpha)
		check(t, s.Sync())
		got := d.download(t, c)
		var gotAux []float64
		if needsAux {
			gotAux = aux.download(t, c)
		}
		tolerance := map[cuda.DType]float64{cuda.BF16: 1.0 / 128, cuda.F16: 1.0 / 1024, cuda.F32: 1e-5}[p.D]
		if p.Epilogue >= cuda.EpilogueGELU {
			tolerance = max(tolerance, precision)
		}
		near := func(what string, r, col int, got, want float64) {
			if !(math.Abs(got-want) <= tolerance*(1+math.Abs(want))) {
				t.Fatalf("%+v, alpha %g: %s[%d,%d] is %g, not %g", p, alpha, what, r, col, got, want)
			}
		}
		for r := range p.M {
			for col := range d.ld {
				at := r*d.ld + col
				if col >= p.N {
					if !math.IsNaN(got[at]) {
						t.Fatalf("%+v: wrote between the rows of D", p)
					}
					continue
				}
				x := 0.0
				for k := range p.K {
					x += a.get(r, k, p.TransA) * bb.get(k, col, p.TransB)
				}
				x *= float64(alpha)
				if p.Beta != 0 {
					x += float64(p.Beta) * old.get(r, col, false)
				}
				if needsBias {
					x += bias.values[col]
				}
				switch p.Epilogue {
				case cuda.EpilogueGELUAux, cuda.EpilogueGELUAuxBias:
					near("aux", r, col, gotAux[r*aux.ld+col], x)
					x = gelu(x)
				case cuda.EpilogueGELU, cuda.EpilogueGELUBias:
					x = gelu(x)
				case cuda.EpilogueDGELU:
					x *= geluSlope(aux.get(r, col, false))
				}
				near("D", r, col, got[at], x)
			}
		}
		for _, m := range []*matrix{a, bb, d, bias, aux} {
			if m != nil {
				check(t, c.Free(m.at))
			}
		}
		if old != d {
			check(t, c.Free(old.at))
		}
	}
	return without
}

var linear = cuda.Product{M: 16, N: 24, K: 32, TransB: true, A: cuda.BF16, B: cuda.BF16, D: cuda.BF16, Epilogue: cuda.EpilogueBias, About: "linear qkv, a.yaml:7"}

// TestTuning has products timed once, and the lock remember.
func TestTuning(t *testing.T) {
	f := newFake(t)
	path := filepath.Join(t.TempDir(), "products.lock")
	// prepare returns the origin of linear's algorithm, as a program that starts anew gets it, and calls of a function.
	prepare := func(tune bool, function string) (origin string, calls int) {
		c := must(cuda.Open(0))(t)
		lock := cuda.OpenLock(path, "")
		lock.Tune = tune
		b := newBLAS(t, c, lock)
		before := f.Count(function)
		p := must(b.Prepare(linear))(t)
		origin, calls = p.Origin(), f.Count(function)-before
		lock.Save()
		check(t, c.Close())
		if leaks := f.Leaks(); len(leaks) > 0 {
			t.Errorf("leaks: %v", leaks)
		}
		return origin, calls
	}
	expect := func(what string, tune bool, origin string) {
		t.Helper()
		if got, _ := prepare(tune, "cublasLtMatmul"); got != origin {
			t.Errorf("%s: the algorithm is by %s, not %s", what, got, origin)
		}
	}
	expect("no lock, no tuning", false, "heuristic")
	expect("the heuristic's choice stays the run's", true, "lock")
	check(t, os.Remove(path))
	f.Set("pace0", 104) // the third takes the least, the others are near
	f.Set("pace2", 95)
	origin, calls := prepare(true, "cublasLtMatmul")
	if origin != "timed" || calls < 3*3 {
		t.Errorf("%s after %d products", origin, calls)
	}
	text := string(must(os.ReadFile(path))(t))
	if !strings.Contains(text, "Simulated GPU 9.0, cuBLASLt 13.0.0") || !strings.Contains(text, "m=16 n=24 k=32 nt") {
		t.Errorf("the lock has no entry:\n%s", text)
	}
	for _, tune := range []bool{true, false} {
		if origin, calls := prepare(tune, "cublasLtMatmulAlgoGetHeuristic"); origin != "lock" || calls != 0 {
			t.Errorf("%s after %d calls of the heuristic", origin, calls)
		}
	}
	// Another version of the library does not use the entry, and adds its own.
	renew(f)
	f.Set("blaslt", 120804)
	expect("another version", true, "timed")
	expect("another version again", true, "lock")
	renew(f)
	expect("the first version", false, "lock")
	// An entry that the library refuses is replaced. The fake's algorithms have their number in the second word.
	lock := string(must(os.ReadFile(path))(t))
	renew(f)
	f.Set("algorithms", 0)
	c := must(cuda.Open(0))(t)
	_, err := newBLAS(t, c, cuda.OpenLock(path, "")).Prepare(linear)
	wants(t, err, "linear qkv, a.yaml:7", "m=16 n=24 k=32", "cuBLASLt 13.0.0 has no algorithm for it")
	check(t, c.Close())
	renew(f)
	f.FailNth("cublasLtMatmulAlgoCheck", 1, 15)
	expect("refused", true, "timed")
	// So is damage.
	check(t, os.WriteFile(path, []byte(lock[:len(lock)/2]), 0o644))
	expect("damaged", true, "timed")
	expect("damaged and timed", true, "lock")
}

// TestTimedChoice holds the choice among candidates to what each takes on the device's clock, and the effort to its bounds.
func TestTimedChoice(t *testing.T) {
	f := newFake(t)
	for name, c := range map[string]struct {
		pace          []int // microseconds by algorithm, of which the heuristic proposes all
		chosen, calls int   // number of the algorithm, and products made or captured
	}{
		"the first":            {[]int{100, 104, 200}, 1, 3*2 + 2*3}, // two take part in rounds, each with a graph of 3
		"a later one":          {[]int{104, 100, 150, 90}, 4, 4 * 2}, // nothing is near it
		"a tie":                {[]int{1000, 995, 993}, 1, 3*2 + 3*1},
		"no tie":               {[]int{1000, 995, 985}, 3, 3*2 + 3*1},
		"one alone":            {[]int{500}, 1, 2},
		"much work":            {[]int{8000, 8000, 7000, 5000}, 3, 3 * 2}, // 46 ms are enough: the fourth is not tried
		"as few as can be":     {[]int{80000, 70000, 60000, 50000}, 3, 3 * 2},
		"quick ones are many":  {[]int{10, 10, 10, 10, 10, 10, 10, 9}, 8, 0},
		"those of no interest": {[]int{2000, 5000, 5000, 1990}, 1, 4*2 + 2*1},
	} {
		renew(f)
		f.Set("algorithms", len(c.pace))
		f.Set("flops", 1<<40) // the work of a product takes nothing, only its pace
		for i, us := range c.pace {
			f.Set(fmt.Sprintf("pace%d", i), us)
		}
		ctx := must(cuda.Open(0))(t)
		lock := cuda.OpenLock(filepath.Join(t.TempDir(), "products.lock"), "")
		lock.Tune = true
		b := newBLAS(t, ctx, lock)
		must(b.Prepare(linear))(t)
		calls := f.Count("cublasLtMatmul")
		timing := b.Timings()[0]
		if timing.Chosen != c.chosen || calls != c.calls && c.calls > 0 {
			t.Errorf("%s: choice %d after %d products, not %d after %d", name, timing.Chosen, calls, c.chosen, c.calls)
		}
		for what, d := range map[int]time.Duration{c.pace[0]: timing.First, c.pace[c.chosen-1]: timing.Took} {
			if us := float64(d) / float64(time.Microsecond); math.Abs(us-float64(what)) > 3 {
				t.Errorf("%s: %v instead of %d microseconds", name, d, what)
			}
		}
		check(t, ctx.Close())
	}
}

// TestTuningSkips has algorithms that fail left out of the choice, and no room to time in is no error.
func TestTuningSkips(t *testing.T) {
	f := newFake(t)
	tuner := func() *cuda.Lock {
		lock := cuda.OpenLock(filepath.Join(t.TempDir(), "products.lock"), "")
		lock.Tune = true
		return lock
	}
	c := open(t)
	b := newBLAS(t, c, tuner())
	f.FailNth("cublasLtMatmul", 1, 15)
	if p := must(b.Prepare(linear))(t); p.Origin() != "timed" {
		t.Error(p.Origin())
	}
	long := linear
	long.M, long.N, long.K = 8, 8, 1<<16 // its operands are more than is uploaded, the rest is copied
	if p := must(b.Prepare(long))(t); p.Origin() != "timed" || f.Count("cuMemcpyDtoDAsync_v2") == 0 {
		t.Error(p.Origin())
	}
	check(t, b.Close())
	b = newBLAS(t, c, tuner())
	for i := range 3 {
		f.FailNth("cublasLtMatmul", 1+i, 15)
	}
	_, err := b.Prepare(linear)
	wants(t, err, "no algorithm could be timed", "cublasLtMatmul: CUBLAS_STATUS_NOT_SUPPORTED: ")
	f.Set("memory", 3<<20) // both workspaces are 2 MiB
	big := linear
	big.M, big.K = 1024, 1024
	if p := must(b.Prepare(big))(t); p.Origin() != "heuristic" {
		t.Errorf("without room: %s", p.Origin())
	}
	check(t, c.Close())
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

// TestDynamic prepares products whose M changes: nothing is timed, what was prepared is there again, and not forever.
func TestDynamic(t *testing.T) {
	f := newFake(t)
	c := open(t)
	path := filepath.Join(t.TempDir(), "products.lock")
	lock := cuda.OpenLock(path, "")
	lock.Tune = true
	b := newBLAS(t, c, lock)
	s := must(c.NewStream())(t)
	x := must(c.Alloc(1 << 20))(t)
	product := func(m int) cuda.Product {
		p := linear
		p.M, p.Dynamic = m, true
		return p
	}
	first := must(b.Prepare(product(1)))(t)
	if n := f.Count("cublasLtMatmul"); n != 0 || first.Origin() != "heuristic" {
		t.Errorf("%d products were timed, the algorithm is by %s", n, first.Origin())
	}
	for m := 2; m <= 1024; m++ {
		must(b.Prepare(product(m)))(t)
	}
	before := f.Count("cublasLtMatmulAlgoGetHeuristic")
	if again := must(b.Prepare(product(1)))(t); again != first || f.Count("cublasLtMatmulAlgoGetHeuristic") != before {
		t.Error("a product was prepared twice")
	}
	if n := allocations(100, func() { _, _ = b.Prepare(product(7)) }); n != 0 {
		t.Errorf("a product prepared already allocates %g times", n)
	}
	s.Multiply(first, x, x, x, 0, x, 0, 1)
	check(t, s.Sync())
	for m := 1025; m <= 1030; m++ {
		must(b.Prepare(product(m)))(t)
	}
	if again := must(b.Prepare(product(1025)))(t); again == nil || f.Count("cublasLtMatmulAlgoGetHeuristic") != before+6 {
		t.Error("the newest product was dropped")
	}
	s.Multiply(first, x, x, x, 0, x, 0, 1)
	wants(t, s.Err(), "product that is not prepared, is dropped, or is of another context")
	lock.Save()
	if _, err := os.Stat(path); err == nil {
		t.Error("dynamic products went to the lock")
	}
	check(t, c.Close())
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
	_, err := b.Prepare(product(1))
	wants(t, err, "the BLAS is closed")
}

func TestMultiply(t *testing.T) {
	f := newFake(t)
	f.Set("devices", 2)
	c, other := open(t), must(cuda.Open(1))(t)
	t.Cleanup(func() { other.Close() })
	b := newBLAS(t, c, nil)
	p := must(b.Prepare(linear))(t)
	plain := linear
	plain.Epilogue, plain.Align = cuda.EpilogueNone, 16
	q := must(b.Prepare(plain))(t)
	plain.Beta, plain.LDC = 1, 32
	apart := must(b.Prepare(plain))(t)
	x := must(c.Alloc(1 << 16))(t)
	at := func(i int) cuda.Ptr { return x + cuda.Ptr(i*8192) }
	stream := func() *cuda.Stream { return must(c.NewStream())(t) }
	for name, misuse := range map[string]struct {
		do   func(s *cuda.Stream)
		want string
	}{
		"nil":        {func(s *cuda.Stream) { s.Multiply(nil, x, x, x, 0, x, 0, 1) }, "product that is not prepared"},
		"no D":       {func(s *cuda.Stream) { s.Multiply(p, 0, x, x, 0, x, 0, 1) }, "address 0 of D, A or B"},
		"no bias":    {func(s *cuda.Stream) { s.Multiply(p, x, x, x, 0, 0, 0, 1) }, "bias at 0x0, aux at 0x0"},
		"a bias":     {func(s *cuda.Stream) { s.Multiply(q, x, x, x, 0, x, 0, 1) }, "linear qkv, a.yaml:7"},
		"aux":        {func(s *cuda.Stream) { s.Multiply(q, x, x, x, 0, 0, x, 1) }, "bias at 0x0, aux at"},
		"misaligned": {func(s *cuda.Stream) { s.Multiply(p, x, x+128, x, 0, x, 0, 1) }, "not all multiples of 256 bytes"},
		"of 16":      {func(s *cuda.Stream) { s.Multiply(q, x, x+8, x, 0, 0, 0, 1) }, "not all multiples of 16 bytes"},
		"in place":   {func(s *cuda.Stream) { s.Multiply(apart, x, x, x, 0, 0, 0, 1) }, "C is D, but LDC is not LDD"},
	} {
		s := stream()
		misuse.do(s)
		if !strings.Contains(fmt.Sprint(s.Err()), misuse.want) {
			t.Errorf("%s: %q is not in: %v", name, misuse.want, s.Err())
		}
	}
	theirs := must(other.NewStream())(t)
	theirs.Multiply(p, x, x, x, 0, x, 0, 1)
	wants(t, theirs.Err(), "of another context")

	s := stream()
	s.Multiply(q, at(0), at(1)+16, at(2), 0, 0, 0, 1)
	check(t, s.Sync())
	for name, work := range map[string]func(){
		"the same": func() { s.Multiply(p, at(0), at(1), at(2), 0, at(3), 0, 1) },
		"other biases": func() {
			s.Multiply(p, at(0), at(1), at(2), 0, at(3), 0, 1)
			s.Multiply(p, at(0), at(1), at(2), 0, at(4), 0, 1)
		},
	} {
		if n := allocations(50, work); n != 0 {
			t.Errorf("Multiply with %s allocates %g times", name, n)
		}
	}
	check(t, s.Sync())

	// The addresses of biases are as they were at the call, in a graph as well.
	a := newMatrix(t, c, rand.New(rand.NewPCG(2, 2)), 16, 32, 32, cuda.BF16)
	w := newMatrix(t, c, rand.New(rand.NewPCG(3, 3)), 24, 32, 32, cuda.BF16)
	check(t, c.Upload(w.at, make([]byte, 24*32*2)))
	bias := must(c.Alloc(1024))(t)
	check(t, c.Upload(bias, encode(slices.Repeat([]float64{1}, 24), cuda.BF16)))
	check(t, c.Upload(bias+512, encode(slices.Repeat([]float64{2}, 24), cuda.BF16)))
	d := must(c.Alloc(2 * 16 * 24 * 2))(t)
	g := must(s.Capture(func() {
		s.Multiply(p, d, a.at, w.at, 0, bias, 0, 1)
		s.Multiply(p, d+16*24*2, a.at, w.at, 0, bias+512, 0, 1)
	}))(t)
	s.Run(g)
	check(t, s.Sync())
	out := make([]byte, 2*16*24*2)
	check(t, c.Download(out, d))
	got := decode(out, cuda.BF16)
	if got[0] != 1 || got[16*24-1] != 1 || got[16*24] != 2 || got[len(got)-1] != 2 {
		t.Errorf("biases of 1 and 2: %v, %v", got[0], got[16*24])
	}

	f.FailNth("cublasLtMatmul", 1, 14)
	s.Multiply(p, at(0), at(1), at(2), 0, at(3), 0, 1)
	wants(t, s.Err(), "a matrix product (linear qkv, a.yaml:7; m=16 n=24 k=32 nt", "cublasLtMatmul: CUBLAS_STATUS_INTERNAL_ERROR: ")
	// Where a kernel before is to blame, the device's error is the answer.
	s = stream()
	m := must(c.Load(image(t)))(t)
	s.Launch(must(m.Kernel(wildInfo))(t), 1, 1, 1, x)
	f.FailNth("cublasLtMatmul", 1, 13)
	s.Multiply(p, at(0), at(1), at(2), 0, at(3), 0, 1)
	wants(t, s.Err(), "a kernel launched earlier failed", "CUDA_ERROR_ILLEGAL_ADDRESS", "wild (wild, a.yaml:9)")
}

// products prepares and makes a product as a program would, timing it.
func products(t testing.TB, path string) (err error) {
	c, err := cuda.Open(0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	workspace, err := c.Alloc(1 << 20)
	if err != nil {
		return err
	}
	lock := cuda.OpenLock(path, "")
	lock.Tune = true
	b, err := c.NewBLAS(workspace, 1<<20, lock)
	if err != nil {
		return err
	}
	s, err := c.NewStream()
	if err != nil {
		return err
	}
	x, err := c.Alloc(1 << 16)
	if err != nil {
		return err
	}
	q := linear
	q.Epilogue, q.Beta, q.LDC, q.LDAux = cuda.EpilogueGELUAuxBias, 1, 32, 32
	for _, q := range []cuda.Product{linear, q} {
		p, err := b.Prepare(q)
		if err != nil {
			return err
		}
		aux := cuda.Ptr(0)
		if q.LDAux > 0 {
			aux = x + 32768
		}
		s.Multiply(p, x, x+4096, x+8192, x+16384, x+24576, aux, 1)
	}
	return s.Sync()
}

// TestEveryBLASCallFails lets each call of each function of cuBLASLt fail once, and those of the driver by which products
// are timed.
func TestEveryBLASCallFails(t *testing.T) {
	f := newFake(t)
	path := filepath.Join(t.TempDir(), "products.lock")
	check(t, products(t, path))
	if leaks := f.Leaks(); len(leaks) > 0 {
		t.Fatal(leaks)
	}
	functions := strings.Fields("cublasLtCreate cublasLtDestroy cublasLtMatmul cublasLtMatmulAlgoGetHeuristic " +
		"cublasLtMatmulDescCreate cublasLtMatmulDescDestroy cublasLtMatmulDescSetAttribute cublasLtMatmulPreferenceCreate " +
		"cublasLtMatmulPreferenceDestroy cublasLtMatmulPreferenceSetAttribute cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy " +
		"cuMemAlloc_v2 cuMemGetInfo_v2 cuEventCreate cuStreamCreate cuMemcpyHtoD_v2 cuCtxSynchronize " +
		"cuStreamBeginCapture_v2 cuGraphInstantiateWithFlags cuGraphLaunch cuEventRecord cuEventElapsedTime_v2")
	counts := map[string]int{}
	for _, name := range functions {
		counts[name] = min(f.Count(name), 40) // products are many; the first ones are of the trial, as the rest
	}
	for _, name := range functions {
		for nth := 1; nth <= counts[name]; nth++ {
			renew(f)
			f.FailNth(name, nth, 14)
			err := products(t, path+fmt.Sprint(name, nth))
			leaks := f.Leaks()
			switch {
			case strings.HasSuffix(name, "Destroy"):
				if len(leaks) > 1 {
					t.Errorf("call %d of %s fails: more than one thing leaks: %v", nth, name, leaks)
				}
				if err == nil {
					t.Errorf("call %d of %s fails, without an error", nth, name)
				}
			case len(leaks) > 0:
				t.Errorf("call %d of %s fails: leaks %v (%v)", nth, name, leaks, err)
			case err == nil:
				// One of the algorithms was not timed then.
				trial := strings.Fields("cublasLtMatmul cublasLtMatmulDescSetAttribute cuStreamCreate cuStreamBeginCapture_v2 cuGraphInstantiateWithFlags " +
					"cuGraphLaunch cuEventRecord cuEventElapsedTime_v2")
				if !slices.Contains(trial, name) {
					t.Errorf("call %d of %s fails, without an error", nth, name)
				}
			case !strings.Contains(err.Error(), name+": "):
				t.Errorf("call %d of %s fails: %v", nth, name, err)
			}
		}
	}
	t.Log(counts)
}

func TestNewBLASErrors(t *testing.T) {
	f := newFake(t)
	c := open(t)
	for _, w := range []struct {
		at    cuda.Ptr
		bytes int
	}{{16, 16}, {256, 0}, {0, 256}, {256, -1}} {
		_, err := c.NewBLAS(w.at, w.bytes, nil)
		wants(t, err, "workspace for products")
	}
	f.FailNth("cublasLtCreate", 1, 1)
	_, err := c.NewBLAS(0, 0, nil)
	wants(t, err, "cuBLASLt 13.0.0 (", "does not work with cuda:0", "CUDA 13.0", "CUBLAS_STATUS_NOT_INITIALIZED", "TFC_LIBCUBLASLT")
	b := must(c.NewBLAS(0, 0, nil))(t)
	if b.Version() != "13.0.0" {
		t.Error(b.Version())
	}
	// Without workspace, the algorithm that wants some is left out.
	check(t, errors.Join(second(b.Prepare(linear)), b.Close(), b.Close()))
	_, err = b.Prepare(cuda.Product{About: "x, a.yaml:1"})
	wants(t, err, "the BLAS is closed")
	b = must(c.NewBLAS(0, 0, nil))(t)
	_, err = b.Prepare(cuda.Product{About: "x, a.yaml:1"})
	wants(t, err, "product of x, a.yaml:1: sizes m=0 n=0 k=0")
	mixed := linear
	mixed.Bias = cuda.F32
	_, err = b.Prepare(mixed)
	wants(t, err, "has no algorithm for it; it adds a bias of the type of D only")
	t.Setenv("TFC_LIBCUBLASLT", "/nowhere/libcublasLt.so.13")
	cuda.Forget()
	_, err = c.NewBLAS(0, 0, nil)
	wants(t, err, "cuBLASLt cannot be loaded from TFC_LIBCUBLASLT", "/nowhere/libcublasLt.so.13")
}

func second[T any](_ T, err error) error { return err }

// BenchmarkMultiply measures what a product costs in Go and purego, and Prepare where it is prepared already.
func BenchmarkMultiply(b *testing.B) {
	newFake(b)
	c := open(b)
	blas := newBLAS(b, c, nil)
	small := linear
	small.M, small.N, small.K = 1, 8, 8
	p := must(blas.Prepare(small))(b)
	x := must(c.Alloc(1 << 16))(b)
	s := must(c.NewStream())(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		s.Multiply(p, x, x, x, 0, x+256, 0, 1)
		if n%64 == 63 {
			check(b, s.Sync())
		}
	}
}
