package ir

// Plan says where every value of a function lives in its arena. Offsets and sizes are in bytes.
type Plan struct {
	Buffers []*Buffer
	Places  map[*Value]Place
	Bytes   int // the arena's size: the peak of the whole function
}

// Buffer is a stretch of the arena: Slots equal pieces, one for each instance that is live at once.
type Buffer struct {
	Name        string // of the value it was made for
	Offset      int
	Slot        int // bytes of one slot
	Slots       int
	First, Last int // the ops, counted in order, that first write and last read it
}

// Bytes returns the size of the whole buffer.
func (b *Buffer) Bytes() int { return b.Slot * b.Slots }

// Place is where a value lives: columns [Column, Column + its own) of a buffer's slot whose rows are Stride wide.
//
// The slot is (k + Shift) mod Slots, where k counts the iterations of Loop; without a Loop it is Shift.
type Place struct {
	Buffer *Buffer
	Column int // elements
	Stride int // elements
	Loop   *Loop
	Shift  int
}

// Iteration returns which iteration of a loop (that is not within another) has index i, counting from 0.
func (l *Loop) Iteration(i int) int {
	if l.Reverse {
		return (l.To - 1 - i) / l.Step
	}
	return (i - l.From) / l.Step
}

// Iterations returns the most iterations one run of the loop makes.
func (l *Loop) Iterations() int { return (l.To - l.From + l.Step - 1) / l.Step }

// Times numbers the starts and ends of f's ops in the order of the text, a loop's body once: the clock that the lives of
// buffers are counted in. An op that is no loop starts and ends at the same time.
func Times(f *Func) map[*Op][2]int {
	when := map[*Op][2]int{}
	clock := 0
	var number func(b *Block)
	number = func(b *Block) {
		for _, op := range b.Ops {
			start := clock
			clock++
			if op.Loop != nil {
				number(op.Loop.Body)
				clock++
			}
			when[op] = [2]int{start, clock - 1}
		}
	}
	number(f.Body)
	return when
}
