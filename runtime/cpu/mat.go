// Package cpu holds the CPU kernels that generated programs call.
//
// Every kernel works on float32 and writes each output element in an order of operations that does not depend on the
// number of workers, so a result has the same bits on one core and on sixty-four.
package cpu

// Mat is a view of a row-major float32 matrix: element (r, c) is Data[r*Stride+c].
type Mat struct {
	Data   []float32
	Rows   int
	Cols   int
	Stride int // elements between the starts of two rows, at least Cols
}

// NewMat views data as a dense rows × cols matrix. It panics where data is too short, as slicing does.
func NewMat(data []float32, rows, cols int) Mat {
	return Mat{Data: data[:rows*cols], Rows: rows, Cols: cols, Stride: cols}
}

// Row returns row r, Cols long.
func (m Mat) Row(r int) []float32 {
	return m.Data[r*m.Stride : r*m.Stride+m.Cols]
}

// Columns views columns from (inclusive) to to (exclusive) of m; the two share memory.
func (m Mat) Columns(from, to int) Mat {
	if m.Rows == 0 {
		return Mat{Cols: to - from, Stride: m.Stride}
	}
	return Mat{Data: m.Data[from : (m.Rows-1)*m.Stride+to], Rows: m.Rows, Cols: to - from, Stride: m.Stride}
}

// RowRange views rows from (inclusive) to to (exclusive) of m; the two share memory.
func (m Mat) RowRange(from, to int) Mat {
	if from == to {
		return Mat{Cols: m.Cols, Stride: m.Stride}
	}
	return Mat{Data: m.Data[from*m.Stride : (to-1)*m.Stride+m.Cols], Rows: to - from, Cols: m.Cols, Stride: m.Stride}
}
