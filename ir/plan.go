package ir

// Plan says where every value of a function lives in its arena. Offsets and sizes are in bytes.
type Plan struct {
	Buffers []Buffer
	Places  map[*Value]Place
	Bytes   int // the arena's size: the peak of the whole function
}

// Buffer is a stretch of the arena: Slots equal pieces, one for each live instance of what it holds.
type Buffer struct {
	Name   string
	Offset int
	Slot   int // bytes of one slot
	Slots  int
	First  int // the time at which it is first written, and
	Last   int // that at which it is last read, in the plan's order of ops
}

// Place is where a value lives: columns [Column, Column+its own) of a buffer whose rows are Stride elements wide.
type Place struct {
	Buffer int // index in Plan.Buffers
	Column int
	Stride int // elements
}
