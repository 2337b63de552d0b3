// Package mask describes which keys a query may attend to. A pattern is a small expression tree over atoms such as
// Causal and Window; kernels ask it about tiles and about runs of 64 keys and never see a T×T matrix.
//
// The patterns are those of sliding-window and global attention (Beltagy, Peters, Cohan, "Longformer", 2020), strided and
// block-sparse attention (Child et al., "Generating Long Sequences with Sparse Transformers", 2019) and the prefix
// language model (Raffel et al., "T5", 2020).
package mask

import (
	"fmt"
	"math"
	"strings"
)

// Mask says for every query position i and key position j, both counted from 0, whether i may attend to j.
// A Mask does not change after it is built and is safe for concurrent use.
type Mask interface {
	// Allowed reports whether query i may attend to key j.
	Allowed(i, j int) bool
	// Word returns Allowed(i, j+c) as bit c, for c from 0 to 63.
	Word(i, j int) uint64
	// Tile says how much of the tile of queries i0 (inclusive) to i1 (exclusive) and keys j0 to j1 is allowed.
	// Empty and Full are certain; Partial is also the answer where the tree cannot tell.
	Tile(i0, i1, j0, j1 int) Cover
	// String prints the pattern in the language of specs.
	String() string
}

// Cover says how much of a tile is allowed.
type Cover uint8

const (
	Partial Cover = iota // some of it, or not known
	Empty                // none of it
	Full                 // all of it
)

func (c Cover) String() string { return [...]string{"partial", "empty", "full"}[c] }

// An Atom is a leaf of the tree. The zero Atom is not valid.
type Atom struct {
	kind  kind
	n     int // the atom's number; 0 for causal
	block int // positions are divided by block; 1 for plain positions
}

type kind uint8

const (
	causal kind = iota + 1
	window
	global
	stride
	prefix
)

var names = [...]string{causal: "causal", window: "window", global: "global", stride: "stride", prefix: "prefix"}

// Causal allows the query's own position and those before it: j <= i.
func Causal() Atom { return Atom{kind: causal, block: 1} }

// Window allows positions closer than n on either side: |i-j| < n.
// It panics unless n is from 1 to 1<<31-1, as do the other constructors that take a number.
func Window(n int) Atom { return newAtom(window, n) }

// Global lets every query attend to the first n keys, and the first n queries to every key: j < n or i < n.
func Global(n int) Atom { return newAtom(global, n) }

// Stride allows positions whose distance is a multiple of n: (i-j) mod n = 0.
func Stride(n int) Atom { return newAtom(stride, n) }

// Prefix is causal attention whose first n positions see each other: j <= max(i, n-1).
func Prefix(n int) Atom { return newAtom(prefix, n) }

func newAtom(k kind, n int) Atom {
	mustCount(names[k], n)
	return Atom{kind: k, n: n, block: 1}
}

// Blocks returns the pattern over blocks of b positions: i and j are divided by b, rounded down, before they are compared.
// Causal().Blocks(b) therefore lets a query see to the end of its own block; And(Causal(), …) keeps it from doing so.
// It panics unless b is from 1 to 1<<31-1.
func (a Atom) Blocks(b int) Atom {
	mustCount(names[a.kind]+" block", b)
	a.block = b
	return a
}

// mustCount bounds numbers so that a product of two of them cannot overflow.
func mustCount(what string, n int) {
	if n < 1 || n > math.MaxInt32 {
		panic(fmt.Sprintf("mask: %s must be from 1 to %d, is %d", what, math.MaxInt32, n))
	}
}

// And allows what every one of the patterns allows; And() allows everything.
func And(of ...Mask) Mask { return and(of) }

// Or allows what at least one of the patterns allows; Or() allows nothing.
func Or(of ...Mask) Mask { return or(of) }

type (
	and []Mask
	or  []Mask
)

// keys returns the half-open range of keys that query i may attend to. Every atom but stride allows one range.
func (a Atom) keys(i int) (from, to int) {
	bi := i / a.block
	switch a.kind {
	case causal:
		return 0, (bi + 1) * a.block
	case window:
		return (bi - a.n + 1) * a.block, (bi + a.n) * a.block
	case global:
		if bi < a.n {
			return 0, math.MaxInt
		}
		return 0, a.n * a.block
	default: // prefix
		return 0, (max(bi, a.n-1) + 1) * a.block
	}
}

// Allowed implements Mask.
func (a Atom) Allowed(i, j int) bool {
	if a.kind == stride {
		return (i/a.block-j/a.block)%a.n == 0
	}
	from, to := a.keys(i)
	return from <= j && j < to
}

// Word implements Mask.
func (a Atom) Word(i, j int) uint64 {
	if a.kind == stride {
		return a.strideWord(i/a.block, j)
	}
	from, to := a.keys(i)
	return low(to-j) &^ low(from-j)
}

// strideWord steps from one allowed block of keys to the next.
func (a Atom) strideWord(bi, j int) (w uint64) {
	ahead := (bi - j/a.block) % a.n // from the first key's block to the next allowed one
	if ahead < 0 {
		ahead += a.n
	}
	for bj := j/a.block + ahead; bj*a.block < j+64; bj += a.n {
		w |= low((bj+1)*a.block-j) &^ low(bj*a.block-j)
	}
	return w
}

// low returns a word whose lowest n bits are set.
func low(n int) uint64 {
	switch {
	case n <= 0:
		return 0
	case n >= 64:
		return math.MaxUint64
	}
	return 1<<n - 1
}

// Tile implements Mask. It is exact.
func (a Atom) Tile(i0, i1, j0, j1 int) Cover {
	if i0 >= i1 || j0 >= j1 {
		return Empty
	}
	// First and last blocks, and the range of their difference.
	i0, i1, j0, j1 = i0/a.block, (i1-1)/a.block, j0/a.block, (j1-1)/a.block
	least, most := i0-j1, i1-j0
	switch a.kind {
	case causal:
		return cover(least >= 0, most < 0)
	case window:
		return cover(-a.n < least && most < a.n, most <= -a.n || a.n <= least)
	case global:
		return cover(i1 < a.n || j1 < a.n, i0 >= a.n && j0 >= a.n)
	case stride:
		multiple := floorDiv(most, a.n) * a.n // the largest one not above most
		return cover(a.n == 1 || least == most && multiple == most, multiple < least)
	default: // prefix
		return cover(j1 <= max(i0, a.n-1), j0 > max(i1, a.n-1))
	}
}

func cover(full, empty bool) Cover {
	switch {
	case full:
		return Full
	case empty:
		return Empty
	}
	return Partial
}

func floorDiv(a, n int) int {
	q := a / n
	if a%n < 0 {
		q--
	}
	return q
}

// String implements Mask.
func (a Atom) String() string {
	var args []string
	if a.kind != causal {
		args = append(args, fmt.Sprint(a.n))
	}
	if a.block != 1 {
		args = append(args, fmt.Sprintf("block: %d", a.block))
	}
	if len(args) == 0 {
		return names[a.kind]
	}
	return names[a.kind] + "(" + strings.Join(args, ", ") + ")"
}

func (m and) Allowed(i, j int) bool {
	for _, x := range m {
		if !x.Allowed(i, j) {
			return false
		}
	}
	return true
}

func (m or) Allowed(i, j int) bool {
	for _, x := range m {
		if x.Allowed(i, j) {
			return true
		}
	}
	return false
}

func (m and) Word(i, j int) uint64 {
	w := uint64(math.MaxUint64)
	for _, x := range m {
		w &= x.Word(i, j)
	}
	return w
}

func (m or) Word(i, j int) (w uint64) {
	for _, x := range m {
		w |= x.Word(i, j)
	}
	return w
}

func (m and) Tile(i0, i1, j0, j1 int) Cover {
	if i0 >= i1 || j0 >= j1 {
		return Empty
	}
	c := Full
	for _, x := range m {
		switch x.Tile(i0, i1, j0, j1) {
		case Empty:
			return Empty
		case Partial:
			c = Partial
		}
	}
	return c
}

func (m or) Tile(i0, i1, j0, j1 int) Cover {
	c := Empty
	for _, x := range m {
		switch x.Tile(i0, i1, j0, j1) {
		case Full:
			return Full
		case Partial:
			c = Partial
		}
	}
	return c
}

func (m and) String() string { return join(m, " & ", "all") }
func (m or) String() string  { return join(m, " | ", "none") }

// join prints a node. & binds tighter than |, so only alternatives inside & need parentheses.
func join(of []Mask, operator, empty string) string {
	if len(of) == 0 {
		return empty
	}
	parts := make([]string, len(of))
	for i, x := range of {
		parts[i] = x.String()
		if operator == " & " && len(of) > 1 && strings.Contains(parts[i], "|") {
			parts[i] = "(" + parts[i] + ")"
		}
	}
	return strings.Join(parts, operator)
}
