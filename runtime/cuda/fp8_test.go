package cuda_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda"
)

// TestProductsOf8Bits holds products of operands in 8 bits to sums in float64, by the heuristic's algorithms and by timed ones.
func TestProductsOf8Bits(t *testing.T) {
	newFake(t)
	c := open(t)
	if without := testProductsOf8Bits(t, c); len(without) > 0 {
		t.Errorf("no algorithm for %v", without)
	}
}

// testProductsOf8Bits returns the products that the library has no algorithm for.
func testProductsOf8Bits(t *testing.T, c *cuda.Context) (without []string) {
	lock := cuda.OpenLock(filepath.Join(t.TempDir(), "tuned.json"), "")
	lock.Tune = true
	blas := []*cuda.BLAS{newBLAS(t, c, nil), newBLAS(t, c, lock)}
	s := must(c.NewStream())(t)
	random := rand.New(rand.NewPCG(3, 1))
	types := [][2]cuda.DType{{cuda.E4M3, cuda.E4M3}, {cuda.E5M2, cuda.E4M3}, {cuda.E4M3, cuda.E5M2}}
	for i := range 60 {
		ab := types[i%3]
		p := cuda.Product{M: []int{16, 48, 64, 144}[random.IntN(4)], N: []int{16, 48}[random.IntN(2)], K: []int{16, 80, 144}[random.IntN(3)],
			TransB: true, A: ab[0], B: ab[1], D: cuda.BF16, Align: 16, About: fmt.Sprintf("case %d", i)}
		ld := func(row, bytes int) int { return row + []int{0, 16 / bytes}[random.IntN(2)] }
		var bias, old *matrix
		var biasAt, oldAt, none cuda.Ptr
		if random.IntN(2) == 0 {
			p.D = cuda.F32
		} else if random.IntN(2) == 0 {
			p.Epilogue, bias = cuda.EpilogueBias, newMatrix(t, c, random, 1, p.N, p.N, p.D)
			biasAt = bias.at
		}
		p.LDA, p.LDB, p.LDD = ld(p.K, 1), ld(p.K, 1), ld(p.N, p.D.Size())
		a, b := newMatrix(t, c, random, p.M, p.K, p.LDA, p.A), newMatrix(t, c, random, p.N, p.K, p.LDB, p.B)
		d, scales := newMatrix(t, c, random, p.M, p.N, p.LDD, p.D), newMatrix(t, c, random, 1, 5, 5, cuda.F32)
		if random.IntN(2) == 0 {
			p.Beta, old = 1, d
			if random.IntN(2) == 0 {
				p.LDC = ld(p.N, p.D.Size())
				old = newMatrix(t, c, random, p.M, p.N, p.LDC, p.D)
				oldAt = old.at
			}
		}
		prepared, err := blas[i%2].Prepare(p)
		if err != nil {
			without = append(without, err.Error())
			continue
		}
		if want := []string{"heuristic", "timed"}[i%2]; prepared.Origin() != want {
			t.Errorf("%+v: the algorithm is by %s, not %s", p, prepared.Origin(), want)
		}
		s.MultiplyScaled(prepared, d.at, a.at, b.at, oldAt, biasAt, scales.at, scales.at.At(16))
		check(t, s.Sync())
		got := d.download(t, c)
		tolerance := map[cuda.DType]float64{cuda.BF16: 1.0 / 128, cuda.F32: 1e-5}[p.D]
		for r := range p.M {
			for col := range p.N {
				x := 0.0
				for k := range p.K {
					x += a.get(r, k, false) * b.get(k, col, true)
				}
				x *= scales.values[0] * scales.values[4]
				if old != nil {
					x += old.get(r, col, false)
				}
				if bias != nil {
					x += bias.values[col]
				}
				if y := got[r*d.ld+col]; !(math.Abs(y-x) <= tolerance*(1+math.Abs(x))) {
					t.Fatalf("%+v: D[%d,%d] is %g, not %g", p, r, col, y, x)
				}
			}
		}
		if i > 0 {
			continue
		}
		bad := must(c.NewStream())(t)
		bad.MultiplyScaled(prepared, d.at, a.at, b.at, 0, biasAt, none, scales.at)
		wants(t, bad.Err(), "factors of A at 0x0")
		bad = must(c.NewStream())(t)
		bad.MultiplyScaled(prepared, d.at, a.at, b.at, 0, biasAt, scales.at.At(4), scales.at)
		wants(t, bad.Err(), "not all multiples of 16 bytes")
		bad = must(c.NewStream())(t)
		bad.Multiply(prepared, d.at, a.at, b.at, 0, biasAt, 0, 1)
		wants(t, bad.Err(), "factors of A at 0x0")
	}
	return without
}

// TestOldGPUsMultiply8Bits: they do not, and say so.
func TestOldGPUsMultiply8Bits(t *testing.T) {
	f := newFake(t)
	renew(f)
	f.Set("major", 8)
	c := open(t)
	_, err := newBLAS(t, c, nil).Prepare(cuda.Product{M: 16, N: 16, K: 16, TransB: true, A: cuda.E4M3, B: cuda.E4M3, D: cuda.BF16})
	wants(t, err, "a=e4m3 b=e4m3", "has no algorithm for it")
}
