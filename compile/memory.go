package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/spec"
)

// Memory is what one job holds, in bytes.
type Memory struct {
	Weights   int `json:"weights"`
	Gradients int `json:"gradients"` // of the weights; 0 outside of training, as are the moments
	Moments   int `json:"moments"`   // the optimizer's
	Cache     int `json:"cache"`     // keys and values of the sequences being written
	Arena     int `json:"arena"`     // what is computed on the way: the highest end of a buffer
	Total     int `json:"total"`

	Beside []Held `json:"beside,omitempty"` // what else a GPU holds, or the weights of generation in fewer bits

	Categories []Category `json:"categories"` // of the arena
	Buffers    []Buffer   `json:"buffers"`    // of the arena, largest first
	Times      int        `json:"times"`      // ops of the function, loops counted once: the clock of First and Last
}

// Held is memory that a program holds beside.
type Held struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
}

// Category sums up the buffers of a kind. Buffers that are never live at once share memory, so the sums of all
// categories may exceed the arena.
type Category struct {
	Name    string `json:"name"`
	Buffers int    `json:"buffers"`
	Bytes   int    `json:"bytes"`
	Peak    int    `json:"peak"` // of them, live at the op when the arena is fullest
}

// Buffer is a stretch of the arena.
type Buffer struct {
	Name     string `json:"name"`
	Category string `json:"category"`
	Offset   int    `json:"offset"`
	Bytes    int    `json:"bytes"`
	Slots    int    `json:"slots"` // equal pieces, one a layer (or segment of layers) where more than one
	First    int    `json:"first"` // the op that first writes it
	Last     int    `json:"last"`  // the op that last reads it
}

// The categories, in the order of the text.
const (
	keptForward = "kept for the backward pass"
	forward     = "forward pass"
	backward    = "backward pass"
)

// memoryOf reads the plan of f, a function of s.
func memoryOf(s *spec.Spec, f *ir.Func) Memory {
	var m Memory
	for _, p := range f.Params {
		if p.Cache {
			m.Cache += p.Type.Elems() * p.Members() * p.Type.DType.Bytes()
		}
	}
	for _, w := range ir.WeightTable(s, f) {
		m.Weights = max(m.Weights, (w.Offset+w.Size()+15)/16*64) // buffers are whole cache lines
	}
	if f.Name == "train" {
		m.Gradients, m.Moments = m.Weights, 2*m.Weights
	}
	m.Arena = f.Plan.Bytes
	m.Total = m.Weights + m.Gradients + m.Moments + m.Cache + m.Arena
	if t, n := ir.NarrowWeights(f); n > 0 {
		m.Beside = append(m.Beside, Held{"weights in " + t, n})
		m.Total += n
	}
	for _, w := range ir.Times(f) {
		m.Times = max(m.Times, w[1]+1)
	}
	kinds := categories(f)
	for _, b := range f.Plan.Buffers {
		m.Buffers = append(m.Buffers, Buffer{b.Name, kinds[b], b.Offset, b.Bytes(), b.Slots, max(0, b.First), min(b.Last, m.Times-1)})
	}
	slices.SortStableFunc(m.Buffers, func(a, b Buffer) int {
		return cmp.Or(b.Bytes-a.Bytes, a.Offset-b.Offset, a.First-b.First)
	})
	full := m.fullest()
	for _, name := range []string{keptForward, forward, backward} {
		c := Category{Name: name}
		for _, b := range m.Buffers {
			if b.Category != name {
				continue
			}
			c.Buffers++
			c.Bytes += b.Bytes
			if b.First <= full && full <= b.Last {
				c.Peak += b.Bytes
			}
		}
		if c.Buffers > 0 {
			m.Categories = append(m.Categories, c)
		}
	}
	return m
}

// onGPU makes of the memory of a job all that the runtime holds to run it: as a trainer, or as a generator over so many
// sequences. Sizes are those of the allocation, from where a buffer starts to where the next one does.
func (m *Memory) onGPU(job string, p footprint.Program, sequences int) {
	list := footprint.Training(p)
	if job != "train" && job != "eval" {
		list = footprint.Generation(p, sequences)
	}
	own := footprint.Arena
	if job == "logits" {
		list, own = append(list, footprint.Sequences(p)...), footprint.SequenceArena
	}
	m.Weights, m.Gradients, m.Moments, m.Cache = 0, 0, 0, 0
	m.Total = footprint.Bytes(list)
	beside := func(name string, bytes int) {
		if bytes > 0 {
			m.Beside = append(m.Beside, Held{name, bytes})
		}
	}
	for _, b := range list {
		bytes := footprint.Round(b.Bytes)
		switch b.Name {
		case footprint.Weights:
			m.Weights = bytes
		case footprint.Gradients:
			m.Gradients = bytes
		case footprint.First, footprint.Second:
			m.Moments += bytes
		case footprint.Cache:
			m.Cache = bytes
		case own:
			beside("arena beyond this job's", bytes-m.Arena)
		case footprint.Arena:
			beside("arena of prefill and decode", bytes)
		default:
			beside(b.Name, bytes)
		}
	}
}

// categories says what each buffer is for: whether it holds what the backward pass writes, or what the forward pass
// writes and the backward pass reads.
func categories(f *ir.Func) map[*ir.Buffer]string {
	kinds := map[*ir.Buffer]string{}
	mark := func(v *ir.Value, kind string) {
		if v == nil {
			return
		}
		if p, ok := f.Plan.Places[v]; ok && kinds[p.Buffer] != keptForward {
			kinds[p.Buffer] = kind
		}
	}
	written := map[*ir.Value]string{} // by which half
	half := forward                   // until the first gradient is computed
	f.Walk(func(op *ir.Op) {
		if strings.HasSuffix(op.Kind, "_grad") {
			half = backward
		}
		values := op.Results
		if op.Loop != nil {
			values = append(slices.Clone(values), op.Loop.Carries...)
		}
		for _, v := range values {
			written[v] = half
			mark(v, half)
		}
	})
	half = forward
	f.Walk(func(op *ir.Op) {
		if strings.HasSuffix(op.Kind, "_grad") {
			half = backward
		}
		for _, v := range op.Args {
			if half == backward && written[v] == forward {
				mark(v, keptForward)
			}
		}
	})
	return kinds
}

// fullest is the first time at which most bytes are live.
func (m *Memory) fullest() int {
	best, at := -1, 0
	for t := range m.Times {
		n := 0
		for _, b := range m.Buffers {
			if b.First <= t && t <= b.Last {
				n += b.Bytes
			}
		}
		if n > best {
			best, at = n, t
		}
	}
	return at
}
