package passes

import "github.com/tfc-dev/tfc/ir"

// Category is a share of the memory of a run.
type Category struct {
	Name  string
	Bytes int
}

// Holding is what the program that a train function is part of holds beside the function's own arena.
type Holding struct {
	Parts []Category // buffers
	Arena int        // bytes that other functions need of the arena, which all share
	Align int        // of the arena's size
}

// weightElems counts the elements of f's weights, each once however they are packed, and of its key-value caches; those of
// caches that have 16 bits whatever activations have count half.
func weightElems(f *ir.Func) (weights, caches int) {
	for _, p := range f.Params {
		switch n := p.Type.Elems() * p.Members(); {
		case p.Cache:
			caches += n * p.Type.DType.Bytes() / 4
		case len(p.Parts) == 0:
			weights += n
		}
	}
	return weights, caches
}

// fixed returns what f holds whatever its plan: weights and, in training, their gradients and AdamW's two moments, all in
// f32; where activations have 16 bits, copies of the weights for products; in generation the weights it reads in fewer
// bits, and the key-value caches, in the type of activations or in bf16.
func fixed(f *ir.Func) []Category {
	weights, caches := weightElems(f)
	element := 4
	for _, op := range opsOf(f, "embed") {
		element = op.Result().Type.DType.Bytes()
	}
	list := []Category{{"weights", 4 * weights}}
	if element < 4 {
		list = append(list, Category{"copies", element * weights})
	}
	if f.Name == "train" {
		list = append(list, Category{"gradients", 4 * weights}, Category{"moments", 8 * weights})
	}
	if t, n := ir.NarrowWeights(f); n > 0 {
		list = append(list, Category{"weights in " + t, n})
	}
	if caches > 0 {
		list = append(list, Category{"caches", element * caches})
	}
	return list
}

// FixedBytes returns the bytes that f needs beside its arena: 16 for each element of the weights in training.
func FixedBytes(f *ir.Func) int { return sum(fixed(f)) }

func sum(list []Category) int {
	n := 0
	for _, c := range list {
		n += c.Bytes
	}
	return n
}

// Memory says what the memory of a run of f, which has a plan, is for: weights, gradients, moments and caches, as far as
// f has them; the activations of the forward loops that are kept for the backward loops, at their most; and the rest of
// the arena. The categories add up to the run's peak.
func Memory(f *ir.Func) []Category {
	list := fixed(f)
	kept := keptBytes(f)
	if f.Name == "train" {
		list = append(list, Category{"activations kept for backward", kept})
	}
	return append(list, Category{"temporaries", f.Plan.Bytes - kept})
}

// keptBytes returns the most bytes that live at one time in buffers which another loop than their own reads.
func keptBytes(f *ir.Func) int {
	kept := map[*ir.Buffer]bool{}
	f.Walk(func(op *ir.Op) {
		for _, a := range op.Args {
			if a != nil && a.Block != nil && !a.Block.Encloses(op.Block) && len(a.Type.Dims) > 0 {
				kept[f.Plan.Places[a].Buffer] = true
			}
		}
	})
	most := 0
	for b := range kept {
		n := 0
		for c := range kept {
			if c.First <= b.First && b.First <= c.Last {
				n += c.Bytes()
			}
		}
		most = max(most, n)
	}
	return most
}
