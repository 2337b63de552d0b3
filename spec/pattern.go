package spec

import (
	"fmt"
	"strings"
)

// Pattern says which keys a query may see: a leaf, or the intersection (and) or union (or) of patterns.
//
// For query i and key j, with both divided by Block first where Block > 0:
//
//	causal      j <= i
//	window(n)   |i - j| < n
//	global(n)   j < n or i < n
//	stride(n)   (i - j) mod n == 0
//	prefix(n)   j <= max(i, n-1): everything sees the first n positions, the rest is causal
//
// Window, global and stride are those of Longformer, BigBird and Sparse Transformers (arXiv 2004.05150, 2007.14062,
// 1904.10509); a block makes them block-sparse.
type Pattern struct {
	Op    string    `call:"causal|window|global|stride|prefix|block"` // or "and", "or"; block(n) is read as window(1, block: n)
	N     int       `arg:"n" min:"1" max:"2147483647" of:"window|global|stride|prefix|block"`
	Block int       `arg:"block" default:"0" min:"0" max:"2147483647" of:"window|global|stride"` // positions are counted in blocks of this many; 0: singly
	Args  []Pattern // of and, or
}

// Allowed says whether query i sees key j.
func (p Pattern) Allowed(i, j int) bool {
	switch p.Op {
	case "and":
		for _, a := range p.Args {
			if !a.Allowed(i, j) {
				return false
			}
		}
		return true
	case "or":
		for _, a := range p.Args {
			if a.Allowed(i, j) {
				return true
			}
		}
		return false
	}
	if p.Block > 0 {
		i, j = i/p.Block, j/p.Block
	}
	switch p.Op {
	case "causal":
		return j <= i
	case "window":
		return i-j < p.N && j-i < p.N
	case "global":
		return j < p.N || i < p.N
	case "stride":
		return (i-j)%p.N == 0
	case "prefix":
		return j <= max(i, p.N-1)
	}
	panic("spec: unknown attention pattern " + p.Op)
}

// Prefix returns the length of the longest prefix(n) in p, 0 without one: targets inside it are not learned, since
// their answers are in sight.
func (p Pattern) Prefix() int {
	if p.Op == "prefix" {
		return p.N
	}
	n := 0
	for _, a := range p.Args {
		n = max(n, a.Prefix())
	}
	return n
}

// String writes p as in a spec.
func (p Pattern) String() string {
	switch p.Op {
	case "causal":
		return "causal"
	case "and", "or":
		sep := map[string]string{"and": " & ", "or": " | "}[p.Op]
		parts := make([]string, len(p.Args))
		for i, a := range p.Args {
			parts[i] = a.String()
			if p.Op == "and" && a.Op == "or" {
				parts[i] = "(" + parts[i] + ")"
			}
		}
		return strings.Join(parts, sep)
	}
	if p.Block > 0 {
		return fmt.Sprintf("%s(%d, block: %d)", p.Op, p.N, p.Block)
	}
	return fmt.Sprintf("%s(%d)", p.Op, p.N)
}
