package ir

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseDim reads a dimension written EXPR=SIZE, as attributes hold it: H*E=512. A plain number is its own size.
func ParseDim(s string) (Dim, error) {
	expr, size, ok := strings.Cut(s, "=")
	if !ok {
		size = expr
	}
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 {
		return Dim{}, fmt.Errorf("%q is not a dimension such as H*E=512", s)
	}
	return Dim{expr, n}, nil
}

// Attr writes the dimension as an attribute holds it.
func (d Dim) Attr() string {
	if d.Expr == strconv.Itoa(d.Size) {
		return d.Expr
	}
	return fmt.Sprintf("%s=%d", d.Expr, d.Size)
}

// halfOf is half of a dimension, which must be even.
func halfOf(d Dim) (Dim, error) {
	if d.Size%2 != 0 {
		return Dim{}, fmt.Errorf("%s is odd, and no two halves", d.Attr())
	}
	half := strings.TrimPrefix(d.Expr, "2*") // as SumDims writes it
	if half == d.Expr || strings.Contains(half, "+") {
		half = strconv.Itoa(d.Size / 2)
	}
	return Dim{Expr: half, Size: d.Size / 2}, nil
}

// SumDims adds dimensions: [H*E, G*E, G*E] is H*E+2*G*E.
func SumDims(dims []Dim) Dim {
	var terms []string
	count := map[string]int{}
	size, constant := 0, 0
	for _, d := range dims {
		size += d.Size
		if n, err := strconv.Atoi(d.Expr); err == nil {
			constant += n
			continue
		}
		if count[d.Expr] == 0 {
			terms = append(terms, d.Expr)
		}
		count[d.Expr]++
	}
	for i, t := range terms {
		if n := count[t]; n > 1 {
			if strings.Contains(t, "+") {
				t = "(" + t + ")"
			}
			terms[i] = fmt.Sprintf("%d*%s", n, t)
		}
	}
	if constant > 0 {
		terms = append(terms, strconv.Itoa(constant))
	}
	return Dim{strings.Join(terms, "+"), size}
}
