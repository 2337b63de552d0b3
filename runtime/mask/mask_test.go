package mask

import (
	"math/rand/v2"
	"testing"
)

// defined restates the atoms' definitions, element by element.
func defined(a Atom, i, j int) bool {
	i, j = i/a.block, j/a.block
	switch a.kind {
	case causal:
		return j <= i
	case window:
		return i-j < a.n && j-i < a.n
	case global:
		return j < a.n || i < a.n
	case stride:
		return (i-j)%a.n == 0
	case prefix:
		return j <= i || j <= a.n-1
	}
	panic("unknown atom")
}

func evaluate(m Mask, i, j int) bool {
	switch m := m.(type) {
	case and:
		for _, x := range m {
			if !evaluate(x, i, j) {
				return false
			}
		}
		return true
	case or:
		for _, x := range m {
			if evaluate(x, i, j) {
				return true
			}
		}
		return false
	}
	return defined(m.(Atom), i, j)
}

func randomAtom(r *rand.Rand) Atom {
	a := []Atom{Causal(), Window(1 + r.IntN(9)), Global(1 + r.IntN(9)), Stride(1 + r.IntN(9)), Prefix(1 + r.IntN(9))}[r.IntN(5)]
	if r.IntN(2) == 0 {
		a = a.Blocks(1 + r.IntN(7))
	}
	return a
}

func randomMask(r *rand.Rand, depth int) Mask {
	if depth == 0 || r.IntN(3) == 0 {
		return randomAtom(r)
	}
	of := make([]Mask, r.IntN(4))
	for i := range of {
		of[i] = randomMask(r, depth-1)
	}
	if r.IntN(2) == 0 {
		return And(of...)
	}
	return Or(of...)
}

// truth returns the exact cover of a tile by looking at each element.
func truth(m Mask, i0, i1, j0, j1 int) Cover {
	some, all := false, true
	for i := i0; i < i1; i++ {
		for j := j0; j < j1; j++ {
			ok := m.Allowed(i, j)
			some, all = some || ok, all && ok
		}
	}
	return cover(some && all, !some)
}

func TestAllowedAndWord(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m := randomMask(r, 3)
		for i := range 40 {
			for j := range 40 {
				want := evaluate(m, i, j)
				if m.Allowed(i, j) != want {
					t.Fatalf("%s: Allowed(%d, %d) = %v", m, i, j, !want)
				}
			}
			j := r.IntN(70)
			w := m.Word(i, j)
			for c := range 64 {
				if want := evaluate(m, i, j+c); want != (w>>c&1 == 1) {
					t.Fatalf("%s: bit %d of Word(%d, %d) = %v", m, c, i, j, !want)
				}
			}
		}
	}
}

func TestAtomTileIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 4000 {
		a := randomAtom(r)
		i0, j0 := r.IntN(30), r.IntN(30)
		i1, j1 := i0+r.IntN(12), j0+r.IntN(12)
		if got, want := a.Tile(i0, i1, j0, j1), truth(a, i0, i1, j0, j1); got != want {
			t.Fatalf("%s: Tile(%d, %d, %d, %d) = %v, want %v", a, i0, i1, j0, j1, got, want)
		}
	}
}

func TestTileIsSafe(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	exact := 0
	const tries = 10000
	for range tries {
		m := randomMask(r, 3)
		i0, j0 := r.IntN(30), r.IntN(30)
		i1, j1 := i0+r.IntN(12), j0+r.IntN(12)
		got, want := m.Tile(i0, i1, j0, j1), truth(m, i0, i1, j0, j1)
		if got != Partial && got != want {
			t.Fatalf("%s: Tile(%d, %d, %d, %d) = %v, want %v", m, i0, i1, j0, j1, got, want)
		}
		if got == want {
			exact++
		}
	}
	if exact < tries*9/10 {
		t.Errorf("Tile was exact in %d of %d cases", exact, tries)
	}
}

func TestString(t *testing.T) {
	for want, m := range map[string]Mask{
		"causal":                              Causal(),
		"causal(block: 64)":                   Causal().Blocks(64),
		"window(4, block: 64)":                Window(4).Blocks(64),
		"causal & (window(128) | global(16))": And(Causal(), Or(Window(128), Global(16))),
		"causal & (window(128) | global(16) | stride(64))": And(Causal(), Or(Window(128), Global(16), Stride(64))),
		"causal & window(2) | prefix(64)":                  Or(And(Causal(), Window(2)), Prefix(64)),
		"causal & window(2)":                               Or(And(Causal(), Window(2))),
		"causal & (window(2) & stride(3) | prefix(4))":     And(Causal(), Or(And(Window(2), Stride(3)), Prefix(4))),
		"all":  And(),
		"none": Or(),
	} {
		if got := m.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestBadNumbersPanic(t *testing.T) {
	for name, f := range map[string]func(){
		"window 0":  func() { Window(0) },
		"stride -1": func() { Stride(-1) },
		"global":    func() { Global(1 << 31) },
		"block 0":   func() { Causal().Blocks(0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestLargestNumbersDoNotOverflow(t *testing.T) {
	const most = 1<<31 - 1
	for _, a := range []Atom{Window(most), Global(most), Prefix(most)} {
		a = a.Blocks(most)
		if !a.Allowed(0, most) || a.Word(0, 0) != 1<<64-1 || a.Tile(0, most, 0, most) != Full {
			t.Errorf("%s does not allow everything", a)
		}
	}
}

func BenchmarkWord(b *testing.B) {
	var m Mask = And(Causal(), Or(Window(128), Global(16), Stride(64)))
	for i := 0; b.Loop(); i++ {
		m.Word(i&4095, i>>6&4095)
	}
}
