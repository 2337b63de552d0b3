// Package numeric_test holds what specs compute against models of other people: small models of nine families with
// random weights, their logits, greedy tokens, losses, gradients and training runs, computed by Transformers in float32.
package numeric_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/parser"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/runtime/weights"
	"github.com/tfc-dev/tfc/spec"
)

// reference is one folder: the spec, its weights, and what is expected of it.
type reference struct {
	t        *testing.T
	dir      string
	spec     *spec.Spec
	expected *weights.File
	table    []ir.Weight
	weights  map[string]*ir.Tensor
}

func load(t *testing.T, dir string) *reference {
	t.Helper()
	s, err := parser.Load(filepath.Join(dir, "spec.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.HF.Differs) > 0 {
		t.Fatalf("the family cannot say %v", s.HF.Differs)
	}
	f, err := weights.Open(filepath.Join(dir, "expected.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := &reference{t: t, dir: dir, spec: s, expected: f, weights: map[string]*ir.Tensor{}}
	// The layout is that of the whole pipeline's function, where matrices are packed.
	r.table = ir.WeightTable(s, r.compile("train"))
	r.load()
	return r
}

// load reads the weights as a program does: the file into one buffer, by the table.
func (r *reference) load() {
	size := 0
	var infos []weights.Info
	for _, w := range r.table {
		infos = append(infos, weights.Info{Name: w.Name, Shape: w.Shape, Offset: w.Offset, Decay: w.Decay, File: w.File,
			FileTransposed: w.FileTransposed, FileRows: w.FileRows, FileRow: w.FileRow, FileGroup: w.FileGroup, FileStride: w.FileStride})
		if w.Offset < size {
			r.t.Fatalf("%s begins at %d, inside of the weight before it", w.Name, w.Offset)
		}
		size = w.Offset + w.Size()
	}
	buffer := make([]float32, size)
	if err := weights.Load(r.dir, infos, buffer); err != nil {
		r.t.Fatal(err)
	}
	for _, w := range r.table {
		x := ir.NewTensor(w.Shape...)
		for i := range x.Data {
			x.Data[i] = float64(buffer[w.Offset+i])
		}
		r.weights[w.Name] = x
	}
}

// compile builds a job and takes it through all passes.
func (r *reference) compile(job string) *ir.Func {
	r.t.Helper()
	f := ir.Build(r.spec, job)
	if err := passes.Run(f, passes.OptionsFor(r.spec, ir.TargetNamed("cpu")), "", nil); err != nil {
		r.t.Fatal(err)
	}
	return f
}

// both returns a job as built and after all passes.
func (r *reference) both(job string) map[string]*ir.Func {
	return map[string]*ir.Func{"built": ir.Build(r.spec, job), "optimised": r.compile(job)}
}

// state returns a fresh state with a copy of the weights.
func (r *reference) state() *ir.State {
	s := ir.NewState()
	for name, x := range r.weights {
		s.Weights[name] = tensor(x.Shape, slices.Clone(x.Data))
	}
	return s
}

func (r *reference) eval(f *ir.Func, s *ir.State, in map[string]*ir.Tensor) []*ir.Tensor {
	r.t.Helper()
	out, err := ir.Eval(f, in, s)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *reference) shape(name string) []int {
	r.t.Helper()
	t, ok := r.expected.Tensor(name)
	if !ok {
		r.t.Fatalf("%s has no %s", r.dir, name)
	}
	return t.Shape
}

func (r *reference) floats(name string) []float64 {
	r.t.Helper()
	n := 1
	for _, d := range r.shape(name) {
		n *= d
	}
	x := make([]float32, n)
	if err := r.expected.Read(name, x); err != nil {
		r.t.Fatal(err)
	}
	out := make([]float64, n)
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

func (r *reference) ints(name string) []float64 {
	r.t.Helper()
	n := 1
	for _, d := range r.shape(name) {
		n *= d
	}
	x := make([]int64, n)
	if err := r.expected.ReadInts(name, x); err != nil {
		r.t.Fatal(err)
	}
	out := make([]float64, n)
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// weight cuts w out of a tensor of the file's form, named as w's file with a prefix.
func (r *reference) weight(prefix string, w ir.Weight) []float64 {
	r.t.Helper()
	file := prefix + w.File
	if _, ok := r.expected.Tensor(file); !ok && w.File == "embed_out.weight" { // GPT-NeoX's head has another name in the file than in memory
		file = prefix + "lm_head.weight"
	}
	x, shape := r.floats(file), r.shape(file)
	out := make([]float64, w.Size())
	width := w.Size() / w.Shape[0]
	for row := range w.Shape[0] {
		from := row
		if w.FileGroup > 0 {
			from = w.FileRow + row/w.FileGroup*w.FileStride + row%w.FileGroup
		}
		for c := range width {
			at := from*width + c
			if w.FileTransposed && len(shape) == 2 {
				at = c*shape[1] + from
			}
			out[row*width+c] = x[at]
		}
	}
	return out
}

func tensor(shape []int, data []float64) *ir.Tensor { return &ir.Tensor{Shape: shape, Data: data} }

func vector(data ...float64) *ir.Tensor { return tensor([]int{len(data)}, data) }

func count(n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(i)
	}
	return x
}

// shift gives the targets of rows of length t: the next token, none at the end.
func shift(ids []float64, t int) []float64 {
	out := make([]float64, len(ids))
	for i := range out {
		if out[i] = -100; i%t != t-1 {
			out[i] = ids[i+1]
		}
	}
	return out
}

func repeat(x []float64, n int) (out []float64) {
	for range n {
		out = append(out, x...)
	}
	return out
}

// worst is the largest difference between two lists.
func worst(a, b []float64) float64 {
	d := 0.0
	for i := range a {
		if x := math.Abs(a[i] - b[i]); !(x <= d) {
			d = x
		}
	}
	return d
}

// relative is the Euclidean norm of the difference, by that of what is wanted.
func relative(got, want []float64) float64 {
	d, n := 0.0, 0.0
	for i := range want {
		d += (got[i] - want[i]) * (got[i] - want[i])
		n += want[i] * want[i]
	}
	return math.Sqrt(d / n)
}

func largest(x []float64) int {
	at := 0
	for i := range x {
		if x[i] > x[at] {
			at = i
		}
	}
	return at
}

// families lists the folders under kind: every preset must have one under hf.
func families(t *testing.T, kind string) []string {
	t.Helper()
	entries, err := os.ReadDir(kind)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestEveryPresetHasAReference(t *testing.T) {
	have := families(t, "hf")
	for _, p := range parser.Presets() {
		if !slices.Contains(have, p.Name) {
			t.Errorf("preset %s has no reference under golden/numeric/hf", p.Name)
		}
	}
}

func TestLogitsLossAndGradients(t *testing.T) {
	for _, name := range families(t, "hf") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := load(t, filepath.Join("hf", name))
			shape := r.shape("input_ids")
			rows, n := shape[0], shape[1]
			ids, want := r.ints("input_ids"), r.floats("logits")
			for kind, f := range r.both("logits") {
				var got []float64
				for row := range rows {
					out := r.eval(f, r.state(), map[string]*ir.Tensor{"tokens": vector(ids[row*n : (row+1)*n]...), "positions": vector(count(n)...)})
					got = append(got, out[0].Data...)
				}
				if d := worst(got, want); d > 1e-5 {
					t.Errorf("%s: logits differ by %g", kind, d)
				}
			}
			in := map[string]*ir.Tensor{"tokens": tensor(shape, ids), "targets": tensor(shape, shift(ids, n)), "positions": tensor(shape, repeat(count(n), rows))}
			loss := r.floats("loss")[0]
			for kind, f := range r.both("eval") {
				out := r.eval(f, r.state(), in)
				if out[1].Data[0] != float64(rows*(n-1)) || math.Abs(out[0].Data[0]/out[1].Data[0]-loss) > 1e-5 {
					t.Errorf("%s: loss %g over %g targets, want %g over %d", kind, out[0].Data[0]/out[1].Data[0], out[1].Data[0], loss, rows*(n-1))
				}
			}
			r.gradients(in, loss)
		})
	}
}

// gradients runs one training step without a learning rate.
func (r *reference) gradients(in map[string]*ir.Tensor, loss float64) {
	in = map[string]*ir.Tensor{"tokens": tensor(append([]int{1}, in["tokens"].Shape...), in["tokens"].Data), "positions": in["positions"],
		"targets": tensor(append([]int{1}, in["targets"].Shape...), in["targets"].Data), "lr": ir.Scalar(0), "step": ir.Scalar(1), "seed": ir.Scalar(1)}
	state := r.state()
	out := r.eval(r.compile("train"), state, in)
	if math.Abs(out[0].Data[0]-loss) > 1e-5 {
		r.t.Errorf("training loss %g, want %g", out[0].Data[0], loss)
	}
	for _, w := range r.table {
		got, want := state.Grads[w.Name].Data, r.weight("grad.", w)
		if r.cancels(w) {
			if zero := make([]float64, len(got)); worst(got, zero) > 1e-12 || worst(want, zero) > 1e-6 {
				r.t.Errorf("the gradient of %s is not zero: %g, and %g in the reference", w.Name, worst(got, zero), worst(want, zero))
			}
			continue
		}
		if d := relative(got, want); !(d <= 1e-4) {
			r.t.Errorf("the gradient of %s differs by %g", w.Name, d)
		}
	}
}

// cancels says whether w is the bias of keys that are not rotated: it adds the same to all scores of a row, which the
// softmax takes away, so its gradient is zero, and rounding in the reference.
func (r *reference) cancels(w ir.Weight) bool {
	return strings.HasSuffix(w.Name, ".k.bias") && r.spec.Model.Positions.At(0).Kind != "rope"
}

func TestGreedyTokens(t *testing.T) {
	for _, name := range families(t, "hf") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := load(t, filepath.Join("hf", name))
			want := r.ints("greedy")
			const prompt = 8
			logits := r.compile("logits")
			whole := slices.Clone(want[:prompt])
			for len(whole) < len(want) {
				out := r.eval(logits, r.state(), map[string]*ir.Tensor{"tokens": vector(whole...), "positions": vector(count(len(whole))...)})
				last := out[0].Data[(len(whole)-1)*r.spec.Model.VocabSize:]
				whole = append(whole, float64(largest(last)))
			}
			if !slices.Equal(whole, want) {
				t.Errorf("by logits: %v, want %v", whole, want)
			}
			prefill, decode := r.both("prefill"), r.both("decode")
			for kind := range prefill {
				state := r.state()
				cached := slices.Clone(want[:prompt])
				// The prompt in two pieces, then token by token.
				r.eval(prefill[kind], state, step(cached[:3], 0))
				out := r.eval(prefill[kind], state, step(cached[3:], 3))
				for {
					cached = append(cached, float64(largest(out[0].Data)))
					if len(cached) == len(want) {
						break
					}
					n := len(cached) - 1
					out = r.eval(decode[kind], state, step(cached[n:], n))
				}
				if !slices.Equal(cached, want) {
					t.Errorf("by cache, %s: %v, want %v", kind, cached, want)
				}
			}
		})
	}
}

// step is the input of a run of tokens at positions from first on, in slot 0.
func step(tokens []float64, first int) map[string]*ir.Tensor {
	positions := count(len(tokens))
	for i := range positions {
		positions[i] += float64(first)
	}
	return map[string]*ir.Tensor{"tokens": vector(tokens...), "positions": vector(positions...), "slots": vector(make([]float64, len(tokens))...)}
}

func TestTrainingRuns(t *testing.T) {
	for _, name := range families(t, "train") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := load(t, filepath.Join("train", name))
			shape := r.shape("batches") // step, micro-batch, row, token
			batches, losses, norms := r.ints("batches"), r.floats("losses"), r.floats("grad_norms")
			per := shape[1] * shape[2] * shape[3]
			state, f := r.state(), r.compile("train")
			for i := range shape[0] {
				ids := batches[i*per : (i+1)*per]
				lr := r.spec.Train.Optimizer.LR * min(1, float64(i+1)/5)
				out := r.eval(f, state, map[string]*ir.Tensor{"tokens": tensor(shape[1:], ids), "targets": tensor(shape[1:], shift(ids, shape[3])),
					"positions": tensor(shape[2:], repeat(count(shape[3]), shape[2])), "lr": ir.Scalar(lr), "step": ir.Scalar(float64(i + 1)), "seed": ir.Scalar(1)})
				if d := math.Abs(out[0].Data[0] - losses[i]); d > 1e-5 {
					t.Errorf("step %d: loss %g, want %g", i+1, out[0].Data[0], losses[i])
				}
				if d := math.Abs(out[1].Data[0]-norms[i]) / norms[i]; d > 1e-4 {
					t.Errorf("step %d: gradient norm %g, want %g", i+1, out[1].Data[0], norms[i])
				}
			}
			for _, w := range r.table {
				if r.cancels(w) { // AdamW makes steps of the reference's rounding
					continue
				}
				if d := relative(state.Weights[w.Name].Data, r.weight("final.", w)); !(d <= 1e-4) {
					t.Errorf("%s after %d steps differs by %g", w.Name, shape[0], d)
				}
			}
		})
	}
}
