package ir

import (
	"fmt"
	"slices"

	"github.com/tfc-dev/tfc/runtime/quant"
)

// narrowWeights is the attribute of ops that read the weights which are their second argument, f32 to begin with, in fewer
// bits: bf16, int8 or int4, as package quant defines them. The activations that meet them in a product are rounded to bf16,
// too, or coded in 8 bits.
var narrowWeights = need("string", "weights?")

var weightTypes = []string{"bf16", "int8", "int4"}

func wantWeights(op *Op) error {
	if t := op.Str("weights"); t != "" && !slices.Contains(weightTypes, t) {
		return fmt.Errorf("weights in %q; there are bf16, int8 and int4", t)
	}
	return nil
}

// WeightBytes is the size of a matrix of weights in one of the types, as the CPU stores it: groups are whole, and so are
// blocks of 16 rows.
func WeightBytes(t string, rows, cols int) int {
	rows, groups := (rows+15)/16*16, (cols+quant.Group-1)/quant.Group
	group := map[string]int{"bf16": 2 * quant.Group, "int8": quant.Group + 2, "int4": quant.Group/2 + 2}[t]
	return rows * groups * group
}

// narrowedRows is a matrix of weights, or the activations that meet them, as op reads it.
func narrowedRows(op *Op, m *Tensor, weights bool) *Tensor {
	t := op.Str("weights")
	if t == "" {
		return m
	}
	n := m.like()
	for r := range m.rows() {
		copy(n.row(r), narrowed(t, m.row(r), weights))
	}
	return n
}

// narrowed returns a row of weights, or of activations, in a type: the numbers that the codes stand for.
func narrowed(t string, row []float64, weights bool) []float64 {
	if t == "" {
		return row
	}
	out := make([]float64, len(row))
	x, codes := make([]float32, len(row)), make([]int8, quant.Group)
	for i, v := range row {
		x[i] = float32(v)
	}
	for at := 0; at < len(row); at += quant.Group {
		group := x[at:min(at+quant.Group, len(x))]
		var scale float32
		switch {
		case t == "bf16":
			for i, v := range group {
				out[at+i] = float64(quant.FromBF16(quant.BF16(v)))
			}
			continue
		case !weights:
			scale = quant.Activations(codes[:len(group)], group)
		case t == "int8":
			scale = quant.FromBF16(quant.Int8(codes[:len(group)], group))
		case t == "int4":
			scale = quant.FromBF16(quant.Int4(codes[:len(group)], group))
		}
		for i := range group {
			out[at+i] = float64(codes[i]) * float64(scale)
		}
	}
	return out
}

// NarrowWeights returns the type of weights that f reads in fewer bits, "" where it reads none, and the bytes of all of them,
// each from the start of a cache line on.
func NarrowWeights(f *Func) (t string, bytes int) {
	seen := map[*Param]bool{}
	f.Walk(func(op *Op) {
		if op.Str("weights") == "" || seen[op.Args[1].Param] {
			return
		}
		p := op.Args[1].Param
		seen[p] = true
		t = op.Str("weights")
		bytes += p.Members() * ((WeightBytes(t, p.Type.Rows(), p.Type.Cols()) + 63) / 64 * 64)
	})
	return t, bytes
}
