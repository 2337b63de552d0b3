// Package weights reads and writes model weights: safetensors files under Hugging Face names, and the first values of
// a fresh model.
package weights

// Info says where one weight lives: in the program's contiguous float32 buffer, and in a Hugging Face file.
// Generated packages hold a table of them.
type Info struct {
	Name   string // tfc's name, as layers.3.q.weight
	Shape  []int  // [out, in] of a matrix, [n] of a vector
	Offset int    // of its first element in the weight buffer, in float32s
	Decay  bool   // weight decay applies
	Init   Init   // how it starts

	// In a file, the weight is (part of) tensor File. Where FileTransposed, the file holds the matrix as [in, out].
	// Row r (of the [out, in] form) is the tensor's row FileRow + r/FileGroup*FileStride + r%FileGroup, so that several
	// weights may share one tensor, stacked (GPT-2's c_attn) or interleaved by head (GPT-NeoX's query_key_value).
	// FileGroup 0 means that the weight is the whole tensor.
	File           string
	FileTransposed bool
	FileRows       int // rows of the whole tensor in [out, in] form
	FileRow        int
	FileGroup      int
	FileStride     int
}

// Init draws a weight's first values.
type Init struct {
	Kind  string  // normal, uniform, constant
	Scale float64 // standard deviation of normal, limit of uniform, value of constant
}

// Size returns the number of elements.
func (w Info) Size() int {
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	return n
}
