package weights

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// fileTensor is one tensor of the file form of a model, with the weights that share its rows.
type fileTensor struct {
	name       string
	transposed bool
	rows       int   // in [out, in] form
	inner      []int // the dimensions of one row
	parts      []Info
	runs       []run // rows 0, 1, … in order
}

// run is consecutive rows of a tensor that are consecutive in the weight buffer too.
type run struct {
	row, count int
	at         int // of the first element in the weight buffer
}

func (t fileTensor) width() int { return Tensor{Shape: t.inner}.Size() }

// shape is the tensor's shape in the file.
func (t fileTensor) shape() []int {
	if t.transposed {
		return []int{t.inner[0], t.rows}
	}
	return append([]int{t.rows}, t.inner...)
}

// layout turns a weight table into the tensors of the file, sorted by name. It checks that the weights lie inside a
// buffer of size elements, and that they cover each tensor's rows exactly.
func layout(table []Info, size int) ([]fileTensor, error) {
	byName := map[string]*fileTensor{}
	for _, w := range table {
		if len(w.Shape) == 0 || slices.Min(w.Shape) < 1 {
			return nil, fmt.Errorf("weight %s: shape %v has an empty dimension or none", w.Name, w.Shape)
		}
		if w.Offset < 0 || w.Size() > size-w.Offset {
			return nil, fmt.Errorf("weight %s: elements %d to %d lie outside the buffer of %d", w.Name, w.Offset, w.Offset+w.Size(), size)
		}
		rows, inner := w.Shape[0], w.Shape[1:]
		if w.FileGroup > 0 {
			rows = w.FileRows
		}
		transposed := w.FileTransposed && len(w.Shape) > 1
		if transposed && len(w.Shape) != 2 {
			return nil, fmt.Errorf("weight %s: only a matrix can be transposed, the shape is %v", w.Name, w.Shape)
		}
		t := byName[w.File]
		if t == nil {
			t = &fileTensor{name: w.File, transposed: transposed, rows: rows, inner: inner}
			byName[w.File] = t
		}
		if t.rows != rows || t.transposed != transposed || !slices.Equal(t.inner, inner) {
			return nil, fmt.Errorf("weights %s and %s disagree on the shape of tensor %s", t.parts[0].Name, w.Name, w.File)
		}
		t.parts = append(t.parts, w)
	}
	tensors := make([]fileTensor, 0, len(byName))
	for _, t := range byName {
		if err := t.findRuns(); err != nil {
			return nil, err
		}
		tensors = append(tensors, *t)
	}
	slices.SortFunc(tensors, func(a, b fileTensor) int { return strings.Compare(a.name, b.name) })
	return tensors, nil
}

func (t *fileTensor) findRuns() error {
	width := t.width()
	for _, w := range t.parts {
		group := w.FileGroup
		if group == 0 {
			group = w.Shape[0]
		}
		if group < 0 || w.FileRow < 0 || w.FileStride < 0 {
			return fmt.Errorf("weight %s: negative FileGroup, FileRow or FileStride", w.Name)
		}
		for r := 0; r < w.Shape[0]; r += group {
			t.runs = append(t.runs, run{w.FileRow + r/group*w.FileStride, min(group, w.Shape[0]-r), w.Offset + r*width})
		}
	}
	slices.SortFunc(t.runs, func(a, b run) int { return a.row - b.row })
	next := 0
	for _, r := range t.runs {
		if r.row != next {
			return fmt.Errorf("tensor %s: its weights overlap or leave a hole between rows %d and %d", t.name, min(r.row, next), max(r.row, next))
		}
		next += r.count
	}
	if next != t.rows {
		return fmt.Errorf("tensor %s: its weights cover %d of %d rows", t.name, next, t.rows)
	}
	return nil
}

// blockRows is how many of a transposed tensor's [in] rows are held at a time.
func (t fileTensor) blockRows() int { return max(1, readChunk/4/t.rows) }

// read fills the tensor's weights in dst from its elements in the file.
func (t fileTensor) read(dst []float32, elements func(first int, dst []float32) error) error {
	width := t.width()
	if !t.transposed {
		for _, r := range t.runs {
			if err := elements(r.row*width, dst[r.at:r.at+r.count*width]); err != nil {
				return err
			}
		}
		return nil
	}
	block := make([]float32, min(t.blockRows(), width)*t.rows)
	for i := 0; i < width; i += t.blockRows() {
		n := min(t.blockRows(), width-i)
		if err := elements(i*t.rows, block[:n*t.rows]); err != nil {
			return err
		}
		for _, r := range t.runs {
			transpose(dst[r.at+i:], width, block[r.row:], t.rows, n, r.count)
		}
	}
	return nil
}

// transpose writes element j of row k of dst as element k of row j of src, for n elements j and count rows k; rows of dst are
// width apart, those of src stride. It goes by squares, of which each row is a cache line.
func transpose(dst []float32, width int, src []float32, stride, n, count int) {
	const side = 16
	var square [side][side]float32
	for k := 0; k < count; k += side {
		for j := 0; j < n; j += side {
			if k+side > count || j+side > n {
				for c := k; c < min(k+side, count); c++ {
					for l := j; l < min(j+side, n); l++ {
						dst[c*width+l] = src[l*stride+c]
					}
				}
				continue
			}
			for l := range side {
				square[l] = [side]float32(src[(j+l)*stride+k:])
			}
			for c := range side {
				to := (*[side]float32)(dst[(k+c)*width+j:])
				for l := range side {
					to[l] = square[l][c]
				}
			}
		}
	}
}

// write hands the tensor's elements to put, in the order of the file, from its weights in src.
func (t fileTensor) write(src []float32, put func([]float32) error) error {
	width := t.width()
	if !t.transposed {
		for _, r := range t.runs {
			if err := put(src[r.at : r.at+r.count*width]); err != nil {
				return err
			}
		}
		return nil
	}
	block := make([]float32, min(t.blockRows(), width)*t.rows)
	for i := 0; i < width; i += t.blockRows() {
		n := min(t.blockRows(), width-i)
		for _, r := range t.runs {
			for k := range r.count {
				for j, v := range src[r.at+k*width+i:][:n] {
					block[j*t.rows+r.row+k] = v
				}
			}
		}
		if err := put(block[:n*t.rows]); err != nil {
			return err
		}
	}
	return nil
}

// problems collects what is wrong with a model, so that all of it is told at once.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// err returns the first ten problems as an error about the file or folder named.
func (p problems) err(what string) error {
	const most = 10
	if len(p) == 0 {
		return nil
	}
	text := what + ": " + strings.Join(p[:min(len(p), most)], "\n\t")
	if len(p) > most {
		text += fmt.Sprintf("\n\tand %d more", len(p)-most)
	}
	return errors.New(text)
}
